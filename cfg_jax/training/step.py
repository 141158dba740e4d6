"""The train state and the step: Algorithm 1, mean over devices, clip, update, EMA."""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.layout import Layout, with_layout_constraint
from ml_collections import ConfigDict

from cfg_jax.distributed import devices
from cfg_jax.models import networks
from cfg_jax.training import posthoc_ema
from cfg_jax.training.ema import update_ema
from cfg_jax.training.norms import clip, global_norm
from cfg_jax.training.objectives import PerExample, make_objective
from cfg_jax.training.optimizer import learning_rate, make_optimizer

LOGSNR_BINS = 10
Metrics = dict[str, Any]
_INIT_STREAM = 2**32 - 1  # no step has this number


@flax.struct.dataclass
class TrainState:
    """Everything a step changes. Nothing random: random numbers follow from the seed and `step`."""

    step: jax.Array  # int32 []
    params: Any
    ema_params: Any
    opt_state: optax.OptState


@flax.struct.dataclass
class AveragedState(TrainState):
    """With the averages of `posthoc_ema`; checkpoints of runs without them have no such field."""

    averages: tuple[Any, ...]


def create_state(config: ConfigDict) -> TrainState:
    """The state before the first step, random from the config's seed."""
    model = networks.make_network(config)
    key = jax.random.fold_in(jax.random.key(config.seed), _INIT_STREAM)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), networks.inputs(config))

    @jax.jit
    def init() -> TrainState:
        params = model.init(key, *zeros)
        # The EMA must be a copy: a buffer that appears twice in a donated state cannot be donated.
        ema_params = jax.tree.map(jnp.copy, params)
        state = jnp.zeros((), jnp.int32), params, ema_params, make_optimizer(config).init(params)
        if config.train.averages_every:
            return AveragedState(*state, posthoc_ema.start(params))
        return TrainState(*state)

    return init()


