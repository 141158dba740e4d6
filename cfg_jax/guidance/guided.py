"""A rule with its networks: the guided prediction that a sampler follows, and its cost."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from cfg_jax import diffusion, model_checks
from cfg_jax.conditioning import Condition, Conditioning
from cfg_jax.guidance import Evaluation, GuidanceLevel, Rule
from cfg_jax.guidance.classifier import log_prob_gradient
from cfg_jax.keys import stream
from cfg_jax.models import perturbation
from cfg_jax.models.denoiser import Denoiser, Prediction
from cfg_jax.registry import TARGETS


class GuidanceState(NamedTuple):
    """What is carried from level to level.

    Attributes:
      nfe: evaluations of networks so far, for each image, int32 [].
      rule: the rule's own state.
      calls: predictions so far, int32 []; they number the draws of rules that draw.
    """

    nfe: jax.Array
    rule: Any
    calls: jax.Array


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
      keys: of the images, for rules that draw, [B].
      w: guidance weights, [B] or []; None is unguided, at one evaluation a level.
    """

    rule: Rule
    networks: Mapping[str, Any]
    params: Mapping[str, Any]
    conditioning: Conditioning
    condition: Condition
    keys: jax.Array
    w: jax.Array | None = None

    def init(self, z: jax.Array) -> GuidanceState:
        """The state before the first level."""
        none = jnp.zeros((), jnp.int32)
        return GuidanceState(none, () if self.w is None else self.rule.init(z), none)

    def __call__(
        self,
        z: jax.Array,
        logsnr: jax.Array,
        state: GuidanceState,
        step: jax.Array | None = None,
    ) -> tuple[Prediction, GuidanceState]:
        """The guided prediction at z [B, H, W, C] of the level logsnr [], and the next state.

        Whether it is guided is decided at the level `step` [], by default at logsnr.
        """
        if self.w is None:
            return self._unguided(z, logsnr, state)
        guided = functools.partial(self._guided, self.w)
        active = self.rule.active(logsnr if step is None else step)
        if active is None:
            return guided(z, logsnr, state)
        return jax.lax.cond(active, guided, self._unguided, z, logsnr, state)

    def of_one_level(self, first: GuidanceState, last: GuidanceState) -> GuidanceState:
        """The count of all evaluations; of a rule's own state, such as momentum, one update."""
        return first._replace(nfe=last.nfe, calls=last.calls)

    def _unguided(
        self, z: jax.Array, logsnr: jax.Array, state: GuidanceState
    ) -> tuple[Prediction, GuidanceState]:
        level = self._level(z, logsnr, state)
        evaluation = self.rule.unguided
        prediction = self._evaluate((evaluation,), level)[evaluation]
        if self.w is not None:
            prediction = self._with_fields_of_guided(prediction)
        return prediction, state._replace(nfe=state.nfe + 1, calls=state.calls + 1)

    def _with_fields_of_guided(self, prediction: Prediction) -> Prediction:
        """What `jax.lax.cond` asks of its branches."""
        if self.rule.renoises:
            prediction = prediction._replace(renoise=prediction.eps)
        if self.rule.ancestral_only:
            prediction = prediction._replace(mean_gradient=jnp.zeros_like(prediction.eps))
        return prediction if self.rule.affine else prediction._replace(x=None)

    def _guided(
        self, weight: jax.Array, z: jax.Array, logsnr: jax.Array, state: GuidanceState
    ) -> tuple[Prediction, GuidanceState]:
        level = self._level(z, logsnr, state)
        evaluations, target = self.rule.evaluations, TARGETS.load(self.rule.space)
        results = self._evaluate(evaluations, level)

        def in_space(result: Prediction | jax.Array) -> jax.Array:
            if not isinstance(result, Prediction):
                return result
            if target is diffusion.EPS:
                return result.eps
            return target.of(result.to_x(z, logsnr), result.eps, logsnr)

        predictions = tuple(in_space(results[evaluation]) for evaluation in evaluations)
        w = self.rule.weight(level, weight)
        combined, rule_state = self.rule.combine(level, w, predictions, state.rule)
        diffusion.check_same_shape(z=z, guided=combined)
        unguided = results[self.rule.unguided]
        x = None
        if self.rule.affine and unguided.x is not None:
            each = tuple(results[evaluation].to_x(z, logsnr) for evaluation in evaluations)
            x, _ = self.rule.combine(level, w, each, state.rule)
        prediction = Prediction(
            target.to_eps(z, combined, logsnr),
            unguided.v,
            self.rule.mean_gradient(w, predictions),
            self.rule.renoise(w, predictions),
            x,
        )
        return prediction, GuidanceState(state.nfe + len(evaluations), rule_state, state.calls + 1)

    def _level(self, z: jax.Array, logsnr: jax.Array, state: GuidanceState) -> GuidanceLevel:
        # The same draws at every w, also where a level is not guided.
        number = state.calls * len(self.rule.evaluations)
        return GuidanceLevel(z, logsnr, stream(self.keys, number))

    def _evaluate(
        self, evaluations: tuple[Evaluation, ...], level: GuidanceLevel
    ) -> dict[Evaluation, Any]:
        """The result of each evaluation; those of one denoiser that differ by condition alone are
        one batch."""
        conditions = self.rule.conditions(
            self.conditioning, self.condition, level.logsnr, level.keys
        )
        results: dict[Evaluation, Any] = {}
        for batch in _batches(evaluations):
            if batch[0].network == 'classifier':
                results[batch[0]] = self._gradient(level)
            else:
                batch_conditions = [conditions[evaluation.condition] for evaluation in batch]
                predictions = self._predictions(batch[0], batch_conditions, level)
                results |= zip(batch, predictions, strict=True)
        return results

    def _gradient(self, level: GuidanceLevel) -> jax.Array:
        def classifier(z: jax.Array, logsnr: jax.Array) -> jax.Array:
            return self.networks['classifier'](self.params['classifier'], z, logsnr)

        return log_prob_gradient(classifier, level.z, level.logsnr, self.condition)

    def _predictions(
        self, evaluation: Evaluation, conditions: list[Condition], level: GuidanceLevel
    ) -> list[Prediction]:
        denoiser: Denoiser = self.networks[evaluation.network]
        params = self.params[evaluation.network]
        shown = self.rule.time(evaluation, level)
        options = {}
        if evaluation.perturbation is not None:
            options['perturbation'] = evaluation.perturbation

        def predict(condition: Condition) -> Prediction:
            return denoiser.predict(
                params, level.z, level.logsnr, condition, shown_logsnr=shown, **options
            )

        with perturbation.required(evaluation.perturbation):
            if len(conditions) == 1:
                return [predict(conditions[0])]
            # Mapped over the conditions of an image, the network runs them as one batch, and what
            # does not depend on the condition once, on z.
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *conditions)  # [n, B, ...]
            both = jax.vmap(predict)(stacked)
        return [jax.tree.map(lambda leaf, i=i: leaf[i], both) for i in range(len(conditions))]


