"""Conditions: what a model is conditioned on, as a pytree of arrays with a leading batch axis.

A new kind of condition is one file with a frozen dataclass of this interface, and one line in
`CONDITIONS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from cfg_jax.registry import Registry

if TYPE_CHECKING:
    import jax
    from jax.typing import ArrayLike

Condition = Any  # a pytree of arrays [B, ...]

CONDITIONS = Registry(
    'condition',
    {
        'label': ('cfg_jax.conditioning.label:Label', 'a class id per image'),
        'label_only': (
            'cfg_jax.conditioning.label_only:LabelOnly',
            'a class id per image, of networks that were trained without a null',
        ),
        'unconditional': (
            'cfg_jax.conditioning.label_only:Unconditional',
            'nothing: the class ids are for a classifier or a metric',
        ),
    },
)


class Conditioning(Protocol):
    """One kind of condition; a frozen dataclass, so that networks can hold it.

    A kind whose networks were trained without a null has the attribute `has_null = False`, and one
    whose networks see nothing of it `has_condition = False`.
    """

    def example(self) -> Condition:
        """`jax.ShapeDtypeStruct`s of the condition of one image, each [1, ...]."""
        ...

    def null(self, condition: Condition) -> Condition:
        """The null condition for as many images as `condition` has, same shapes and dtypes."""
        ...

    def encode(self, condition: Condition, features: int, dtype: Any) -> jax.Array:
        """Embedding [B, features] of a condition; called inside a Flax module's compact method."""
        ...

    def draw(self, keys: jax.Array, indices: ArrayLike, rule: str) -> Condition:
        """Conditions of images by number, for a sweep: `keys` [B] are the images' own."""
        ...

    def from_labels(self, labels: jax.Array) -> Condition:
        """The condition of training images by their class ids, int32 [B]; traceable."""
        ...

    def from_user(self, values: Sequence[Any]) -> Condition:
        """What a user names, one value per image, as a condition.

        Raises:
          UserError: a value out of range.
        """
        ...
