"""Adaptive projected guidance: the formula in denoised space, in float64, and its momentum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guided import guided
from support import user_error

from cfg_jax import diffusion
from cfg_jax.diffusion import CosineSchedule
from cfg_jax.guidance import RULES, GuidanceLevel, guide, make_rule
from cfg_jax.guidance.projected import Projected, project
from cfg_jax.keys import per_image_noise
from cfg_jax.samplers.ddim import DDIM
from cfg_jax.samplers.grids import Grid
from cfg_jax.samplers.loop import sample_loop

SHAPE = (4, 3, 2, 1)  # [B, H, W, C]
W = np.float32([0.0, 0.5, 1.0, 3.0])


def fields(count, shape=SHAPE):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def both(eps_cond, eps_uncond, z, logsnr, w, **settings):
    """`project` of two predictions."""
    return project(eps_cond, eps_cond - eps_uncond, z, logsnr, w, **settings)


def inputs():
    return *fields(3), jnp.float32(0.7)


def alpha_sigma(logsnr):
    return (1 + np.exp(-logsnr)) ** -0.5, (1 + np.exp(logsnr)) ** -0.5


def by_the_formula(x_cond, g, w, eta, radius):
    """x~ = x_c + w (g_perp + eta g_par) of the shortened g, of one image as a vector; float64."""
    g = g * min(1.0, radius / np.linalg.norm(g))
    unit = x_cond / np.linalg.norm(x_cond)
    along = (g @ unit) * unit
    return x_cond + w * (g - along + eta * along)


def test_neutral_settings_are_the_papers_rule():
    eps_cond, eps_uncond, z, _ = inputs()
    for logsnr in (-20.0, 0.7, 20.0):
        found = both(eps_cond, eps_uncond, z, logsnr, W, eta=1.0)
        expected = guide(eps_cond, eps_uncond, W)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(('eta', 'radius'), [(0.0, np.inf), (0.0, 1.2), (0.5, 2.0), (1.0, 0.1)])
def test_by_the_formula_in_denoised_space(eta, radius):
    """g = x_c - x_u, shortened, split along x_c; x~ = x_c + w (g_perp + eta g_par); float64."""
    eps_cond, eps_uncond, z, logsnr = inputs()
    alpha, sigma = alpha_sigma(0.7)
    found = both(eps_cond, eps_uncond, z, logsnr, W, eta=eta, radius=radius)
    for i, w in enumerate(W.astype(float)):
        x_cond, x_uncond = (
            ((z[i] - sigma * eps[i]) / alpha).astype(float).ravel()
            for eps in (eps_cond, eps_uncond)
        )
        x = by_the_formula(x_cond, x_cond - x_uncond, w, eta, radius)
        expected = (z[i].ravel() - alpha * x) / sigma
        np.testing.assert_allclose(found[i].ravel(), expected, rtol=1e-4, atol=1e-5)


def test_what_is_added_is_no_longer_than_the_radius():
    eps_cond, eps_uncond, z, logsnr = inputs()
    found = both(eps_cond, eps_uncond, z, logsnr, 1.0, eta=1.0, radius=0.5)
    ratio = diffusion.sigma(logsnr) / diffusion.alpha(logsnr)
    length = ratio * jnp.linalg.norm((found - eps_cond).reshape(len(z), -1), axis=1)
    np.testing.assert_allclose(length, 0.5, rtol=1e-5)


@pytest.mark.parametrize('logsnr', [-20.0, 20.0])
def test_finite_at_the_ends_and_where_both_agree(logsnr):
    eps, z = fields(2)
    found = both(eps, eps, z, logsnr, 3.0, radius=1.0)
    np.testing.assert_allclose(found, eps, rtol=0, atol=1e-6)
    other = both(eps, -eps, z, logsnr, 3.0, radius=1.0)
    assert np.isfinite(other).all()


def test_one_level_per_image():
    eps_cond, eps_uncond, z, _ = inputs()
    levels = np.float32([-3.0, 0.0, 1.0, 4.0])
    together = both(eps_cond, eps_uncond, z, levels, 2.0, radius=1.0)
    for i, level in enumerate(levels):
        one = slice(i, i + 1)
        alone = both(eps_cond[one], eps_uncond[one], z[one], level, 2.0, radius=1.0)
        np.testing.assert_allclose(together[one], alone, rtol=1e-6)


@pytest.mark.usefixtures('unchecked')
@pytest.mark.parametrize('short', range(3))
def test_shapes_that_disagree_are_refused(short):
    arrays = [np.zeros(SHAPE, np.float32) for _ in range(3)]
    arrays[short] = arrays[short][:1]
    with pytest.raises(ValueError, match='shape'):
        project(*arrays, 0.0, 1.0)
    with pytest.raises(ValueError, match='shape'):
        project(*(np.zeros(SHAPE, np.float32) for _ in range(3)), 0.0, np.ones(3))


@pytest.mark.parametrize('options', ['radius=0', 'radius=-1', 'momentum=1', 'momentum=-1.5'])
def test_settings_out_of_range(options):
    assert 'radius is above 0 and |momentum| below 1' in user_error(
        RULES.make, 'projected', options
    )


SETTINGS = {'eta': 0.25, 'radius': 1.5, 'momentum': -0.6}
LABEL = np.int32([1, 0, 2, 1])


def network(z, logsnr, label):
    """Curved in z, different by label and by level; the null label is 10."""
    shift = (label[:, None, None, None] - 4.0) / 7.0
    return jnp.tanh(z + shift) + 0.1 * logsnr[:, None, None, None] * shift


def network64(z, logsnr, label):
    shift = (label[:, None, None, None] - 4.0) / 7.0
    return np.tanh(z + shift) + 0.1 * logsnr * shift


def momentum64(z, levels, w):
    """(guided x [B, ...] of each level, next z) along DDIM, with the running sum of differences."""
    z, running, guided_x = np.float64(z), 0.0, []
    for t, logsnr in enumerate(levels):
        alpha, sigma = alpha_sigma(logsnr)
        x_cond, x_uncond = (
            (z - sigma * network64(z, logsnr, label)) / alpha
            for label in (LABEL, np.full_like(LABEL, 10))
        )
        running = x_cond - x_uncond + SETTINGS['momentum'] * running
        x = np.stack(
            [
                by_the_formula(a.ravel(), g.ravel(), wi, SETTINGS['eta'], SETTINGS['radius'])
                for a, g, wi in zip(x_cond, running, w, strict=True)
            ]
        ).reshape(z.shape)
        guided_x.append(x)
        if t + 1 < len(levels):
            alpha_p, sigma_p = alpha_sigma(levels[t + 1])
            z = alpha_p * x + sigma_p * (z - alpha * x) / sigma
    return guided_x


def test_momentum_is_a_running_sum_over_three_levels():
    """g_t = x_c - x_u + momentum g_(t-1), by hand: by the rule alone, then through a sampler."""
    limits, w = (-3.0, 2.0), W.astype(float)
    grid = Grid(CosineSchedule(*limits))
    levels = np.asarray(grid.levels(3), np.float64)
    keys = jax.random.split(jax.random.key(0), len(LABEL))
    start = per_image_noise(keys, SHAPE[1:])
    expected = momentum64(start, levels, w)

    predict = guided(Projected(**SETTINGS), network, LABEL, W)
    z, state = start, predict.init(start)
    for t, logsnr in enumerate(levels.astype(np.float32)):
        prediction, state = predict(z, logsnr, state)
        x = diffusion.x_from_eps(z, prediction.eps, logsnr)
        np.testing.assert_allclose(x, expected[t], rtol=0, atol=1e-4, err_msg=f'level {t}')
        if t < 2:
            eps = diffusion.eps_from_x(z, x, logsnr)
            z = diffusion.q_sample(x, np.float32(levels[t + 1]), eps)

    sampler = DDIM(num_steps=3, clip=False, grid=grid)
    sample = jax.jit(lambda z: sample_loop(sampler, predict, z, keys))
    x, last = sample(start)
    np.testing.assert_allclose(x, expected[-1], rtol=0, atol=1e-4)
    assert int(last.nfe) == 6
    np.testing.assert_allclose(last.rule, state.rule, rtol=0, atol=1e-4)
    # Momentum matters: without it the last level differs by far more than rounding.
    without = guided(Projected(**SETTINGS | {'momentum': 0.0}), network, LABEL, W)
    other = sample_loop(sampler, without, start, keys)[0]
    assert np.abs(np.asarray(other) - expected[-1])[1:].max() > 1e-2


@pytest.mark.parametrize(('logsnr', 'kept'), [(-20.0, 0.0), (-10.118, 1.0), (3.0, 1.0)])
def test_levels_noisier_than_published_stay_out_of_the_running_sum(logsnr, kept):
    """There the difference in x is thousands of times the network's error in eps."""
    z, cond, uncond = (np.full((1, 2, 2, 1), value, np.float32) for value in (0.3, 0.7, 0.2))
    rule, before = Projected(eta=1.0, momentum=-0.5), np.full_like(z, 2.0)
    level = GuidanceLevel(z, jnp.float32(logsnr), None)
    guided_eps, state = rule.combine(level, jnp.float32(1.5), (cond, uncond), before)
    ratio = np.exp(-0.5 * logsnr)
    running = -ratio * (cond - uncond) - 0.5 * before
    np.testing.assert_allclose(state, kept * running, rtol=1e-5)
    np.testing.assert_allclose(guided_eps, cond - 1.5 * running / ratio, rtol=1e-5)


def test_a_running_sum_of_another_revision_is_another_rule():
    for spec, revision in (
        ('projected', 0),
        ('projected:momentum=-0.5', 1),
        ('projected+threshold', 1),
        ('projected:momentum=-0.5+threshold', 2),
        ('projected:momentum=-0.5+interval', 1),
    ):
        assert make_rule(spec).revision == revision, spec
