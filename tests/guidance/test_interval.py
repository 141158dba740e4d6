"""Guidance at some noise levels only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guided import constant, eps_fn, guided, normal_eps
from support import user_error

from cfg_jax import diffusion
from cfg_jax.guidance import RULES
from cfg_jax.guidance.interval import Interval, logsnr_of_noise_level
from cfg_jax.samplers import SAMPLERS
from cfg_jax.samplers.grids import EDMGrid
from cfg_jax.samplers.loop import sample_loop

SHAPE = (4, 3, 2, 1)
LABEL = np.zeros(4, np.int32)


def by_condition(z, logsnr, label):
    """1 for the label 0, 0 for the null label: guided with w = 1 it is 2."""
    return np.ones(SHAPE, np.float32) * (label == 0)[:, None, None, None]


def found(rule, level):
    eps = eps_fn(rule, by_condition, LABEL, 1.0)(np.zeros(SHAPE, np.float32), level)
    assert len(np.unique(eps)) == 1
    return float(eps[0, 0, 0, 0])


def test_which_levels_are_guided():
    """s in (0.5, 2]: log-SNR in [-2 ln 2, 2 ln 2)."""
    rule = Interval(lowest=0.5, highest=2.0)
    edge = np.float32(2 * np.log(2.0))
    levels = [-20.0, -edge - 1e-3, -edge + 1e-3, 0.0, edge - 1e-3, edge + 1e-3, 20.0]
    assert [found(rule, level) for level in levels] == [1, 1, 2, 2, 2, 1, 1]


def test_the_interval_is_open_below_and_closed_above():
    """At s = 1, log-SNR 0, exactly."""
    assert found(Interval(lowest=1.0), 0.0) == 1
    assert found(Interval(highest=1.0), 0.0) == 2


def test_ends():
    for level in (-20.0, 0.0, 20.0):
        assert found(Interval(), level) == 2.0
        assert found(Interval(lowest=1e6), level) == 1.0  # beyond every level


def test_noise_levels():
    """s = sigma / alpha."""
    for level in (0.28, 1.0, 2.9):
        logsnr = logsnr_of_noise_level(level)
        ratio = diffusion.sigma(logsnr) / diffusion.alpha(logsnr)
        assert float(ratio) == pytest.approx(level, rel=1e-5)
    assert logsnr_of_noise_level(0.0) == np.inf
    assert logsnr_of_noise_level(np.inf) == -np.inf
    with pytest.raises(ValueError, match='at least 0'):
        logsnr_of_noise_level(-1.0)


@pytest.mark.parametrize('options', ['lowest=2,highest=2', 'lowest=3,highest=2', 'lowest=-1'])
def test_an_empty_interval_is_refused(options):
    message = user_error(RULES.make, 'interval', options)
    assert '0 <= lowest < highest' in message


def test_equal_predictions_need_no_interval():
    z = np.zeros(SHAPE, np.float32)
    for level in (-3.0, 0.0, 3.0):
        eps = eps_fn(Interval(lowest=0.5, highest=2.0), constant(1.5), LABEL, 4.0)(z, level)
        np.testing.assert_allclose(eps, 1.5, rtol=1e-6)


# Of 32 levels on EDM's grid, counted from 0 (Kynkaanniemi et al. 2024, EDM2-XXL).
PUBLISHED = [((0.19, 1.61), range(17, 23)), ((0.6, 5.0), range(13, 20))]


@pytest.mark.parametrize(('ends', 'guided_steps'), PUBLISHED)
@pytest.mark.parametrize('sampler', ['heun', 'flow_heun', 'heun:churn=8', 'euler:churn=8', 'ddim'])
def test_published_intervals_guide_the_published_steps(ends, guided_steps, sampler):
    """Heun's second evaluation and what churn adds leave the decision to where the step began."""
    name, _, options = sampler.partition(':')
    made = SAMPLERS.make(name, options, num_steps=32, clip=False, grid=EDMGrid())
    seen = []

    def network(z, logsnr, label):
        jax.debug.callback(
            lambda level, c: seen.append((float(level[0]), int(c[0]))), logsnr, label
        )
        return normal_eps(0.0, 0.25)(z, logsnr)

    predict = guided(Interval(*ends), network, LABEL, 1.0)
    keys = jax.random.split(jax.random.key(0), 4)
    with jax.disable_jit():
        _, state = sample_loop(made, predict, jnp.ones(SHAPE), keys)
    evaluations = 2 if made.corrects else 1
    assert int(state.nfe) == made.predictions + evaluations * len(guided_steps)
    jax.effects_barrier()
    null_levels = sorted(level for level, label in seen if label == 10)
    levels = np.asarray(EDMGrid().levels(32))
    churned = 2 * np.log1p(8 / 32) if options else 0.0  # s grows by a quarter
    expected = [levels[i] - churned for i in guided_steps]
    expected += [levels[i + 1] for i in guided_steps if evaluations == 2]
    np.testing.assert_allclose(null_levels, sorted(expected), atol=1e-4)
