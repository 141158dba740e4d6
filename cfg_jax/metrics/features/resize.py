"""The resize of the published protocol: TensorFlow 1's bilinear, as FID's Inception was fed."""

import jax
import jax.numpy as jnp
import numpy as np


def tf1_bilinear(images: jax.Array, size: int) -> jax.Array:
    """[B, H, W, C] -> float32 [B, size, size, C].

    align_corners off, no half-pixel centres, no antialiasing: output pixel i reads the source at
    i * in / out, between pixel lo = floor(.) and hi = min(lo + 1, in - 1). `jax.image.resize` and
    PyTorch's `interpolate` put the grid elsewhere and give another FID.
    """
    x = images.astype(jnp.float32)
    x = _stretch(x, size, axis=2)  # [B, H, size, C]
    return _stretch(x, size, axis=1)  # [B, size, size, C]


def _stretch(x: jax.Array, size: int, axis: int) -> jax.Array:
    source = x.shape[axis]
    # float32 throughout, as TensorFlow computes it.
    position = np.arange(size, dtype=np.float32) * np.float32(source / size)
    low = np.floor(position).astype(np.int32)
    high = np.minimum(low + 1, source - 1)
    shape = [1] * x.ndim
    shape[axis] = size
    fraction = (position - low).reshape(shape)
    lower, upper = jnp.take(x, low, axis), jnp.take(x, high, axis)
    return lower + (upper - lower) * fraction
