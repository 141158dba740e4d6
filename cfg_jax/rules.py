"""Guidance rules with their networks, ready for a generator: what a sampler is to follow.

The mathematics is in `guidance` and `classifier_guidance`; here it meets networks, as functions of
their parameters, which are arguments of a compiled generator.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from cfg_jax import (
    classifier_guidance,
    guidance,
)
from cfg_jax.guidance import (
    EpsFn,
    EpsTheta,
)
from cfg_jax.sampling import MeanShiftFn

# eps_theta(params, z [B, H, W, C], logsnr [B], label [B]) -> eps [B, H, W, C]
Network = Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]
# classifier(params, z [B, H, W, C], logsnr [B]) -> logits [B, num_classes]
ClassifierNetwork = Callable[[Any, jax.Array, jax.Array], jax.Array]

FORMS = ('mean', 'eps')


def network_passes(w: float) -> int:
    """Network passes that a step of classifier-free guidance takes at weight `w`.

    Of classifier guidance a fair guess: a pass, and a classifier's pass and gradient.
    """
    return 1 if w == 0 else 2


class Guided(NamedTuple):
    """What a sampler follows: eps~, and a shift of the ancestral mean where the rule has one."""

    eps_fn: EpsFn
    mean_shift_fn: MeanShiftFn | None = None


class Rule(Protocol):
    """A way to guide; `params` is whatever pytree the rule's networks take."""

    def unguided(self, params: Any, label: jax.Array) -> Guided:
        """w = 0, at one network pass a step."""
        ...

    def guided(self, params: Any, label: jax.Array, w: jax.Array, keys: jax.Array) -> Guided:
        """Any w [B]; `keys` [B] are the images' own, for rules that draw."""
        ...


class ClassifierFree:
    """The paper's rule, eq. (6); `params` are those of the network."""

    def __init__(self, network: Network, null_label: int):
        self._network = network
        self._null_label = null_label

    def unguided(self, params: Any, label: jax.Array) -> Guided:
        """eps_theta(z, c)."""
        return Guided(guidance.conditional(_bind(self._network, params), label))

    def guided(self, params: Any, label: jax.Array, w: jax.Array, keys: jax.Array) -> Guided:
        """(1 + w) eps_theta(z, c) - w eps_theta(z)."""
        del keys
        eps_theta = _bind(self._network, params)
        return Guided(guidance.classifier_free(eps_theta, label, self._null_label, w))


class ClassifierFreeInInterval(ClassifierFree):
    """The paper's rule at noise levels (lowest, highest], see `guidance.in_interval`."""

    def __init__(
        self, network: Network, null_label: int, lowest: float = 0.0, highest: float = math.inf
    ):
        super().__init__(network, null_label)
        self._lowest, self._highest = lowest, highest

    def guided(self, params: Any, label: jax.Array, w: jax.Array, keys: jax.Array) -> Guided:
        """Both passes inside of the interval, the conditional one alone outside."""
        inside = super().guided(params, label, w, keys).eps_fn
        outside = self.unguided(params, label).eps_fn
        return Guided(guidance.in_interval(inside, outside, self._lowest, self._highest))


class Projected(ClassifierFree):
    """Adaptive projected guidance, see `guidance.project`."""

    def __init__(
        self, network: Network, null_label: int, eta: float = 0.0, radius: float = math.inf
    ):
        super().__init__(network, null_label)
        self._project = functools.partial(guidance.project, eta=eta, radius=radius)

    def guided(self, params: Any, label: jax.Array, w: jax.Array, keys: jax.Array) -> Guided:
        """x~ = x_cond + w g', with g' the shortened and projected difference."""
        del keys
        pair_fn = guidance.pair(_bind(self._network, params), label, self._null_label)
        return Guided(lambda z, logsnr: self._project(*pair_fn(z, logsnr), z, logsnr, w))


class MainAndGuide(NamedTuple):
    """Parameters of `Autoguidance`."""

    main: Any
    guide: Any


class Autoguidance:
    """A worse model guides a better one, see `guidance.autoguidance`; `params` are `MainAndGuide`.

    Args:
      network: eps_theta(params, z, logsnr, label) of the main model.
      guide: the same of the guide, which may be another network.
    """

    def __init__(self, network: Network, guide: Network):
        self._network, self._guide = network, guide

    def unguided(self, params: MainAndGuide, label: jax.Array) -> Guided:
        """The main model by itself."""
        return Guided(guidance.conditional(_bind(self._network, params.main), label))

    def guided(
        self, params: MainAndGuide, label: jax.Array, w: jax.Array, keys: jax.Array
    ) -> Guided:
        """(1 + w) eps_main(z, c) - w eps_guide(z, c)."""
        del keys
        guide_fn = guidance.conditional(_bind(self._guide, params.guide), label)
        return Guided(guidance.autoguidance(self.unguided(params, label).eps_fn, guide_fn, w))


class GuidedNetworks(NamedTuple):
    """Parameters of `ClassifierGuidance`."""

    unet: Any
    classifier: Any


class ClassifierGuidance:
    """A classifier's gradient guides a diffusion model; `params` are `GuidedNetworks`.

    Args:
      network: eps_theta(params, z, logsnr, label).
      classifier: logits of p(c | z, logsnr).
      null_label: id of the null token.
      form: 'mean' shifts the mean of ancestral transitions, 'eps' shifts eps for any sampler; see
        `classifier_guidance`.
      conditional: whether the model that is guided knows the class too.

    Raises:
      ValueError: no such form.
    """

    def __init__(
        self,
        network: Network,
        classifier: ClassifierNetwork,
        null_label: int,
        *,
        form: str,
        conditional: bool,
    ):
        if form not in FORMS:
            raise ValueError(f'no form is called {form!r}; there are: {", ".join(FORMS)}')
        self._network = network
        self._classifier = classifier
        self._null_label = null_label
        self._form = form
        self._conditional = conditional

    def unguided(self, params: GuidedNetworks, label: jax.Array) -> Guided:
        """The model that is guided, by itself."""
        if not self._conditional:
            label = jnp.full_like(label, self._null_label)
        return Guided(guidance.conditional(_bind(self._network, params.unet), label))

    def guided(
        self, params: GuidedNetworks, label: jax.Array, w: jax.Array, keys: jax.Array
    ) -> Guided:
        """w times the gradient of log p(c | z)."""
        del keys
        eps_fn = self.unguided(params, label).eps_fn
        gradient_fn = functools.partial(
            classifier_guidance.log_prob_gradient,
            functools.partial(self._classifier, params.classifier),
            label=label,
        )
        if self._form == 'mean':
            return Guided(eps_fn, classifier_guidance.mean_shift(gradient_fn, w))
        return Guided(classifier_guidance.eps_shift(eps_fn, gradient_fn, w))


def _bind(network: Network, params: Any) -> EpsTheta:
    return functools.partial(network, params)
