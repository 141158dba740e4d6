"""Dropping a condition: its replacement by the null condition in training."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Num

from cfg_jax.conditioning import Condition, Conditioning
from cfg_jax.keys import Keys


def drop(
    conditioning: Conditioning, keys: Keys, condition: Condition, p_uncond: Num[ArrayLike, '']
) -> Condition:
    """c <- null with probability `p_uncond` (Algorithm 1), an independent draw per example.

    Args:
      conditioning: the kind of condition.
      keys: one key per example, [B].
      condition: a pytree of arrays [B, ...]; all leaves of an example are dropped together.
      p_uncond: probability of unconditional training, in [0, 1].

    Raises:
      ValueError: a leaf with another number of examples.
    """
    dropped = jax.vmap(lambda key: jax.random.bernoulli(key, p_uncond))(keys)  # [B]

    def replace(leaf: jax.Array, null: jax.Array) -> jax.Array:
        if leaf.shape[:1] != dropped.shape:
            raise ValueError(
                f'{len(dropped)} examples need as many conditions; got the shape {leaf.shape}'
            )
        return jnp.where(dropped.reshape(-1, *(1,) * (leaf.ndim - 1)), null, leaf)

    return jax.tree.map(replace, condition, conditioning.null(condition))
