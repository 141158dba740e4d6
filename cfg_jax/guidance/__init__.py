"""Guidance rules: how evaluations of networks combine into one guided prediction.

Convention, everywhere in this repository: `w` is the paper's guidance weight. w = 0 is the plain
conditional model; the scale `s` of many other codebases is s = 1 + w.

A new rule is one file with a frozen dataclass that extends `Rule`, and one line in `RULES`.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from cfg_jax.errors import UserError
from cfg_jax.registry import Registry

if TYPE_CHECKING:
    import jax

    from cfg_jax.conditioning import Condition, Conditioning
    from cfg_jax.diffusion import ImageArray, PerImage

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
            'at noise levels in (lowest, highest] only (Kynkaanniemi 2024)  [modifier]',
        ),
        'schedule': (
            'cfg_jax.guidance.schedule:WeightSchedule',
            'w as a function of the level: linear, cosine, ... (Wang 2024)  [modifier]',
        ),
        'rescale': (
            'cfg_jax.guidance.rescale:Rescale',
            'the deviation of the conditional prediction is kept (Lin 2024)  [modifier]',
        ),
        'threshold': (
            'cfg_jax.guidance.threshold:Threshold',
            'x is clipped, at 1 or at a quantile (Saharia 2022)  [modifier]',
        ),
        'channels': (
            'cfg_jax.guidance.channels:Channels',
            'on the first channels of latents only, as DiT and SiT publish  [modifier]',
        ),
        'negative': (
            'cfg_jax.guidance.negative:Negative',
            "away from a class, in the null condition's place or next to it",
        ),
        'composition': (
            'cfg_jax.guidance.composition:Composition',
            'several classes at once, AND and NOT (Liu 2022)',
        ),
        'two_conditions': (
            'cfg_jax.guidance.two_conditions:TwoConditions',
            'a weight for each part of a condition (Brooks 2023)',
        ),
        'autoguidance': (
            'cfg_jax.guidance.autoguidance:Autoguidance',
            'away from a worse model, given as guidance.network (Karras 2024)',
        ),
        'independent': (
            'cfg_jax.guidance.independent:Independent',
            'a random other condition stands for the null (ICG, Sadat 2024)',
        ),
        'time_step': (
            'cfg_jax.guidance.time_step:TimeStep',
            'away from the model shown a wrong noise level (TSG, Sadat 2024)',
        ),
        'perturbed_attention': (
            'cfg_jax.guidance.perturbed:PerturbedAttention',
            'away from the model with identity attention (PAG, Ahn 2024)',
        ),
        'smoothed_energy': (
            'cfg_jax.guidance.perturbed:SmoothedEnergy',
            'away from the model with blurred queries (SEG, Hong 2024)',
        ),
        'skip_layer': (
            'cfg_jax.guidance.perturbed:SkipLayer',
            'away from the model without some attention layers (SLG)',
        ),
        'projected': (
            'cfg_jax.guidance.projected:Projected',
            'adaptive projected guidance, in x, with momentum (APG, Sadat 2024)',
        ),
        'annealed_condition': (
            'cfg_jax.guidance.annealed_condition:AnnealedCondition',
            'noise on the condition, less at cleaner levels (CADS, Sadat 2024)  [modifier]',
        ),
        'cfg_plus_plus': (
            'cfg_jax.guidance.cfg_plus_plus:CFGPlusPlus',
            'DDIM that renoises with the unconditional eps (Chung 2024)',
        ),
        'cfg_zero_star': (
            'cfg_jax.guidance.cfg_zero_star:CFGZeroStar',
            'the unconditional velocity is scaled to fit, and zero at first (Fan 2025)',
        ),
        'tangential_damping': (
            'cfg_jax.guidance.tangential_damping:TangentialDamping',
            'the unconditional eps along the common direction only (TCFG, Kwon 2025)',
        ),
        'frequency_decoupled': (
            'cfg_jax.guidance.frequency_decoupled:FrequencyDecoupled',
            'low and high frequencies have weights of their own (FDG, Sadat 2025)',
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


def make_rule(spec: str | Rule) -> Rule:
    """The rule of a text: 'NAME', 'NAME:OPTION=VALUE,...', or 'RULE+MODIFIER+...'; a rule itself.

    Each modifier acts on the rule to its left: 'projected:eta=0.2+interval:highest=5'.

    Raises:
      UserError: an unknown name or option, a '+' before what is not a modifier, or neither a text
        nor a rule.
    """
    if isinstance(spec, Rule):
        return spec
    if not isinstance(spec, str):
        raise UserError(f"a guidance rule is a text such as 'interval:highest=5'; got {spec!r}")
    rule = None
    for part in re.split(r'\+(?!\d)', spec):  # 1e+5 is a number
        name, _, options = part.strip().partition(':')
        if rule is None:
            rule = RULES.make(name, options)
            continue
        if 'inner' not in {field.name for field in dataclasses.fields(RULES.load(name))}:
            raise UserError(f'{name!r} is not a modifier: it can only stand first in {spec!r}')
        rule = RULES.make(name, options, inner=rule)
    assert rule is not None
    return rule


class Evaluation(NamedTuple):
    """One evaluation of a network.

    Attributes:
      network: 'main' for the model that is sampled, 'guide' for another denoiser, 'classifier' for
        grad_z log p(c | z).
      condition: 'given', 'null', or another name of `Rule.conditions`.
      perturbation: an option of the network that changes its forward pass, such as
        `models.perturbation.Perturbation`; None for the network as it is.
      time: 'given', or another name that `Rule.time` knows.
    """

    network: str = 'main'
    condition: str = 'given'
    perturbation: Any = None
    time: str = 'given'


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
      renoises: whether it gives another eps for the way to the next level, which only samplers of
        that attribute take.
      affine: whether it is a sum with weights that add up to 1, the same for x as for eps.
      revision: of what it computes; a sweep of another one is not continued.
    """

    evaluations: ClassVar[tuple[Evaluation, ...]] = (CONDITIONAL, NULL)
    space: ClassVar[str] = 'eps'
    ancestral_only: ClassVar[bool] = False
    renoises: ClassVar[bool] = False
    affine: ClassVar[bool] = False
    revision: ClassVar[int] = 0

    @property
    def unguided(self) -> Evaluation:
        """The one evaluation wherever the rule is not active, and as a rule at w = 0."""
        return CONDITIONAL

    @property
    def unguided_at_zero(self) -> bool:
        """Whether w = 0 is `unguided` alone, as without terms that w does not weigh."""
        return True

    def nfe_per_level(self, w: float) -> int:
        """Evaluations of networks at weight `w` where the rule is active."""
        return 1 if w == 0 and self.unguided_at_zero else len(self.evaluations)

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

    def time(self, evaluation: Evaluation, level: GuidanceLevel) -> jax.Array:
        """The log-SNR that the network of an evaluation is shown at a level, [] or [B]."""
        return level.logsnr

    def weight(self, level: GuidanceLevel, w: jax.Array) -> jax.Array:
        """The guidance weight at a level, [B] or []."""
        return w

    def combine(
        self, level: GuidanceLevel, w: PerImage, predictions: Predictions, state: Any
    ) -> tuple[ImageArray, Any]:
        """The guided prediction [B, H, W, C] in `space`, and the next state.

        Args:
          level: where.
          w: guidance weights, [B] or [].
          predictions: of `evaluations`, [B, H, W, C] each.
          state: of the level before.
        """
        raise NotImplementedError

    def mean_gradient(self, w: PerImage, predictions: Predictions) -> ImageArray | None:
        """w grad_z log p, added to the mean of ancestral transitions times their variance."""
        return None

    def renoise(self, w: PerImage, predictions: Predictions) -> ImageArray | None:
        """eps that takes x~ to the next level, where it is not the guided one (CFG++)."""
        return None


def __getattr__(name: str) -> Any:
    # Found here without importing JAX for whoever reads the names only.
    if name == 'guide':
        from cfg_jax.guidance.classifier_free import guide

        return guide
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
