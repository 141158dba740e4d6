"""Conditions whose embedding carries noise, for condition-annealed sampling."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from cfg_jax.conditioning import Condition, Conditioning


@flax.struct.dataclass
class NoisyCondition:
    """A condition with how its embedding is disturbed; every field has a leading batch axis.

    Attributes:
      condition: a pytree of arrays [B, ...].
      gamma: share of the embedding that is kept, [B]; 1 keeps it exactly.
      scale: of the noise, [B].
      mix: share of the result that is standardised to the embedding's mean and deviation, [B].
      keys: of the noise, [B].
    """

    condition: Condition
    gamma: jax.Array
    scale: jax.Array
    mix: jax.Array
    keys: jax.Array


def encode(
    conditioning: Conditioning, condition: Condition, features: int, dtype: Any
) -> jax.Array:
    """`conditioning.encode`, with noise if the condition is a `NoisyCondition`: [B, features].

    y' = sqrt(gamma) y + scale sqrt(1 - gamma) n; y'' = (y' - mean) / std * std(y) + mean(y); the
    result is mix y'' + (1 - mix) y', each image by itself.
    """
    if not isinstance(condition, NoisyCondition):
        return conditioning.encode(condition, features, dtype)
    y = conditioning.encode(condition.condition, features, dtype).astype(jnp.float32)
    noise = jax.vmap(lambda key: jax.random.normal(key, (features,)))(condition.keys)
    gamma, scale, mix = (a[:, None] for a in (condition.gamma, condition.scale, condition.mix))
    noisy = jnp.sqrt(gamma) * y + scale * jnp.sqrt(1.0 - gamma) * noise
    mean, deviation = noisy.mean(1, keepdims=True), noisy.std(1, keepdims=True)
    standard = (noisy - mean) / jnp.maximum(deviation, 1e-12)
    standard = standard * y.std(1, keepdims=True) + y.mean(1, keepdims=True)
    disturbed = mix * standard + (1.0 - mix) * noisy
    # Exactly the embedding where nothing is disturbed: standardising rounds.
    return jnp.where(gamma == 1.0, y, disturbed).astype(dtype)
