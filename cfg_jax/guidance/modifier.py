"""What changes another rule: its weight, where it acts, or what it gives."""

import dataclasses
from typing import Any

import jax

from cfg_jax.conditioning import Condition, Conditioning
from cfg_jax.diffusion import ImageArray, PerImage
from cfg_jax.guidance import Evaluation, GuidanceLevel, Predictions, Rule
from cfg_jax.guidance.classifier_free import ClassifierFree


@dataclasses.dataclass(frozen=True)
class Modifier(Rule):
    """The rule `inner`, unchanged; subclasses change what they are for.

    Attributes:
      inner: the rule that is modified; 'projected+interval:highest=5' is Interval of Projected.
    """

    inner: Rule = dataclasses.field(default=ClassifierFree(), kw_only=True)

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:  # type: ignore[override]
        """Those of the inner rule."""
        return self.inner.evaluations

    @property
    def space(self) -> str:  # type: ignore[override]
        """That of the inner rule."""
        return self.inner.space

    @property
    def ancestral_only(self) -> bool:  # type: ignore[override]
        """As the inner rule."""
        return self.inner.ancestral_only

    @property
    def renoises(self) -> bool:  # type: ignore[override]
        """As the inner rule."""
        return self.inner.renoises

    @property
    def affine(self) -> bool:  # type: ignore[override]
        """As the inner rule."""
        return self.inner.affine

    @property
    def revision(self) -> int:  # type: ignore[override]
        """As the inner rule."""
        return self.inner.revision

    @property
    def unguided(self) -> Evaluation:
        """That of the inner rule."""
        return self.inner.unguided

    @property
    def unguided_at_zero(self) -> bool:
        """As the inner rule."""
        return self.inner.unguided_at_zero

    def active(self, logsnr: jax.Array) -> jax.Array | None:
        """As the inner rule."""
        return self.inner.active(logsnr)

    def init(self, z: jax.Array) -> Any:
        """The state of the inner rule."""
        return self.inner.init(z)

    def conditions(
        self, conditioning: Conditioning, condition: Condition, logsnr: jax.Array, keys: jax.Array
    ) -> dict[str, Condition]:
        """Those of the inner rule."""
        return self.inner.conditions(conditioning, condition, logsnr, keys)

    def time(self, evaluation: Evaluation, level: GuidanceLevel) -> jax.Array:
        """As the inner rule."""
        return self.inner.time(evaluation, level)

    def weight(self, level: GuidanceLevel, w: jax.Array) -> jax.Array:
        """As the inner rule."""
        return self.inner.weight(level, w)

    def combine(
        self, level: GuidanceLevel, w: PerImage, predictions: Predictions, state: Any
    ) -> tuple[ImageArray, Any]:
        """As the inner rule."""
        return self.inner.combine(level, w, predictions, state)

    def mean_gradient(self, w: PerImage, predictions: Predictions) -> ImageArray | None:
        """As the inner rule."""
        return self.inner.mean_gradient(w, predictions)

    def renoise(self, w: PerImage, predictions: Predictions) -> ImageArray | None:
        """As the inner rule."""
        return self.inner.renoise(w, predictions)
