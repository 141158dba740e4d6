"""The optimizer: what makes an update of a gradient that is clipped already."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from ml_collections import ConfigDict
from optax import contrib

# Of an element of Muon's updates, per learning rate: about Adam's, so that its rates fit both.
_RMS = 0.2
_BETA = 0.95  # of its momentum


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Adam or Muon, with `train.weight_decay` Loshchilov & Hutter's, times the learning rate."""
    train, rate = config.train, learning_rate(config)
    adam = {'b1': train.beta1, 'b2': train.beta2, 'eps': train.adam_eps}
    if train.optimizer == 'muon':
        optimizer = _muon(rate, train)
    elif train.weight_decay:
        # Their states differ, and a run without decay has checkpoints without one.
        optimizer = optax.adamw(rate, weight_decay=train.weight_decay, **adam)
    else:
        optimizer = optax.adam(rate, **adam)
    # The first was the clip, and checkpoints have its empty state.
    return optax.chain(optax.identity(), optimizer)


def _muon(rate: optax.Schedule, train: ConfigDict) -> optax.GradientTransformation:
    """Muon (Jordan 2024) of kernels; of everything else Adam, with Nesterov's step too.

    Of momentum M [fan in, fan out], with Nesterov's step, U V^T of its singular vectors is the
    update, times 0.2 sqrt(max(fan in, fan out)): its elements have a root mean square of 0.2 where
    M has full rank, as Adam's about have (Liu et al. 2025, arXiv 2502.16982). Five Newton-Schulz
    iterations find it, to singular values from 0.7 to 1.2.
    """
    return contrib.muon(
        rate,
        beta=_BETA,
        eps=train.adam_eps,
        weight_decay=train.weight_decay,
        adam_b1=train.beta1,
        adam_b2=train.beta2,
        adam_weight_decay=train.weight_decay,
        muon_weight_dimension_numbers=_matrices,
        consistent_rms=_RMS,
    )


def _matrices(params: Any) -> Any:
    """How a kernel [..., out] is a matrix [product of the others, out]; None for other parameters.

    A convolution's taps count among its inputs. An embedding has a row for each class of which a
    batch holds few, and stays Adam's.
    """

    def of(path: tuple[Any, ...], param: jax.Array) -> contrib.MuonDimensionNumbers | None:
        if getattr(path[-1], 'key', '') != 'kernel':
            return None
        *inputs, output = range(param.ndim)
        return contrib.MuonDimensionNumbers(tuple(inputs), output)

    return jax.tree_util.tree_map_with_path(of, params)


def learning_rate(config: ConfigDict) -> optax.Schedule:
    """lr(n) for the update after step n = 0, 1, ...

    learning_rate min(1, (n + 1) / warmup_steps), times max(0, 1 - n / anneal_steps) unless
    anneal_steps is 0.
    """
    train = config.train

    def schedule(count: ArrayLike) -> jax.Array:
        rate = train.learning_rate * jnp.minimum(1.0, (count + 1) / max(train.warmup_steps, 1))
        if train.anneal_steps:
            rate = rate * jnp.maximum(0.0, 1.0 - count / train.anneal_steps)
        return rate

    return schedule
