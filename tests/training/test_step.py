"""The arithmetic of one step, with the toy network; and of the U-Net's gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import make_tiny_config

from cfg_jax import losses
from cfg_jax.conditioning.label import Label
from cfg_jax.data import pipeline
from cfg_jax.distributed import devices as devices_lib
from cfg_jax.perf import benchmark
from cfg_jax.training import step as train_step

# Quick to compile, slow to run: right for a few steps of a small network.
FAST_COMPILE = {'xla_backend_optimization_level': 0}


@functools.cache
def toy_steps(count, *, devices=1, **changes):
    """[(state, metrics)] before the first step (metrics None) and after each of `count` steps.

    With the toy network, to be installed by the caller, and, unless changed, no clipping.
    """
    config = make_tiny_config(**{'train__grad_clip': 1e9} | changes)
    step = toy_step(devices=devices, **changes)
    state = train_step.create_state(config)
    history = [(jax.device_get(state), None)]
    batches = pipeline.TrainingBatches(config.data, batch_size=config.train.batch_size, seed=0)
    for _ in range(count):
        state, metrics = step(state, next(batches))
        history.append((jax.device_get(state), metrics))
    batches.close()
    return history


@functools.cache
def toy_step(*, devices=1, **changes):
    """step(state, batch [B, ...]) -> (state, metrics of one device), over an axis of devices.

    `vmap` stands for the `pmap` of `parallel.map_step` (compared in test_parallel): it takes
    compiler options and any number of devices.
    """
    config = make_tiny_config(**{'train__grad_clip': 1e9} | changes)
    per_device = train_step.make_train_step(config)
    mapped = jax.vmap(per_device, in_axes=(None, 0), out_axes=(None, 0), axis_name=devices_lib.AXIS)
    mapped = jax.jit(mapped, compiler_options=FAST_COMPILE)

    def step(state, batch):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax, 'local_device_count', lambda: devices)
            state, metrics = mapped(state, devices_lib.split_batch(batch))
        return state, jax.tree.map(lambda a: np.asarray(a[0]), metrics)

    return step


def largest_difference(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), a, b)))


def gradient_of(config, params, label, seed=0):
    """Mean gradient and losses of one batch of random images, through `make_gradient`."""
    keys = jax.random.split(jax.random.key(seed), len(label))
    shape = (len(label), config.data.image_size, config.data.image_size, config.data.channels)
    x = jax.random.uniform(jax.random.key(seed + 1), shape, minval=-1.0)
    gradient = jax.jit(train_step.make_gradient(config), compiler_options=FAST_COMPILE)
    return jax.device_get(
        gradient(params, jax.random.key(2), x, jnp.asarray(label, jnp.int32), keys)
    )


def label_rows(grads):
    """Largest entry of each row of the label table's gradient."""
    return np.abs(grads['params']['label']['embedding']).max(axis=1)


def test_null_row_learns_only_from_dropped_labels():
    config = make_tiny_config(
        p_uncond=0.0, model__channel_mult=(1,), model__attention_resolutions=()
    )
    params = benchmark.random_params(config)
    grads, _ = gradient_of(config, params, [3, 3, 7, 0])
    rows = label_rows(grads)
    assert np.flatnonzero(rows).tolist() == [0, 3, 7]
    config.p_uncond = 1.0
    grads, _ = gradient_of(config, params, [3, 3, 7, 0])
    assert np.flatnonzero(label_rows(grads)).tolist() == [config.data.num_classes]


def test_scan_and_written_out_loop_agree(toy_networks, monkeypatch):
    config = make_tiny_config(train__grad_accum=2)
    params = train_step.create_state(config).params
    written_out = gradient_of(config, params, range(8))
    lengths = []
    scan = jax.lax.scan
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    monkeypatch.setattr(
        jax.lax, 'scan', lambda *args: lengths.append(len(args[2][0])) or scan(*args)
    )
    scanned = gradient_of(config, params, range(8))
    assert lengths == [2]
    assert largest_difference(scanned, written_out) < 1e-6


