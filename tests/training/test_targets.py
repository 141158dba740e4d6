"""Every kind of network trains and samples, by config alone."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import make_tiny_config

from cfg_jax import diffusion, loading
from cfg_jax.keys import image_keys, stream
from cfg_jax.models import networks
from cfg_jax.registry import SCALINGS, SCHEDULES, TARGETS, WEIGHTINGS
from cfg_jax.training import loop
from cfg_jax.training.objectives import make_objective
from cfg_jax.training.step import create_state

# (target, scaling, schedule, loss weighting): each name at least once.
RUNS = [
    ('eps', 'variance_preserving', 'cosine', 'eps'),
    ('v', 'variance_preserving', 'shifted_cosine', 'v'),
    ('x', 'edm', 'cosine_beta', 'x'),
    ('velocity', 'flow', 'linear_beta', 'velocity'),
    ('velocity', 'flow', 'flow', 'velocity'),
]
TABLES = {
    'linear_beta': diffusion.LinearBetaSchedule,
    'cosine_beta': diffusion.CosineBetaSchedule,
}


def test_every_name_is_tried():
    every = (TARGETS, SCALINGS, SCHEDULES, WEIGHTINGS)
    for which, names in zip(every, zip(*RUNS, strict=True), strict=True):
        assert set(which) == set(names)


def settings(target, scaling, schedule, weighting):
    return {
        'target': target,
        'loss_weighting': weighting,
        'diffusion__scaling': scaling,
        'diffusion__schedule': schedule,
        'diffusion__shift': -1.0,
        'diffusion__logsnr_min': -8.0,
        'diffusion__logsnr_max': 8.0,
    }


@pytest.mark.parametrize('run', RUNS)
def test_the_loss_is_of_the_schedule_and_the_weighting(run, monkeypatch):
    """By the draws of the documented keys, with a network that predicts 0."""
    zeros = types.SimpleNamespace(apply=lambda params, z, *_, **__: jnp.zeros_like(z))
    monkeypatch.setattr('cfg_jax.models.networks.make_unet', lambda config: zeros)
    keys = image_keys(3, np.arange(64))
    x, label = jnp.full((64, 8, 8, 1), 0.5), jnp.zeros(64, jnp.int32)

    @jax.jit
    def both():
        configs = (make_tiny_config(**settings(*names)) for names in (run, (*run[:3], 'eps')))
        return [make_objective(config)((), jax.random.key(0), x, label, keys) for config in configs]

    ours, unweighted = both()
    u = np.asarray(jax.vmap(jax.random.uniform)(stream(keys, 1)), np.float64)
    logsnr = schedule64(run[2], u)
    np.testing.assert_allclose(ours['logsnr'], logsnr, rtol=0, atol=2e-4)
    weight = {
        'eps': np.ones(64),
        'x': np.exp(-logsnr),
        'v': 1 + np.exp(-logsnr),
        'velocity': (1 + np.exp(-logsnr / 2)) ** 2,
    }
    np.testing.assert_allclose(ours['loss'] / unweighted['loss'], weight[run[3]], rtol=1e-3)


def schedule64(name, u, low=-8.0, high=8.0, shift=-1.0):
    if name == 'flow':
        return np.clip(2 * np.log((1 - u) / u), low, high)
    if name in TABLES:
        return np.interp(999 * u, np.arange(1000), TABLES[name]().table())
    shift = shift if name == 'shifted_cosine' else 0.0
    ends = np.arctan(np.exp(-(np.array([high, low]) - shift) / 2))
    return shift - 2 * np.log(np.tan(ends[0] + (ends[1] - ends[0]) * u))


@pytest.mark.parametrize(('target', 'scaling', 'schedule', 'weighting'), RUNS)
def test_trains_and_samples(toy_networks, tmp_path, target, scaling, schedule, weighting):
    changes = settings(target, scaling, schedule, weighting)
    config = make_tiny_config(train__steps=4, train__sample_every=4, **changes)
    start = create_state(config)
    loop.train(config, tmp_path / 'run')
    assert (tmp_path / 'run' / 'samples' / 'step_00000004.png').exists()
    model = loading.load(tmp_path / 'run')
    kernel = model.params['main']['params']['Conv_0']['kernel']
    assert np.abs(kernel - start.params['params']['Conv_0']['kernel']).max() > 1e-5
    denoiser = model.networks['main']
    assert (denoiser.target, denoiser.scaling) == (TARGETS.load(target), SCALINGS.load(scaling))
    x = model.generate(0, range(3), np.int32([3, 3, 7]), 2.0).x
    assert np.isfinite(x).all()
    assert np.abs(x).max() <= 1.0
    assert x.std() > 1e-3
    # Levels are those of the schedule that it was trained with.
    ends = networks.make_schedule(config)(np.float32([1.0, 0.0]))
    levels = model.sampler.grid.levels(4)
    np.testing.assert_allclose(levels[np.array([0, -1])], ends, rtol=1e-6)
    expected = -8.0, 8.0
    if schedule in TABLES:
        table = TABLES[schedule]().table()
        expected = table[-1], table[0]
    np.testing.assert_allclose(ends, expected, rtol=1e-4)
