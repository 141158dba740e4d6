"""A rule with its networks: the guided prediction that a sampler follows, and its cost."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cfg_jax import diffusion
from cfg_jax.conditioning import Condition, Conditioning
from cfg_jax.guidance import Evaluation, Rule
from cfg_jax.guidance.classifier import log_prob_gradient
from cfg_jax.models.denoiser import Denoiser, Prediction
from cfg_jax.registry import TARGETS


class GuidanceState(NamedTuple):
    """What is carried from level to level.

    Attributes:
      nfe: evaluations of networks so far, for each image, int32 [].
      rule: the rule's own state.
    """

    nfe: jax.Array
    rule: Any


@dataclasses.dataclass(frozen=True)
class GuidedDenoiser:
    """predict(z, logsnr, state): a rule's evaluations, each made once a level, and combined.

    Attributes:
      rule: what is evaluated, and how it combines.
      networks: 'main' and, where the rule asks for them, 'guide' (denoisers) and 'classifier'
        (classifier(params, z, logsnr) -> logits).
      params: of the networks, by the same names.
      conditioning: the kind of condition.
      condition: of the images, a pytree of arrays [B, ...].
      w: guidance weights, [B] or []; None is w = 0, at one evaluation a level.
    """

    rule: Rule
    networks: Mapping[str, Any]
    params: Mapping[str, Any]
    conditioning: Conditioning
    condition: Condition
    w: jax.Array | None = None

    def init(self, z: jax.Array) -> GuidanceState:
        """The state before the first level."""
        return GuidanceState(jnp.zeros((), jnp.int32), () if self.w is None else self.rule.init(z))

    def __call__(
        self, z: jax.Array, logsnr: jax.Array, state: GuidanceState
    ) -> tuple[Prediction, GuidanceState]:
        """The guided prediction at z [B, H, W, C] of the level logsnr [], and the next state."""
        if self.w is None:
            return self._unguided(z, logsnr, state)
        active = self.rule.active(logsnr)
        if active is None:
            return self._guided(z, logsnr, state)
        return jax.lax.cond(active, self._guided, self._unguided, z, logsnr, state)

    def _unguided(
        self, z: jax.Array, logsnr: jax.Array, state: GuidanceState
    ) -> tuple[Prediction, GuidanceState]:
        evaluation = self.rule.unguided
        prediction = self._evaluate((evaluation,), z, logsnr)[evaluation]
        return prediction, state._replace(nfe=state.nfe + 1)

    def _guided(
        self, z: jax.Array, logsnr: jax.Array, state: GuidanceState
    ) -> tuple[Prediction, GuidanceState]:
        evaluations, target = self.rule.evaluations, TARGETS.load(self.rule.space)
        results = self._evaluate(evaluations, z, logsnr)

        def in_space(result: Prediction | jax.Array) -> jax.Array:
            if not isinstance(result, Prediction):
                return result
            if target is diffusion.EPS:
                return result.eps
            return target.of(diffusion.x_from_eps(z, result.eps, logsnr), result.eps, logsnr)

        predictions = tuple(in_space(results[evaluation]) for evaluation in evaluations)
        combined, rule_state = self.rule.combine(z, logsnr, self.w, predictions, state.rule)
        diffusion.check_same_shape(z=z, guided=combined)
        prediction = Prediction(
            target.to_eps(z, combined, logsnr),
            results[self.rule.unguided].v,
            self.rule.mean_gradient(self.w, predictions),
        )
        return prediction, GuidanceState(state.nfe + len(evaluations), rule_state)

    def _evaluate(
        self, evaluations: tuple[Evaluation, ...], z: jax.Array, logsnr: jax.Array
    ) -> dict[Evaluation, Any]:
        """The result of each evaluation; those of one denoiser are one batch."""
        results: dict[Evaluation, Any] = {}
        for network in dict.fromkeys(evaluation.network for evaluation in evaluations):
            mine = [evaluation for evaluation in evaluations if evaluation.network == network]
            if network == 'classifier':
                results |= dict.fromkeys(mine, self._gradient(z, logsnr))
            else:
                results |= zip(mine, self._predictions(network, mine, z, logsnr), strict=True)
        return results

    def _gradient(self, z: jax.Array, logsnr: jax.Array) -> jax.Array:
        def classifier(z: jax.Array, logsnr: jax.Array) -> jax.Array:
            return self.networks['classifier'](self.params['classifier'], z, logsnr)

        return log_prob_gradient(classifier, z, logsnr, self.condition)

    def _predictions(
        self, network: str, evaluations: list[Evaluation], z: jax.Array, logsnr: jax.Array
    ) -> list[Prediction]:
        denoiser: Denoiser = self.networks[network]
        params = self.params[network]
        conditions = [
            self.condition
            if evaluation.condition == 'given'
            else self.conditioning.null(self.condition)
            for evaluation in evaluations
        ]
        if len(conditions) == 1:
            return [denoiser.predict(params, z, logsnr, conditions[0])]
        # Mapped over the conditions of an image, the network runs them as one batch, and what does
        # not depend on the condition once, on z.
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *conditions)  # [n, B, ...]
        mapped = jax.vmap(denoiser.predict, in_axes=(None, None, None, 0))
        both = mapped(params, z, logsnr, stacked)
        return [jax.tree.map(lambda leaf, i=i: leaf[i], both) for i in range(len(conditions))]