def test_accumulated_training_is_the_same_training(toy_networks):
    whole, parts = toy_steps(4), toy_steps(4, train__grad_accum=4)
    start, end = whole[0][0], whole[-1][0]
    assert largest_difference(start.params, end.params) > 1e-3
    for (a, _), (b, _) in zip(whole, parts, strict=True):
        assert largest_difference(a.params, b.params) < 1e-5
    # Adam forgets the scale of a gradient, so parameters alone would hide a wrong one.
    for (_, a), (_, b) in zip(whole[1:], parts[1:], strict=True):
        for name in ('loss', 'grad_norm', 'bin_loss'):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, err_msg=name)


def test_ema_formula(toy_networks):
    history = toy_steps(5, train__ema_decay=0.25)
    expected = jax.tree.map(lambda a: a.astype(np.float64), history[0][0].params)
    decays = []
    for n, (state, _) in enumerate(history[1:]):
        decay = min(0.25, (1 + n) / (10 + n))
        decays.append(decay)
        expected = jax.tree.map(lambda e, p, d=decay: d * e + (1 - d) * p, expected, state.params)
        assert largest_difference(expected, state.ema_params) < 1e-6
    assert decays[0] == 0.1
    assert decays[-1] == 0.25


def test_the_ema_holds_copies(toy_networks):
    state = train_step.create_state(make_tiny_config())
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(buffers)) == len(buffers)
    assert largest_difference(state.params, state.ema_params) == 0.0


def test_warm_up(toy_networks):
    history = toy_steps(6, train__warmup_steps=4, train__learning_rate=8e-3)
    rates = [float(metrics['learning_rate']) for _, metrics in history[1:]]
    np.testing.assert_allclose(rates, [2e-3, 4e-3, 6e-3, 8e-3, 8e-3, 8e-3], rtol=1e-6)
    # Adam's first update is the learning rate in every direction with a gradient.
    moved = largest_difference(history[0][0].params, history[1][0].params)
    np.testing.assert_allclose(moved, 2e-3, rtol=1e-3)


def test_weight_decay_is_decoupled(toy_networks):
    """theta' = theta - lr (Adam's direction + weight_decay theta)."""
    (start, _), (plain, metrics) = toy_steps(1)
    _, (decayed, _) = toy_steps(1, train__weight_decay=0.25)
    rate = float(metrics['learning_rate'])
    expected = jax.tree.map(lambda a, p: a - rate * 0.25 * p, plain.params, start.params)
    assert largest_difference(decayed.params, expected) < 1e-6
    assert largest_difference(decayed.params, plain.params) > 1e-4


@pytest.mark.parametrize('parts', [{'train__grad_accum': 4}, {'devices': 4}])
def test_clips_the_mean_gradient(toy_networks, parts):
    """Adam's first moment after one step is (1 - beta1) times the gradient that it was given.

    The second is (1 - beta2) times its square.
    """
    free, free_metrics = toy_steps(4)[1]
    clipped, metrics = toy_steps(1, train__grad_clip=0.01, **parts)[1]
    mu_free, mu_clipped = free.opt_state[1][0].mu, clipped.opt_state[1][0].mu
    norm = float(optax.tree.norm(mu_free)) / 0.1
    assert norm > 0.02
    assert float(free_metrics['grad_norm']) == pytest.approx(norm, rel=1e-4)
    assert float(metrics['grad_norm']) == pytest.approx(norm, rel=1e-4)
    # Clipping the parts first would leave their mean shorter than the limit, and bent.
    assert float(optax.tree.norm(mu_clipped)) == pytest.approx(0.1 * 0.01, rel=1e-4)
    scaled = jax.tree.map(lambda m: m * (0.01 / norm), mu_free)
    assert largest_difference(scaled, mu_clipped) < 1e-7
    for adam in (free.opt_state[1][0], clipped.opt_state[1][0]):
        squares = jax.tree.map(lambda m: (1 - 0.999) * np.square(m / 0.1), adam.mu)
        largest = max(np.max(leaf) for leaf in jax.tree.leaves(squares))
        assert largest_difference(squares, adam.nu) < 1e-4 * largest


