"""Class labels: int32 ids 0..num_classes - 1; the null label is the id num_classes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cfg_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Label:
    """A class id per image, int32 [B]; the null label has an embedding row of its own."""

    num_classes: int

    def example(self) -> jax.ShapeDtypeStruct:
        """One class id."""
        return jax.ShapeDtypeStruct((1,), jnp.int32)

    def null(self, condition: jax.Array) -> jax.Array:
        """`num_classes` for each image."""
        return jnp.full_like(condition, self.num_classes)

    def encode(self, condition: jax.Array, features: int, dtype: Any) -> jax.Array:
        """A row of a table [num_classes + 1, features], drawn from N(0, 1) at the start."""
        table = nn.Embed(
            self.num_classes + 1,
            features,
            embedding_init=nn.initializers.normal(1.0),
            dtype=dtype,
            name='label',
        )
        return table(condition)

    def draw(self, keys: jax.Array, indices: ArrayLike, rule: str) -> jax.Array:
        """Labels of images by number, int32 [B].

        `rule` 'uniform' draws each label independently from its image's key, as ADM's and the
        paper's protocol does; 'balanced' gives image i the class i mod num_classes.
        """
        if rule == 'balanced':
            return jnp.asarray(indices, jnp.int32) % self.num_classes
        return jax.vmap(lambda key: jax.random.randint(key, (), 0, self.num_classes))(keys)

    def from_labels(self, labels: jax.Array) -> jax.Array:
        """The class ids themselves."""
        return labels

    def from_user(self, values: Sequence[Any]) -> np.ndarray:
        """Class ids as int32 [B].

        Raises:
          UserError: an id that is not one of a class.
        """
        try:
            labels = np.asarray(values)
        except ValueError:  # lists of unequal lengths
            labels = np.zeros(0)
        if labels.ndim != 1 or not (labels.size and np.issubdtype(labels.dtype, np.integer)):
            raise UserError(
                f'labels are a list of whole numbers or names such as [3, 3, 7]; got {values!r}'
            )
        outside = labels[(labels < 0) | (labels >= self.num_classes)]
        if outside.size:
            raise UserError(
                f'the label {outside[0]} is out of range; classes are 0..{self.num_classes - 1}'
            )
        return labels.astype(np.int32)
