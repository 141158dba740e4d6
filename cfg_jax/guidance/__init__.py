"""Guidance rules: how evaluations of networks combine into one guided prediction.

Convention, everywhere in this repository: `w` is the paper's guidance weight. w = 0 is the plain
conditional model; the scale `s` of many other codebases is s = 1 + w.

A new rule is one file with a frozen dataclass that extends `Rule`, and one line in `RULES`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from cfg_jax.registry import Registry

if TYPE_CHECKING:
    import jax

    from cfg_jax.conditioning import Condition, Conditioning

Predictions = tuple['jax.Array', ...]  # of a rule's evaluations, [B, H, W, C] each

RULES = Registry(
    'guidance rule',
    {
        'classifier_free': (
            'cfg_jax.guidance.classifier_free:ClassifierFree',
            "the paper's: (1 + w) eps(z, c) - w eps(z)",
        ),
        'interval': (
            'cfg_jax.guidance.interval:Interval',
            'classifier-free at noise levels in (lowest, highest] only (Kynkaanniemi 2024)',
        ),
        'projected': (
            'cfg_jax.guidance.projected:Projected',
            'adaptive projected guidance, in x, with momentum (Sadat 2024)',
        ),
        'autoguidance': (
            'cfg_jax.guidance.autoguidance:Autoguidance',
            'away from a worse model, given as guidance.network (Karras 2024)',
        ),
        'classifier_mean': (
            'cfg_jax.guidance.classifier:ClassifierMean',
            "a classifier's gradient shifts the ancestral mean (Dhariwal & Nichol 2021)",
        ),
        'classifier_eps': (
            'cfg_jax.guidance.classifier:ClassifierEps',
            "a classifier's gradient shifts eps, for any sampler (Dhariwal & Nichol 2021)",
        ),
    },
)


class Evaluation(NamedTuple):
    """One evaluation of a network.

    Attributes:
      network: 'main' for the model that is sampled, 'guide' for another denoiser, 'classifier' for
        grad_z log p(c | z).
      condition: 'given', 'null', or another name of `Rule.conditions`.
      perturbation: an option of the network that changes its forward pass, such as
        `models.attention.Perturbation`; None for the network as it is.
    """

    network: str = 'main'
    condition: str = 'given'
    perturbation: Any = None


class GuidanceLevel(NamedTuple):
    """Where a rule combines predictions.

    Attributes:
      z: [B, H, W, C].
      logsnr: of the level, one for all images, [].
      keys: a random key per image for this level, [B].
    """

    z: jax.Array
    logsnr: jax.Array
    keys: jax.Array


CONDITIONAL = Evaluation()
NULL = Evaluation(condition='null')
GUIDE = Evaluation('guide')
CLASSIFIER = Evaluation('classifier')


@dataclasses.dataclass(frozen=True)
class Rule:
    """A guidance rule.

    Attributes:
      evaluations: what it combines, in this order.
      space: 'eps', 'x' or 'v': what the predictions of denoisers are given in.
      ancestral_only: whether it shifts the mean of transitions, which other samplers do not have.
    """

    evaluations: ClassVar[tuple[Evaluation, ...]] = (CONDITIONAL, NULL)
    space: ClassVar[str] = 'eps'
    ancestral_only: ClassVar[bool] = False

    @property
    def unguided(self) -> Evaluation:
        """The one evaluation at w = 0 and wherever the rule is not active."""
        return CONDITIONAL

    def nfe_per_level(self, w: float) -> int:
        """Evaluations of networks at weight `w` where the rule is active."""
        return 1 if w == 0 else len(self.evaluations)

    def active(self, logsnr: jax.Array) -> jax.Array | None:
        """Whether to guide at this level [], for all images; None where it always does."""
        return None

    def init(self, z: jax.Array) -> Any:
        """The state that it carries from level to level, a pytree."""
        return ()

    def conditions(
        self, conditioning: Conditioning, condition: Condition, logsnr: jax.Array, keys: jax.Array
    ) -> dict[str, Condition]:
        """What the names in `Evaluation.condition` stand for at a level.

        Args:
          conditioning: the kind of condition.
          condition: what is asked for, a pytree of arrays [B, ...].
          logsnr, keys: of the level, see `GuidanceLevel`.
        """
        return {'given': condition, 'null': conditioning.null(condition)}

    def time(self, evaluation: Evaluation, logsnr: jax.Array) -> jax.Array:
        """The log-SNR that the network of an evaluation is shown at the level logsnr, []."""
        return logsnr

    def combine(
        self, level: GuidanceLevel, w: jax.Array, predictions: Predictions, state: Any
    ) -> tuple[jax.Array, Any]:
        """The guided prediction [B, H, W, C] in `space`, and the next state.

        Args:
          level: where.
          w: guidance weights, [B] or [].
          predictions: of `evaluations`, [B, H, W, C] each.
          state: of the level before.
        """
        raise NotImplementedError

    def mean_gradient(self, w: jax.Array, predictions: Predictions) -> jax.Array | None:
        """w grad_z log p, added to the mean of ancestral transitions times their variance."""
        return None


def __getattr__(name: str) -> Any:
    # Found here without importing JAX for whoever reads the names only.
    if name == 'guide':
        from cfg_jax.guidance.classifier_free import guide

        return guide
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