def weights_of_images(
    rule: Rule, config: ConfigDict, w: ArrayLike, count: int
) -> np.ndarray | None:
    """`w` of `GuidedDenoiser` on the host: float32 [count], or None where the number 0 is unguided.

    Zeros alone are that number for a network that the rule cannot guide.

    Raises:
      UserError: see `model_checks.refusal`.
    """
    if not np.any(np.asarray(w)) and model_checks.refusal(rule, config, w):
        w = 0.0
    model_checks.check_guidance(rule, config, w)
    if model_checks.is_unguided(rule, w):
        return None
    return np.broadcast_to(np.asarray(w, np.float32), (count,))


def for_a_loop(
    networks: Mapping[str, Any], params: Mapping[str, Any], z: jax.Array, condition: Condition
) -> dict[str, Any]:
    """`params` with those of denoisers cast before the loop that uses them at every level."""
    cast = dict(params)
    for name, network in networks.items():
        if isinstance(network, Denoiser) and name in params:
            cast[name] = network.for_a_loop(params[name], z, jnp.zeros(()), condition)
    return cast


def _batches(evaluations: tuple[Evaluation, ...]) -> list[list[Evaluation]]:
    """Evaluations that differ by their condition alone, together."""
    batches: dict[Evaluation, list[Evaluation]] = {}
    for evaluation in dict.fromkeys(evaluations):
        batches.setdefault(evaluation._replace(condition=''), []).append(evaluation)
    return list(batches.values())
