"""Class labels of networks that were trained without a null: label-only, and unconditional ones."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from cfg_jax.conditioning.label import Label


@dataclasses.dataclass(frozen=True)
class LabelOnly(Label):
    """A class id per image, int32 [B], and no null: the network has not seen one.

    `null` gives the id num_classes, which has no row: the embedding is not a number, and so is
    every image made with it. Rules that need the null are refused before (`inference.Model`).
    """

    has_null: ClassVar[bool] = False

    def encode(self, condition: jax.Array, features: int, dtype: Any) -> jax.Array:
        """A row of a table [num_classes, features]."""
        table = nn.Embed(self.num_classes, features, dtype=dtype, name='label')
        return table(condition)


@dataclasses.dataclass(frozen=True)
class Unconditional(Label):
    """For networks that see no condition. The class ids are for others: a classifier, a metric."""

    has_condition: ClassVar[bool] = False

    def null(self, condition: jax.Array) -> jax.Array:
        """The condition itself: either way the network sees nothing of it."""
        return condition

    def encode(self, condition: jax.Array, features: int, dtype: Any) -> jax.Array:
        """Zeros."""
        return jnp.zeros((*condition.shape, features), dtype)
