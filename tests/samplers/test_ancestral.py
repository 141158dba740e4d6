"""The paper's ancestral sampler: its noise, its variance exponent, and its shifted mean."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import (
    FAST_COMPILE,
    SHAPE,
    S,
    gaussian_eps,
    gaussian_samples,
    make,
    run,
    start,
)
from support import user_error

from cfg_jax import samplers
from cfg_jax.diffusion import CosineSchedule
from cfg_jax.models.denoiser import Prediction
from cfg_jax.samplers.ancestral import Ancestral
from cfg_jax.samplers.grids import Grid
from cfg_jax.samplers.loop import sample_loop

LEVELS = Grid(CosineSchedule(-1.0, 1.5))


class Predicts:
    """A stateless `predict` of fixed further fields beside eps = 0, so that x~ = z / alpha."""

    def __init__(self, **fields):
        self.fields = fields

    def init(self, z):
        return ()

    def __call__(self, z, logsnr, state):
        return Prediction(jnp.zeros_like(z), **self.fields), state


@pytest.mark.parametrize('v', [0.0, 0.3, 1.0])
def test_error_falls_with_the_steps(v):
    errors = [abs(gaussian_samples('ancestral', v, t, 4096)[1].std() - S) for t in (8, 64, 256)]
    five_standard_errors = 5 * S / np.sqrt(2 * 4096 * np.prod(SHAPE))
    assert errors[1] + five_standard_errors < 0.75 * errors[0]
    assert errors[2] < 0.75 * errors[1]  # at v = 1 already as small as the Monte-Carlo error


def test_v_can_be_traced():
    z, keys = start()
    traces = []

    @functools.partial(jax.jit, compiler_options=FAST_COMPILE)
    def sample(v):
        traces.append(v)
        return samplers.ancestral(gaussian_eps, z, keys, num_steps=6, v=v, clip=False)

    static = run(make('ancestral', 0.7, 6), gaussian_eps, z, keys)
    np.testing.assert_allclose(sample(0.7), static, rtol=0, atol=1e-3)
    assert np.abs(sample(0.0) - static).max() > 0.1
    assert len(traces) == 1


@functools.partial(jax.jit, compiler_options=FAST_COMPILE)
def one_transition(z, keys, v, fields):
    """x~ after one transition from logsnr -1 to 1.5 and the last level, x~ = z / alpha at both."""
    sampler = Ancestral(num_steps=2, v=v, clip=False, grid=LEVELS)
    return sample_loop(sampler, Predicts(**fields), z, keys)[0]


def variance64(v):
    """eq. (4) of the transition: (1 - r) sigma'^2 at v = 0 and (1 - r) sigma^2 at v = 1."""
    return (1 - np.exp(-2.5)) * (1 + np.exp(1.5)) ** (v - 1) * (1 + np.exp(-1.0)) ** -v


@pytest.mark.parametrize('v', [0.0, 0.4, 1.0])
def test_mean_gradient_is_added_times_the_variance(v):
    """z' = mean + Sigma gradient + noise, then x~ of z', unshifted: once, not at the last level."""
    z, keys = start(3)
    gradient = 0.25 * z
    plain = one_transition(z, keys, v, {})
    shifted = one_transition(z, keys, v, {'mean_gradient': gradient})
    last_alpha = (1 + np.exp(-1.5)) ** -0.5
    expected = variance64(v) * gradient / last_alpha
    np.testing.assert_allclose(shifted - plain, expected, rtol=0, atol=1e-5)


def test_predicted_exponent_takes_the_place_of_v_pixel_by_pixel():
    """The noise of the transition has variance (sigma~^2)^(1 - v) (sigma^2)^v, v per pixel."""
    z, keys = start(6)
    v = np.random.default_rng(1).uniform(size=z.shape).astype(np.float32)
    found = np.asarray(one_transition(z, keys, 0.3, {'v': v}))
    step_keys = [jax.random.fold_in(key, 0) for key in keys]
    noise = np.stack([jax.random.normal(key, SHAPE) for key in step_keys])
    alpha, alpha_p = (1 + np.exp(1.0)) ** -0.5, (1 + np.exp(-1.5)) ** -0.5
    r = np.exp(-2.5)
    mean = r * alpha_p / alpha * z + (1 - r) * alpha_p * z / alpha
    expected = (mean + np.sqrt(variance64(v.astype(float))) * noise) / alpha_p
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    # At the ends it is the sampler's own exponent.
    for end in (0.0, 1.0):
        same = one_transition(z, keys, 0.3, {'v': np.full_like(z, end)})
        np.testing.assert_allclose(same, one_transition(z, keys, end, {}), rtol=0, atol=1e-6)


@pytest.mark.parametrize('v', [-0.1, 1.5, float('nan')])
def test_an_exponent_out_of_range_is_refused(v):
    with pytest.raises(ValueError, match=r'v is in \[0, 1\]'):
        Ancestral(num_steps=4, v=v)
    assert 'v is in [0, 1]' in user_error(
        samplers.SAMPLERS.make, 'ancestral', f'v={v}', num_steps=4
    )
