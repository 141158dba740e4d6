"""The exponential moving average of parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def ema_decay(step: jax.Array, decay: float) -> jax.Array:
    """min(decay, (1 + n) / (10 + n)) at step n: a young average forgets its random start."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def update_ema(ema_params: Any, params: Any, step: jax.Array, decay: float) -> Any:
    """d ema + (1 - d) params with d = `ema_decay(step, decay)`."""
    return optax.incremental_update(params, ema_params, 1.0 - ema_decay(step, decay))
