"""Random keys by image: image i under seed s has its own key, whatever the batch or the devices."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Key

Keys = Key[Array, ' B']  # one per image


def image_keys(seed: Integer[ArrayLike, ''], indices: Integer[ArrayLike, ' B']) -> Keys:
    """fold_in(key(seed), i) for each image number i of `indices` [B]: keys [B]."""
    root = jax.random.key(seed)
    return jax.vmap(lambda i: jax.random.fold_in(root, i))(jnp.asarray(indices))


def stream(keys: Keys, number: Integer[ArrayLike, '']) -> Keys:
    """fold_in(key, number) of each key [B]: an independent stream per image, keys [B]."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def per_image_noise(keys: Keys, shape: tuple[int, ...]) -> Float[Array, 'B ...']:
    """Standard normal noise [B, *shape], float32, from one key per image, keys [B]."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
