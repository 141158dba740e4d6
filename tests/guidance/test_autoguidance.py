"""Autoguidance of Gaussian data, in closed form."""

import jax
import numpy as np
import pytest
from guided import eps_fn, normal_eps

from cfg_jax import diffusion, samplers
from cfg_jax.guidance.autoguidance import Autoguidance

SHAPE = (4, 3, 2, 1)
RULE = Autoguidance()


def guided(main, guide, w, count=4):
    return eps_fn(RULE, normal_eps(*main), np.zeros(count, np.int32), w, guide=normal_eps(*guide))


def start():
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.mark.parametrize('logsnr', [-5.0, 0.0, 5.0])
def test_equal_variances_move_the_mean(logsnr):
    """Main N(m, v), guide N(g, v): eps~ is exactly that of N(m + w (m - g), v)."""
    z, (m, g, v, w) = start(), (0.4, 0.1, 0.3, 1.5)
    found = guided((m, v), (g, v), w)(z, logsnr)
    expected = normal_eps(m + w * (m - g), v)(z, logsnr)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_wider_guide_sharpens():
    """Same mean: the precision of z is (1 + w) / V_m - w / V_g, V = alpha^2 v + sigma^2."""
    z, logsnr, w = start(), np.float32(1.0), 0.7
    found = guided((0.0, 0.2), (0.0, 0.5), w)(z, logsnr)
    alpha2, sigma = diffusion.alpha(logsnr) ** 2, diffusion.sigma(logsnr)
    precision = (1 + w) / (alpha2 * 0.2 + sigma**2) - w / (alpha2 * 0.5 + sigma**2)
    np.testing.assert_allclose(found, sigma * precision * z, rtol=1e-5)


def test_samples_have_the_mean_that_the_formula_says():
    """DDIM along the exact flow of N(m + w (m - g), v)."""
    m, g, v, w = 0.3, 0.1, 0.05, 1.0
    z = jax.random.normal(jax.random.key(0), (4000, 1, 1, 1))
    keys = jax.random.split(jax.random.key(1), 4000)
    eps = guided((m, v), (g, v), w, count=4000)
    x = samplers.ddim(eps, z, keys, num_steps=100, clip=False)
    assert float(x.mean()) == pytest.approx(m + w * (m - g), abs=0.01)
    assert float(x.var()) == pytest.approx(v, rel=0.1)


def test_both_networks_are_given_the_condition():
    def network(scale):
        return lambda z, logsnr, label: z * 0 + scale * label[:, None, None, None]

    eps = eps_fn(RULE, network(1.0), np.int32([2, 5]), 3.0, guide=network(10.0))
    # (1 + 3) c - 3 * 10 c = -26 c
    found = eps(np.zeros((2, 1, 1, 1), np.float32), 0.0)
    np.testing.assert_allclose(np.ravel(found), [-52.0, -130.0], rtol=1e-6)
