"""Benchmarks: what they count, what they compare, and that they run the real thing."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import (
    DIGITS,
    make_tiny_config,
    run_here,
    script,
    tiny_arguments,
    toy_second_branch,
    user_error,
)

from cfg_jax import settings
from cfg_jax.metrics.features import classifier
from cfg_jax.perf import benchmark, cost, operations


def test_training_is_timed_and_counted(toy_networks):
    config = make_tiny_config()
    row = benchmark.training(config, steps=2, rounds=3)
    assert row['batch_size'] == 16
    assert len(row['rounds']) == 3
    assert row['images_per_second'] == sorted(row['rounds'])[1]
    forward = cost.forward_flops(config)
    assert row['gflop_per_image'] == pytest.approx(3 * forward / 1e9)
    assert row['tflops'] == pytest.approx(3 * forward * row['images_per_second'] / 1e12)
    assert row['planned_memory_gib'] > 0
    assert row['compile_seconds'] > 0
    assert 'share_of_peak' not in row  # a CPU's is not known


def test_sampling_is_timed_and_counted(toy_networks):
    config = make_tiny_config()
    forward, steps = cost.forward_flops(config), config.sampler.num_steps
    bench = benchmark.Sampling(config)
    for w, a_step in {0.0: forward, 2.0: forward + toy_second_branch(config)}.items():
        row = bench.measure(w, rounds=1)
        assert row['gflop_per_image'] == pytest.approx(steps * a_step / 1e9)
        assert row['milliseconds'] == pytest.approx(1e3 / row['images_per_second'])


def test_an_interval_is_counted_by_its_passes(toy_networks):
    config = make_tiny_config(sampler__num_steps=8)
    rule, saved = benchmark.interval_rule(config)
    bench = benchmark.Sampling(config, rule)
    case = benchmark.Trajectory(bench, 2.0, nfe_saved=saved)
    row = benchmark.by_turns({'interval': case}, rounds=1)['interval']
    expected = 8 * cost.forward_flops(config) + 4 * toy_second_branch(config)
    assert row['gflop_per_image'] == pytest.approx(expected / 1e9)


def test_trajectories_take_turns():
    made = []

    class Fake:
        def run(self, w, extractor):
            return lambda: made.append(w) or 5

        def row(self, w, nfe_saved, rates):
            return rates | {'w': w}

    cases = {name: benchmark.Trajectory(Fake(), w) for name, w in (('a', 1.0), ('b', 2.0))}
    rows = benchmark.by_turns(cases, rounds=2)
    assert made == [1.0, 2.0] * 3  # the first round is not timed
    assert {name: row['w'] for name, row in rows.items()} == {'a': 1.0, 'b': 2.0}
    for row in rows.values():
        assert len(row['rounds']) == 2
        assert row['images_per_second'] == pytest.approx(sum(row['rounds']) / 2)


def test_three_steps_have_no_middle_half(toy_networks):
    config = make_tiny_config(sampler__num_steps=3)
    assert 'num_steps=3' in user_error(benchmark.interval_rule, config)


@pytest.mark.parametrize('grid', ['schedule', 'edm'])
@pytest.mark.parametrize(('steps', 'share'), [(8, 0.25), (9, 5 / 18), (4, 0.25)])
def test_the_interval_saves_the_share_it_says(toy_networks, steps, share, grid):
    """Which of the sampler's levels are guided: those in the middle, half of them."""
    config = make_tiny_config(sampler__num_steps=steps, sampler__grid=grid)
    rule, saves = benchmark.interval_rule(config)
    assert saves == pytest.approx(share)
    levels = settings.make_sampler(config).grid.levels(steps)
    inside = [bool(rule.active(level)) for level in levels]
    assert sum(inside) == steps - round(2 * share * steps)
    assert inside == sorted(inside[: steps // 2]) + sorted(inside[steps // 2 :], reverse=True)


def test_xla_counts_the_same_operations():
    """Our count against XLA's for a convolution, dense layers and attention of a usual size."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, h):
            h = nn.Conv(64, (3, 3), padding='VALID')(h)  # XLA leaves padded products out
            q = nn.Dense(64)(h).reshape(2, -1, 2, 32)
            return nn.Dense(64)(jax.nn.dot_product_attention(q, q, q))

    block, h = Block(), jnp.zeros((2, 18, 18, 32))
    params = block.init(jax.random.key(0), h)
    compiled = jax.jit(block.apply).lower(params, h).compile()
    theirs = compiled.cost_analysis()['flops']
    assert operations.count_flops(block.apply, params, h) == pytest.approx(theirs, rel=0.05)


def test_share_of_the_peak_of_a_known_device(toy_networks, monkeypatch):
    class Device:
        device_kind = 'NVIDIA H200'

    monkeypatch.setattr(benchmark.jax, 'devices', lambda: [Device])
    monkeypatch.setattr(benchmark.jax, 'device_count', lambda: 2)
    config = make_tiny_config(model__dtype='bfloat16')
    work = benchmark._work(config, {'images_per_second': 5.0}, flops=989e12)
    assert work['share_of_peak'] == pytest.approx(2.5)  # 5 of two devices' 2 images/s
    Device.device_kind = 'cpu'
    assert 'share_of_peak' not in benchmark._work(config, {'images_per_second': 5.0}, flops=1.0)


def test_bench_train_command(capsys, toy_networks, tmp_path):
    out = tmp_path / 'train.json'
    arguments = [f'--config={DIGITS}', '--batch_sizes=8,16', '--steps=1', '--rounds=1', '--input']
    status, lines, _ = run_here(
        capsys, 'scripts/bench_train.py', *arguments, f'--out={out}', *tiny_arguments()
    )
    assert status == 0
    result = json.loads(out.read_text())
    assert [row['batch_size'] for row in result['training']] == [8, 16]
    assert result['fits'] == {'batch_size': 16, 'grad_accum': 1, 'images_at_once': 16}
    assert result['with_input']['images_per_second'] > 0
    assert result['versions']['jax'] == jax.__version__
    assert json.loads(lines[-1]) == result


@pytest.mark.parametrize(
    ('batch_size', 'fits', 'devices', 'accum'),
    [(256, 256, 1, 1), (256, 100, 1, 4), (200, 160, 1, 2), (200, 160, 8, 5), (6, 1, 2, 3)],
)
def test_a_batch_is_cut_into_parts_that_the_devices_share(batch_size, fits, devices, accum):
    found = script('bench_train.py').fitting(batch_size, fits, devices)
    assert found['grad_accum'] == accum
    assert batch_size % (accum * devices) == 0


def test_bench_train_stops_where_memory_ends(capsys, monkeypatch):
    def no_room(config, steps, rounds, profile):
        assert not profile
        if config.train.batch_size > 8:
            raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')
        rate = {'images_per_second': 1.0, 'tflops': 1.0, 'compile_seconds': 1.0}
        return rate | {'batch_size': config.train.batch_size, 'planned_memory_gib': 1.0}

    monkeypatch.setattr(benchmark, 'training', no_room)
    arguments = [f'--config={DIGITS}', '--batch_sizes=8,16,32', *tiny_arguments()]
    status, lines, _ = run_here(capsys, 'scripts/bench_train.py', *arguments)
    assert status == 0
    assert '16 images do not fit' in lines
    result = json.loads(lines[-1])
    assert len(result['training']) == 1
    assert result['fits'] == {'batch_size': 16, 'grad_accum': 2, 'images_at_once': 8}
    status, _, errors = run_here(
        capsys, 'scripts/bench_train.py', f'--config={DIGITS}', '--batch_sizes=16'
    )
    assert status == 2
    assert '16 images do not fit' in errors[0]


def test_bench_sample_command(capsys, toy_networks, monkeypatch, tmp_path):
    monkeypatch.setattr(classifier, '_EPOCHS', 5)
    out = tmp_path / 'sample.json'
    arguments = [f'--config={DIGITS}', '--rounds=1', '--features', f'--workdir={tmp_path}']
    status, lines, _ = run_here(
        capsys, 'scripts/bench_sample.py', *arguments, f'--out={out}', *tiny_arguments()
    )
    assert status == 0
    result = json.loads(out.read_text())
    assert list(result['sampling']) == ['w = 0', 'guided', 'interval', 'guided, with features']
    assert result['interval_saves_nfe'] == 0.25
    assert result['metrics_milliseconds'] > 0
    assert json.loads(lines[-1]) == result


def test_mistakes(capsys, tmp_path):
    (tmp_path / 'guided_diffusion').mkdir()
    (tmp_path / 'guided_diffusion' / 'unet.py').touch()
    for name, arguments, words in (
        ('bench_train.py', ['--steps=0'], '--steps'),
        ('bench_train.py', ['--batch_sizes=0'], 'batch_size'),
        ('bench_sample.py', ['--w=0'], '--w'),
        ('bench_sample.py', ['--config=configs/digits_classifier.py'], 'classifier'),
        ('bench_peers.py', ['--peer=nowhere'], 'openai/guided-diffusion'),
        ('bench_peers.py', ['--peer={peer}', '--variants=fast'], 'eager'),
        ('bench_peers.py', ['--peer={peer}', '--rounds=0'], '--rounds'),
        ('bench_peers.py', ['--peer={peer}', '--work=resting'], 'got resting'),
        ('bench_peers.py', ['--peer={peer}', '--config.sampler.clip=False'], 'sampler.clip'),
        ('bench_peers.py', ['--peer={peer}', '--config=configs/digits_classifier.py'], 'U-Net'),
        ('bench_peers.py', ['--peer={peer}', '--train_batch=0'], '--train_batch'),
    ):
        arguments = [argument.format(peer=tmp_path) for argument in arguments]
        config = [] if any(a.startswith('--config=') for a in arguments) else [f'--config={DIGITS}']
        status, _, errors = run_here(capsys, f'scripts/{name}', *config, *arguments)
        assert status == 2
        assert words in errors[0]


def test_peers_are_compared_by_their_medians():
    peers = script('bench_peers.py')

    def side(name, training, sampling, **more):
        work = {'training': {'rounds': training}, 'sampling': {'rounds': sampling}}
        return {'variants': {name: work | more}}

    turns = [
        side('ours', [10.0, 12.0], [8.0]),
        side('eager', [4.0, 100.0], [2.0], max_difference=1e-6),
        side('ours', [12.0], [8.0]),
        side('eager', [6.0], [2.0], max_difference=1e-6),
    ]
    compared = peers.compare(turns)
    assert compared['eager']['training'] == 6.0
    assert compared['eager']['ours_over_it_training'] == 2.0
    assert compared['eager']['ours_over_it_sampling'] == 4.0
    text = peers.table(compared)
    assert '| guided-diffusion, eager | 6 | 2.00 x | 2 | 4.00 x | 1.0e-06 |' in text


def test_peers_are_compared_by_what_was_measured():
    peers = script('bench_peers.py')
    turns = [
        {'variants': {'ours': {'training': {'rounds': [12.0]}}}},
        {'variants': {'tuned': {'training': {'rounds': [8.0]}, 'max_difference': 1e-6}}},
    ]
    text = peers.table(peers.compare(turns))
    assert '| ours (JAX) | 12 | 1.00 x | - | - | 0.0e+00 |' in text
    assert '| guided-diffusion, tuned | 8 | 1.50 x | - | - | 1.0e-06 |' in text


def test_random_parameters_leave_nothing_at_zero(toy_networks):
    for leaf in jax.tree.leaves(benchmark.random_params(make_tiny_config())):
        assert np.all(np.asarray(leaf) != 0.0)
