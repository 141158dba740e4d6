"""Guidance away from the model with weakened self-attention: PAG, SEG and skip-layer guidance."""

import dataclasses

from cfg_jax.guidance import CONDITIONAL, Evaluation
from cfg_jax.guidance.classifier_free import ClassifierFree
from cfg_jax.models.perturbation import Perturbation


@dataclasses.dataclass(frozen=True)
class _Perturbed(ClassifierFree):
    """(1 + w) eps(z, c) - w eps'(z, c), eps' with weakened attention; no null condition is needed.

    Attributes:
      layers: names of the attention layers that are weakened, parts of names joined by '/', such
        as 'middle' or 'up_1/down_1'; the published choice is the middle of the network. Of a DiT
        they are 'block_0', ...; 'middle' is that at half the depth.
    """

    layers: str = 'middle'

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:  # type: ignore[override]
        """The model, and the model perturbed."""
        return CONDITIONAL, Evaluation(perturbation=self.perturbation())

    def perturbation(self) -> Perturbation:
        """How the second evaluation is weakened."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class PerturbedAttention(_Perturbed):
    """PAG (Ahn et al. 2024): in the perturbed model every position attends to itself alone."""

    def perturbation(self) -> Perturbation:
        """softmax(q k^T) v becomes v."""
        return Perturbation('identity', self.layers)


@dataclasses.dataclass(frozen=True)
class SmoothedEnergy(_Perturbed):
    """SEG (Hong 2024): in the perturbed model queries are blurred over positions.

    Attributes:
      blur: deviation of the Gaussian in positions; infinite is the mean query, 0 no perturbation.
    """

    blur: float = 10.0

    def __post_init__(self) -> None:
        if not self.blur >= 0:
            raise ValueError(f'blur is at least 0; got {self.blur}')

    def perturbation(self) -> Perturbation:
        """q becomes a Gaussian average of q."""
        return Perturbation('blur', self.layers, self.blur)


@dataclasses.dataclass(frozen=True)
class SkipLayer(_Perturbed):
    """Skip-layer guidance: the perturbed model leaves the attention layers out."""

    def perturbation(self) -> Perturbation:
        """The whole residual branch becomes 0."""
        return Perturbation('skip', self.layers)
