"""Attention by the kernel that suits the device."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

KERNELS = ('auto', 'xla')


def attend(
    q: Float[Array | np.ndarray, 'B T heads C'],
    k: Float[Array | np.ndarray, 'B S heads C'],
    v: Float[Array | np.ndarray, 'B S heads C'],
    kernel: str,
) -> Float[Array, 'B T heads C']:
    """softmax(q k^T / sqrt(C)) v over positions; [B, positions, heads, C].

    XLA's kernel writes the T x T weights to memory; cuDNN's flash attention does not, and exists
    for 16-bit heads on NVIDIA GPUs. `kernel` is 'auto' for cuDNN's where it exists and XLA's
    elsewhere, or 'xla'.
    """
    flash = kernel == 'auto' and has_flash_kernel(q.dtype, q.shape[-1])
    return jax.nn.dot_product_attention(q, k, v, implementation='cudnn' if flash else 'xla')


def has_flash_kernel(dtype: jnp.dtype, head_channels: int) -> bool:
    """Whether cuDNN's flash attention knows such heads here: compute capability 8.0, C <= 128."""
    device = jax.local_devices()[0]
    if device.platform != 'gpu' or 'cuda' not in device.client.platform_version:
        return False
    fits = dtype in (jnp.bfloat16, jnp.float16) and head_channels % 8 == 0 and head_channels <= 128
    return fits and float(device.compute_capability) >= 8.0
