"""Running a feature extractor over images: compiled, sharded over devices, double-buffered."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.data import images
from cfg_jax.distributed import devices
from cfg_jax.metrics.features import FeatureExtractor, Features

Extract = Callable[[Any, jax.Array | np.ndarray], Features]


@functools.lru_cache(maxsize=8)
def make_extract(extractor: FeatureExtractor) -> Extract:
    """`extract(params, x)`: features of images [B, H, W, C], in [-1, 1] or uint8, any B.

    Images in [-1, 1] are rounded to uint8 on the device first, as the protocol asks; those that are
    not finite, which rounding would make black, get features that are NaN. Each device takes its
    share, at most about `extractor.chunk` images at a time. The same extractor gets the same
    function, compiled once.
    """

    def share(params: Any, x: jax.Array) -> Features:
        chunks = -(-len(x) // extractor.chunk)
        if chunks == 1:
            return extractor.apply(params, x)
        x = _filled(x, chunks).reshape(chunks, -1, *x.shape[1:])  # [chunks, B / chunks, H, W, C]
        parts = jax.lax.map(lambda chunk: extractor.apply(params, chunk), x)
        return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), parts)

    shares = devices.map_rows(share, whole=1, split=1)

    def extract(params: Any, x: jax.Array) -> Features:
        pixels = x if x.dtype == jnp.uint8 else images.to_uint8(x)
        features = shares(params, _filled(pixels, jax.local_device_count()))
        features = jax.tree.map(lambda array: array[: len(x)], features)
        if x.dtype == jnp.uint8:
            return features
        finite = jnp.isfinite(x).all(axis=(1, 2, 3))
        return jax.tree.map(lambda a: jnp.where(finite[:, None], a, jnp.nan), features)

    return jax.jit(extract)


def shapes(extractor: FeatureExtractor, image_shape: Sequence[int], count: int) -> Features:
    """`jax.ShapeDtypeStruct`s of the features of `count` images (H, W, C); nothing is computed."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
    one = jax.eval_shape(extractor.apply, extractor.params, image)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((count, *a.shape[1:]), a.dtype), one)


def _filled(x: jax.Array, parts: int) -> jax.Array:
    """Repeats the last image until `parts` divides their number."""
    return jnp.concatenate([x, jnp.repeat(x[-1:], -len(x) % parts, axis=0)])


def extract_all(
    extractor: FeatureExtractor, batches: Iterable[np.ndarray], batch_size: int
) -> Iterator[Features]:
    """Features, as NumPy arrays, of each batch of images; one compilation for all.

    Args:
      batches: arrays [B, H, W, C] with B <= batch_size.
      batch_size: smaller batches are filled up, and cut again.
    """
    extract = make_extract(extractor)
    params = jax.device_put(extractor.params, devices.replicated())
    waiting = None
    for batch in batches:
        fill = np.repeat(batch[-1:], batch_size - len(batch), axis=0)
        dispatched = extract(params, np.concatenate([batch, fill])), len(batch)
        # A batch is fetched while the devices work on the next one.
        if waiting is not None:
            yield fetch(*waiting)
        waiting = dispatched
    if waiting is not None:
        yield fetch(*waiting)


def fetch(features: Features, count: int) -> Features:
    """The first `count` features as NumPy arrays."""
    return jax.tree.map(lambda array: array[:count], jax.device_get(features))


def concatenate(parts: Iterable[Features]) -> Features:
    """The features of all parts in one."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
