"""A feature extractor of fixed linear maps, and images for it."""

import jax.numpy as jnp
import numpy as np

from cfg_jax.metrics.features import Features

COUNT, SIDE = 23, 2


class Linear:
    """A feature extractor: fixed linear maps of the pixels."""

    name = 'linear'
    distance = 'FD-5'
    logits_are_labels = False
    chunk = 8

    def __init__(self, spatial=3, sha256='ab' * 32, name='linear'):
        self.name = name
        rng = np.random.default_rng(0)
        self.params = {'pooled': rng.normal(size=(SIDE * SIDE * 3, 5)).astype(np.float32)}
        if spatial:
            self.params['spatial'] = rng.normal(size=(12, spatial)).astype(np.float32)
        self._sha256 = sha256

    def apply(self, params, images):
        flat = images.reshape(len(images), -1).astype(jnp.float32) / 255.0
        spatial = flat @ params['spatial'] if 'spatial' in params else None
        return Features(flat @ params['pooled'], None, spatial)

    def provenance(self):
        return {'name': self.name, 'sha256': self._sha256}


def pixels():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
