"""What a config trains its network to do, as a loss per example."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from cfg_jax import (
    losses,
    models,
)
from cfg_jax.losses import Draws

# Scores of each example, float32 [B] each: 'loss', and what else is worth logging.
Scores = dict[str, jax.Array]


class Objective(NamedTuple):
    """A loss of a config's network.

    Attributes:
      p_uncond: probability of the null label among the draws.
      score: score(params, dropout_key, x [B, H, W, C], draws) -> Scores; the step minimises the
        mean of its 'loss'.
    """

    p_uncond: float
    score: Callable[[Any, jax.Array, jax.Array, Draws], Scores]


def make_objective(config: ConfigDict) -> Objective:
    """The objective of `config.model.kind`: to predict eps, or to classify noisy images."""
    return {'unet': _predict_eps, 'classifier': _classify}[config.model.kind](config)


def _predict_eps(config: ConfigDict) -> Objective:
    """Algorithm 1."""
    model = models.make_network(config)

    def score(params, dropout_key, x, draws):
        def eps_theta(z, logsnr, label):
            return model.apply(params, z, logsnr, label, train=True, rngs={'dropout': dropout_key})

        return {'loss': losses.eps_mse(eps_theta, x, draws)}

    return Objective(config.p_uncond, score)


def _classify(config: ConfigDict) -> Objective:
    """Dhariwal & Nichol 2021, section 4: p(c | z, logsnr) for classifier guidance."""
    model = models.make_network(config)

    def score(params, dropout_key, x, draws):
        def classifier_fn(z, logsnr):
            return model.apply(params, z, logsnr, train=True, rngs={'dropout': dropout_key})

        loss, correct = losses.cross_entropy(classifier_fn, x, draws)
        return {'loss': loss, 'accuracy': correct}

    return Objective(0.0, score)
