"""Attention by the kernel that suits the device."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cfg_jax.models.sliced_sum import folded, sliced_sum

_LARGE = 512 * 512  # weights of a head, more than a core's cache holds of several images
_QUERIES = 256  # computed at a time where weights are large


def attend(
    q: Float[Array | np.ndarray, 'B T heads C'],
    k: Float[Array | np.ndarray, 'B S heads C'],
    v: Float[Array | np.ndarray, 'B S heads C'],
    kernel: str,
) -> Float[Array, 'B T heads C']:
    """softmax(q k^T / sqrt(C)) v over positions; [B, positions, heads, C].

    XLA's kernel, on CPUs `products`, writes the T x T weights to memory. Two others do not: cuDNN's
    flash attention, of 16-bit heads on NVIDIA GPUs, and `tpu_attention`, of bfloat16. `kernel` is
    'auto' for these where they run and XLA's elsewhere; 'cudnn' or 'pallas' for one of them
    wherever it knows the heads, whatever devices are here; or 'xla'.
    """
    (_, queries, heads, channels), keys = q.shape, k.shape[1]
    if kernel == 'auto':
        kernel = flash_kernel(jax.local_devices()[0])
    if kernel == 'cudnn' and knows_heads(q.dtype, channels):
        return jax.nn.dot_product_attention(q, k, v, implementation='cudnn')
    kernels = {'cpu': products, 'default': jax.nn.dot_product_attention}
    if kernel == 'pallas':
        from cfg_jax.models import tpu_attention  # Pallas takes a tenth of the start of a command

        if tpu_attention.knows(q.dtype, queries, keys, heads, channels):
            kernels['tpu'] = tpu_attention.attend
    return jax.lax.platform_dependent(q, k, v, **kernels)


def products(
    q: Float[Array | np.ndarray, 'B T heads C'],
    k: Float[Array | np.ndarray, 'B S heads C'],
    v: Float[Array | np.ndarray, 'B S heads C'],
) -> Float[Array, 'B T heads C']:
    """The same as products of matrices of a head, for CPUs: there JAX's takes 2 to 9 times as long.

    Where the weights are large, one image and a part of its queries after the other: they stay in
    the cache, and are computed again in reverse.
    """

    def of(heads: tuple[Array, ...]) -> Array:  # [..., positions, C]
        q, k, v = heads
        logits = jnp.matmul(
            q,
            jnp.swapaxes(k, -1, -2),
            preferred_element_type=jnp.promote_types(q.dtype, jnp.float32),
        )
        scaled = logits * q.shape[-1] ** -0.5
        # The shift cancels, so it needs no derivative.
        fixed = jax.lax.stop_gradient(scaled)
        weights = jnp.exp(scaled - jnp.max(folded(fixed, -1, jnp.maximum), -1, keepdims=True))
        total = sliced_sum(weights, (weights.ndim - 1,))[..., None]
        # Dividing the result, not the weights, saves a pass over them.
        weights = weights.astype(v.dtype)
        return (jnp.matmul(weights, v, preferred_element_type=total.dtype) / total).astype(v.dtype)

    def in_parts(heads: tuple[Array, ...]) -> Array:
        q, k, v = heads
        count = q.shape[-2] // _QUERIES if q.shape[-2] % _QUERIES == 0 else 1
        parts = jnp.stack(jnp.split(q, count, axis=-2))
        found = jax.lax.map(jax.checkpoint(lambda part: of((part, k, v))), parts)
        return jnp.concatenate(list(found), axis=-2)

    heads = tuple(jnp.moveaxis(a, 2, 1) for a in (q, k, v))
    large = q.shape[1] * k.shape[1] >= _LARGE
    return jnp.moveaxis(jax.lax.map(in_parts, heads) if large else of(heads), 1, 2)


def flash_kernel(device: jax.Device) -> str:
    """The kernel beside XLA's that runs on a device, present or described; 'xla' for none.

    cuDNN's needs compute capability 8.0.
    """
    if device.platform == 'tpu':
        return 'pallas'
    version = device.client.platform_version  # a described GPU's says its name
    if device.platform != 'gpu' or not ('cuda' in version or 'NVIDIA' in version):
        return 'xla'
    return 'cudnn' if float(device.compute_capability) >= 8.0 else 'xla'


def knows_heads(dtype: jnp.dtype, head_channels: int) -> bool:
    """Whether cuDNN's knows such heads: 16 bits and at most 128 channels, in eights."""
    return dtype in (jnp.bfloat16, jnp.float16) and head_channels % 8 == 0 and head_channels <= 128
