"""Every kind of network trains and samples, by config alone."""

import numpy as np
import pytest
from support import make_tiny_config

from cfg_jax import diffusion, loading
from cfg_jax.models import networks
from cfg_jax.registry import SCALINGS, SCHEDULES, TARGETS, WEIGHTINGS
from cfg_jax.training import loop
from cfg_jax.training.step import create_state

# (target, scaling, schedule, loss weighting): each name at least once.
RUNS = [
    ('eps', 'variance_preserving', 'cosine', 'eps'),
    ('v', 'variance_preserving', 'shifted_cosine', 'v'),
    ('x', 'edm', 'cosine_beta', 'x'),
    ('velocity', 'flow', 'linear_beta', 'velocity'),
    ('velocity', 'flow', 'flow', 'velocity'),
]


def test_every_name_is_tried():
    every = (TARGETS, SCALINGS, SCHEDULES, WEIGHTINGS)
    for which, names in zip(every, zip(*RUNS, strict=True), strict=True):
        assert set(which) == set(names)


@pytest.mark.parametrize(('target', 'scaling', 'schedule', 'weighting'), RUNS)
def test_trains_and_samples(toy_networks, tmp_path, target, scaling, schedule, weighting):
    config = make_tiny_config(
        target=target,
        loss_weighting=weighting,
        diffusion__scaling=scaling,
        diffusion__schedule=schedule,
        diffusion__shift=-1.0,
        diffusion__logsnr_min=-8.0,
        diffusion__logsnr_max=8.0,
        train__steps=4,
        train__sample_every=4,
    )
    start = create_state(config)
    loop.train(config, tmp_path / 'run')
    assert (tmp_path / 'run' / 'samples' / 'step_00000004.png').exists()
    model = loading.load(tmp_path / 'run')
    kernel = model.params['main']['params']['Conv_0']['kernel']
    assert np.abs(kernel - start.params['params']['Conv_0']['kernel']).max() > 1e-5
    denoiser = model.networks['main']
    assert (denoiser.target, denoiser.scaling) == (TARGETS.load(target), SCALINGS.load(scaling))
    for name in ('ancestral', 'ddim'):
        x = model.with_settings(sampler=name).generate(0, range(3), np.int32([3, 3, 7]), 2.0).x
        assert np.isfinite(x).all()
        assert np.abs(x).max() <= 1.0
        assert x.std() > 1e-3
    # Levels are those of the schedule that it was trained with.
    ends = networks.make_schedule(config)(np.float32([1.0, 0.0]))
    levels = model.sampler.grid.levels(4)
    np.testing.assert_allclose(levels[np.array([0, -1])], ends, rtol=1e-6)
    expected = -8.0, 8.0
    tables = {
        'linear_beta': diffusion.LinearBetaSchedule,
        'cosine_beta': diffusion.CosineBetaSchedule,
    }
    if schedule in tables:
        table = tables[schedule]().table()
        expected = table[-1], table[0]
    np.testing.assert_allclose(ends, expected, rtol=1e-4)