def make_gradient(
    config: ConfigDict, machine: devices.Machine | None = None
) -> Callable[..., tuple[Any, PerExample]]:
    """gradient(params, dropout_key, x, condition, keys [B]) -> (mean gradient, PerExample).

    Works on `train.grad_accum` equal parts of the batch, one after the other.
    """
    objective = make_objective(config)
    parts = config.train.grad_accum

    def mean_loss(params, dropout_key, x, condition, keys):
        per_example = objective(params, dropout_key, x, condition, keys)
        return jnp.mean(per_example['loss']), per_example

    def gradient(params, dropout_key, x, condition, keys):
        def add_part(total, inputs):
            part, *part_of_batch = inputs
            key = jax.random.fold_in(dropout_key, part)
            grads, per_example = jax.grad(mean_loss, has_aux=True)(params, key, *part_of_batch)
            return jax.tree.map(lambda t, g: t + g / parts, total, grads), per_example

        split = jax.tree.map(
            lambda a: a.reshape(parts, a.shape[0] // parts, *a.shape[1:]), (x, condition, keys)
        )
        zeros = jax.tree.map(jnp.zeros_like, params)
        platform = (machine or devices.here()).platform
        scan = _written_out if platform == 'cpu' else jax.lax.scan
        grads, per_example = scan(add_part, zeros, (jnp.arange(parts), *split), parts)
        return grads, jax.tree.map(lambda a: a.reshape(-1), per_example)

    return gradient


def _written_out(body: Callable, carry: Any, inputs: Any, length: int) -> tuple[Any, Any]:
    """`lax.scan` without a loop, inside of which gradients of convolutions are slow on CPU."""
    outputs = []
    for i in range(length):
        carry, output = body(carry, jax.tree.map(lambda a, i=i: a[i], inputs))
        outputs.append(output)
    return carry, jax.tree.map(lambda *parts: jnp.stack(parts), *outputs)


def make_train_step(
    config: ConfigDict, machine: devices.Machine | None = None
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """The per-device step(state, batch) -> (state, metrics), for `devices.map_step`.

    The config's objective (Algorithm 1) on this device's share of the batch, the gradient's mean
    over devices, clip, update, EMA. Draws are made per row of the global batch, so they do not
    depend on the devices; only dropout masks do. Metrics are equal on all devices.

    Args:
      config: of the run.
      machine: another one than this, to be compiled for.
    """
    gradient, optimizer = make_gradient(config, machine), make_optimizer(config)
    bin_edges = jnp.asarray(logsnr_bin_edges(config)[1:-1])
    norm = functools.partial(global_norm, platform=(machine or devices.here()).platform)

    def update(state: TrainState, grads: Any, loss: jax.Array) -> tuple[Any, Metrics]:
        grad_norm = norm(grads)
        # One bad batch must not spoil weeks: such an update is left out, the step counts. These two
        # decide, before anything is written in the old state's place: clipped, a gradient with a
        # finite norm has finite squares, and so has what the optimizer makes of it.
        applied = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        clipped = clip(grads, grad_norm, config.train.grad_clip)
        updates, opt_state = optimizer.update(clipped, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = update_ema(state.ema_params, params, state.step, config.train.ema_decay)
        new, old = (
            (params, ema_params, opt_state),
            (state.params, state.ema_params, state.opt_state),
        )
        kept = jax.tree.map(lambda n, o: jnp.where(applied, n, o), new, old)
        # Norms of just these: of others XLA makes passes over the parameters of their own.
        norms = {'param_norm': norm(kept[0]), 'update_norm': norm(updates)}
        return kept, {'applied': applied, 'grad_norm': grad_norm, **norms}

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        rows = devices.global_rows(batch['image'].shape[0], machine)
        keys = jax.vmap(lambda row: jax.random.fold_in(step_key, row))(rows)
        dropout_key = jax.random.fold_in(step_key, jax.lax.axis_index(devices.AXIS))
        grads, per_example = gradient(
            state.params, dropout_key, batch['image'], batch['condition'], keys
        )
        grads = devices.mean(jax.tree.map(_laid_out_as_parameters, grads))
        kept, metrics = update(state, grads, devices.mean(jnp.mean(per_example['loss'])))
        metrics |= _means(per_example, bin_edges)
        metrics |= {'learning_rate': learning_rate(config)(state.step)}
        step = state.step + 1
        if isinstance(state, AveragedState):
            averages = posthoc_ema.update(state.averages, kept[0], step)
            return AveragedState(step, *kept, averages=averages), metrics
        return TrainState(step, *kept), metrics

    return train_step


def _laid_out_as_parameters(gradient: jax.Array) -> jax.Array:
    """The same array: with row-major memory, as parameters have.

    Libraries write gradients of convolutions in an order of their own; XLA would keep it through
    optimizer and average, and transpose each of their results.
    """
    return with_layout_constraint(gradient, Layout(tuple(range(gradient.ndim))))


def _means(per_example: PerExample, bin_edges: jax.Array) -> Metrics:
    """Means over all devices, and sums over the examples of each bin of log-SNR."""
    per_example = dict(per_example)
    bins = jnp.searchsorted(bin_edges, per_example.pop('logsnr'))
    in_bin = jax.nn.one_hot(bins, LOGSNR_BINS, dtype=bool)  # [B, bins]
    metrics = {name: devices.mean(jnp.mean(value)) for name, value in per_example.items()}
    metrics |= {
        # Chosen, not multiplied by 0: what is not finite stays in its own bin.
        f'bin_{name}': devices.total(jnp.sum(jnp.where(in_bin, value[:, None], 0.0), axis=0))
        for name, value in per_example.items()
    }
    return metrics | {'bin_count': devices.total(jnp.sum(in_bin, axis=0))}


def logsnr_bin_edges(config: ConfigDict) -> np.ndarray:
    """Ascending edges of the bins of the logged loss; each bin gets an equal share of training."""
    u = np.linspace(1.0, 0.0, LOGSNR_BINS + 1, dtype=np.float32)
    return np.asarray(networks.make_schedule(config)(u))
