"""The FID Inception with a user's weights, as a feature extractor of sweeps and evaluations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import UInt8
from ml_collections import ConfigDict

from cfg_jax import files
from cfg_jax.errors import UserError
from cfg_jax.metrics.features import EXTRACTORS, Features
from cfg_jax.metrics.features.conversion import KNOWN
from cfg_jax.metrics.features.inception_network import Inception, layers, served_taps

_TAPS = {'inception': '2048', 'inception768': '768'}  # what is pooled
_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}

_HOW = 'docs/metrics.md says where to get the weights and how to convert them'


class InceptionExtractor:
    """Pooled features, bias-free logits and the sFID map, as far as the weights go.

    Args:
      params: as `load_weights` returns.
      name: 'inception' (2,048 features, the published FID) or 'inception768' (the output of
        mixed_7, for weights that end there).
      dtype: of the convolutions, 'float32' (the protocol) or 'bfloat16' (faster; see
        `bfloat16_error`).
      record: joins the provenance.

    Raises:
      UserError: the weights lack layers that `name` needs.
    """

    logits_are_labels = False
    chunk = 64

    def __init__(self, params: Any, name: str, dtype: str, record: dict[str, Any]):
        served = served_taps(params)
        tap, self.distance = _TAPS[name], EXTRACTORS[name].distance
        if tap not in served:
            lacking = [layer for layer in layers(tap) if layer not in params]
            other = "; features 'inception768' can use them" if '768' in served else ''
            raise UserError(
                f'these weights lack {len(lacking)} layers that {name!r} needs'
                f' ({", ".join(lacking[:3])}, ...){other}'
            )
        self.name, self.params, self._tap = name, params, tap
        self._logits = name == 'inception' and 'logits' in served
        self._dtype, self._record = dtype, record
        taps = (tap, 'spatial', 'logits') if self._logits else (tap, 'spatial')
        self._net = Inception(taps, _DTYPES[dtype])

    def apply(self, params: Any, images: jax.Array) -> Features:
        """Features of uint8 RGB images [B, H, W, 3]; raises UserError for any other."""
        taps: Any = self._net.apply({'params': _as_variables(params)}, images)
        return Features(taps[self._tap], taps.get('logits'), taps['spatial'])

    def provenance(self) -> dict[str, Any]:
        """Name, SHA-256 and source of the weights, data type of the convolutions."""
        return {'name': self.name, 'distance': self.distance, 'dtype': self._dtype} | self._record

    def bfloat16_error(self, images: UInt8[np.ndarray, 'b h w c']) -> float:
        """|features in bfloat16 - in float32| / |in float32|, over a batch of uint8 images."""
        exact, rounded = (
            InceptionExtractor(self.params, self.name, dtype, {}) for dtype in _DTYPES
        )
        a = np.asarray(jax.jit(exact.apply)(self.params, images).pooled)
        b = np.asarray(jax.jit(rounded.apply)(self.params, images).pooled)
        return float(np.linalg.norm(b - a) / np.linalg.norm(a))


def load(config: ConfigDict, workdir: epath.Path) -> InceptionExtractor:
    """The extractor that `config.sweep.features` names, with the weights of `sweep.inception`.

    Raises:
      UserError: grey images, or as `from_file`.
    """
    del workdir
    sweep = config.sweep
    if config.data.channels != 3:
        raise UserError(
            f'sweep.features={sweep.features!r} needs RGB images; {config.data.name} is grey'
            " (data.channels=1): use 'classifier'"
        )
    return from_file(sweep.inception, sweep.features, sweep.dtype)


def from_file(path: epath.PathLike, name: str, dtype: str = 'float32') -> InceptionExtractor:
    """The extractor `name` with the weights of an `.npz` that `convert_inception.py` wrote.

    Raises:
      UserError: no path, no such file, a damaged or foreign one, or layers missing.
    """
    if not path:
        raise UserError(
            f'{name!r} needs the weights of the FID Inception: give their path with --inception (in'
            f' a config: sweep.inception); {_HOW}'
        )
    params, record = load_weights(path)
    return InceptionExtractor(params, name, dtype, record)


def load_weights(path: epath.PathLike) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """Parameters {layer: {'w', 'b'}} and what identifies them.

    Raises:
      UserError: see `from_file`.
    """
    path = files.as_path(path)
    if not path.exists():
        raise UserError(f'no Inception weights at {path}; {_HOW}')
    arrays = files.read_npz(path, advice=f'convert the weights again; {_HOW}')
    if 'source' in arrays:
        source = str(arrays.pop('source'))
    else:
        source = KNOWN.get(files.sha256_of_file(path), 'not recorded')
    params: dict[str, dict[str, np.ndarray]] = {}
    shapes = layers('logits')
    for key, value in arrays.items():
        layer, _, part = key.rpartition('/')
        if layer not in shapes or part not in ('w', 'b'):
            raise UserError(
                f'{path} holds {key!r}, which is not a layer of the FID Inception; {_HOW}'
            )
        shape = shapes[layer] if part == 'w' else shapes[layer][-1:]
        if value.shape != shape:
            raise UserError(
                f'{path}: {key} has the shape {value.shape}, not {shape}; convert the weights again'
            )
        if value.dtype.kind != 'f' or not np.isfinite(value).all():
            raise UserError(f'{path}: {key} holds no finite numbers; convert the weights again')
        params.setdefault(layer, {})[part] = value
    complete = {layer: parts for layer, parts in params.items() if len(parts) == 2}
    return complete, {'sha256': files.sha256_of_arrays(arrays), 'source': source}


def _as_variables(params: Any) -> dict[str, Any]:
    """Parameters under the names that Flax gives them."""
    variables = {
        name: {'kernel': parts['w'], 'bias': parts['b']}
        for name, parts in params.items()
        if name != 'softmax'
    }
    if 'softmax' in params:
        variables['softmax'] = {'kernel': params['softmax']['w']}
        variables['softmax_bias'] = params['softmax']['b']
    return variables
