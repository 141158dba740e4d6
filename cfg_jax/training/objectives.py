"""What a config trains its network to do, as a loss per example."""

from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from cfg_jax import losses
from cfg_jax.models import networks
from cfg_jax.registry import TARGETS, WEIGHTINGS

# Of each example, float32 [B] each: 'loss', 'logsnr', and what else is worth logging.
PerExample = dict[str, jax.Array]
# objective(params, dropout_key, x [B, H, W, C], label [B], keys [B]) -> PerExample
Objective = Callable[[Any, jax.Array, jax.Array, jax.Array, jax.Array], PerExample]


def make_objective(config: ConfigDict, *, train: bool = True) -> Objective:
    """The objective of `config.model.kind`: to denoise, or to classify noisy images.

    The training step minimises the mean of its 'loss'.

    Args:
      config: of the run.
      train: with dropout; without it the objective uses no dropout key.
    """
    make = _classify if config.model.kind == 'classifier' else _denoise
    return make(config, train)


def _denoise(config: ConfigDict, train: bool) -> Objective:
    """Algorithm 1."""
    denoiser, weighting = networks.make_denoiser(config), config.loss_weighting
    conditioning = networks.make_conditioning(config)
    settings: dict[str, Any] = {
        'conditioning': conditioning,
        'p_uncond': config.p_uncond,
        'schedule': networks.make_schedule(config),
        'target': TARGETS.load(config.target),
        # The paper's weight is 1, and costs no operation.
        'weight': None if weighting == 'eps' else WEIGHTINGS.load(weighting),
    }

    def objective(params, dropout_key, x, label, keys):
        def network(z, logsnr, condition):
            return denoiser.prediction(
                params, z, logsnr, condition, train=train, rngs={'dropout': dropout_key}
            )

        c = conditioning.from_labels(label)
        loss, logsnr = losses.algorithm_1(network, x, c, keys, **settings)
        return {'loss': loss, 'logsnr': logsnr}

    return objective


def _classify(config: ConfigDict, train: bool) -> Objective:
    """Dhariwal & Nichol 2021, section 4: p(c | z, logsnr) for classifier guidance."""
    model, schedule = networks.make_network(config), networks.make_schedule(config)

    def objective(params, dropout_key, x, label, keys):
        def classifier(z, logsnr):
            logits: Any = model.apply(params, z, logsnr, train=train, rngs={'dropout': dropout_key})
            return logits

        loss, correct, logsnr = losses.noisy_cross_entropy(classifier, x, label, keys, schedule)
        return {'loss': loss, 'accuracy': correct, 'logsnr': logsnr}

    return objective