def test_metrics_describe_the_step(toy_networks):
    batch_size = 16
    (before, _), (after, metrics) = toy_steps(4)[:2]
    assert after.step == before.step + 1 == 1
    assert metrics['bin_count'].sum() == batch_size
    assert metrics['bin_count'].shape == (train_step.LOGSNR_BINS,)
    mean = metrics['bin_loss'].sum() / batch_size
    assert float(metrics['loss']) == pytest.approx(mean, rel=1e-5)
    assert float(metrics['param_norm']) == pytest.approx(
        float(optax.tree.norm(after.params)), rel=1e-5
    )
    update = jax.tree.map(lambda a, b: a - b, after.params, before.params)
    assert float(metrics['update_norm']) == pytest.approx(float(optax.tree.norm(update)), rel=1e-3)


@pytest.mark.parametrize('bad', [np.nan, np.inf, 1e30])  # the last one's square overflows
def test_a_gradient_without_a_finite_norm_is_left_out(bad, toy_networks, monkeypatch):
    """Though the loss is finite: nothing but the step's number changes."""
    config = make_tiny_config()

    def spoilt(params, *others):
        gradient, per_example = train_step.make_gradient(config)(params, *others)
        leaves, tree = jax.tree.flatten(gradient)
        return jax.tree.unflatten(tree, [leaves[0] + bad, *leaves[1:]]), per_example

    before = toy_steps(1)[0][0]
    for gradient, applied in ((spoilt, False), (train_step.make_gradient(config), True)):
        with monkeypatch.context() as patch:
            patch.setattr(train_step, 'make_gradient', lambda *_, g=gradient: g)
            one = train_step.make_train_step(config)
        one = jax.vmap(one, in_axes=(None, 0), out_axes=(None, 0), axis_name=devices_lib.AXIS)
        batch = {'image': np.zeros((1, 16, 8, 8, 1), np.float32)}
        batch['condition'] = np.zeros((1, 16), np.int32)
        after, metrics = jax.jit(one, compiler_options=FAST_COMPILE)(before, batch)
        assert np.isfinite(metrics['loss'][0])
        assert metrics['applied'][0] == applied
        assert after.step == before.step + 1
        kept, old = ((s.params, s.ema_params, s.opt_state) for s in (after, before))
        same = jax.tree.map(np.array_equal, kept, old)
        assert all(jax.tree.leaves(same)) == (not applied)


def test_bins_share_training_equally(tiny_config):
    edges = train_step.logsnr_bin_edges(tiny_config)
    assert edges.shape == (train_step.LOGSNR_BINS + 1,)
    np.testing.assert_allclose(edges[[0, -1]], [-20.0, 20.0], rtol=1e-5)
    keys = jax.random.split(jax.random.key(0), 20_000)
    label = jnp.zeros(20_000, jnp.int32)
    x = jnp.zeros((20_000, 1, 1, 1))
    _, logsnr = losses.algorithm_1(
        lambda z, logsnr, c: z, x, label, keys, conditioning=Label(10), p_uncond=0.1
    )
    counts, _ = np.histogram(logsnr, edges)
    assert np.abs(counts - 2000).max() < 5 * np.sqrt(2000 * 0.9)


def test_random_streams_differ_by_step_and_row(toy_networks):
    """The same parameters on the same image, again and again: only the draws differ."""
    batch = {
        'image': np.zeros((16, 8, 8, 1), np.float32),
        'condition': np.zeros(16, np.int32),
    }
    state = toy_steps(4)[0][0]
    step = toy_step()
    seen = [step(state.replace(step=np.int32(n)), batch)[1] for n in (0, 1, 2, 0)]
    assert len({float(metrics['loss']) for metrics in seen}) == 3
    assert seen[0]['loss'] == seen[3]['loss']
    assert all(np.count_nonzero(metrics['bin_count']) > 3 for metrics in seen)
