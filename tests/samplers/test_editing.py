"""Image to image and painting by a mask on Gaussian data, where the answers are closed forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import alpha_sigma64
from guided import guided, normal_eps
from support import user_error

from cfg_jax.diffusion import CosineSchedule
from cfg_jax.guidance.classifier_free import ClassifierFree
from cfg_jax.samplers import SAMPLERS
from cfg_jax.samplers.editing import Edit, edit_loop
from cfg_jax.samplers.grids import LogSNRGrid
from cfg_jax.samplers.loop import sample_loop

M, S = 0.3, 0.5
GRID = LogSNRGrid(CosineSchedule(-12.0, 12.0))
HISTORY = ('dpmpp_2m', 'dpmpp_2m_sde', 'unipc')


def sampler(spec, num_steps):
    name, _, options = spec.partition(':')
    return SAMPLERS.make(name, options, num_steps=num_steps, clip=False, grid=GRID)


def noise_and_keys(count, shape, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 99), shape))(keys), keys


def edited(made, predict, edit, seed=0):
    """x~ of `edit_loop`, compiled, and the network evaluations, if `predict` counts them."""
    z, keys = noise_and_keys(len(edit.image), edit.image.shape[1:], seed)
    run = jax.jit(lambda z, keys, edit: edit_loop(made, predict, z, keys, edit))
    x, state = run(z, keys, edit)
    return np.asarray(x, np.float64), getattr(state, 'nfe', None)


def plain(network, count):
    """network(z, logsnr, condition) without guidance."""
    return guided(ClassifierFree(), network, jnp.zeros(count, int), None)


def start_level(strength, num_steps):
    """(alpha, sigma) of the first level that is run."""
    levels = np.linspace(-12.0, 12.0, num_steps)
    return alpha_sigma64(levels[num_steps - round(strength * num_steps)])


def guided_gaussians(w, count):
    """Guidance from N(M - 0.2, S^2) to N(M, S^2): exactly the eps of N(M + 0.2 w, S^2)."""

    def network(z, logsnr, label):
        mean = jnp.where(label == 10, M - 0.2, M)[:, None, None, None]
        return normal_eps(mean, S**2)(z, logsnr)

    return guided(ClassifierFree(), network, jnp.zeros(count, int), jnp.full(count, w))


@pytest.mark.parametrize('spec', ['heun', 'ddim', 'euler', 'dpmpp_2m', 'unipc'])
@pytest.mark.parametrize('strength', [0.3, 0.7])
def test_image_to_image_follows_the_flow_under_guidance(spec, strength):
    """The ODE of N(m, S^2) takes z to m + S (z - alpha m) / sqrt(alpha^2 S^2 + sigma^2)."""
    count, w, num_steps = 16, 1.5, 100
    image = np.linspace(-1, 1, count * 4, dtype=np.float32).reshape(count, 2, 2, 1)
    x, nfe = edited(
        sampler(spec, num_steps), guided_gaussians(w, count), Edit(image, None, strength)
    )
    z, _ = noise_and_keys(count, image.shape[1:])
    alpha, sigma = start_level(strength, num_steps)
    mean = M + 0.2 * w
    deviation = np.sqrt((alpha * S) ** 2 + sigma**2)
    expected = mean + S / deviation * (alpha * image + sigma * np.asarray(z) - alpha * mean)
    levels = round(strength * num_steps)
    assert nfe == 2 * (2 * levels - 1 if spec == 'heun' else levels)
    first_order = spec in ('ddim', 'euler')
    np.testing.assert_allclose(x, expected, rtol=0, atol=0.05 if first_order else 0.004)
    assert np.abs(x - image).max() > 0.1


@pytest.mark.parametrize('spec', ['ancestral:v=0', 'ddim:eta=1', 'dpmpp_2m_sde'])
def test_image_to_image_draws_from_the_posterior(spec):
    """A stochastic sampler gives x ~ p(x | z), z = alpha x_0 + sigma n, a Gaussian in x_0."""
    count, x_0, strength, num_steps = 20_000, 0.9, 0.6, 128
    image = jnp.full((count, 1, 1, 1), x_0)
    predict = plain(normal_eps(M, S**2), count)
    x, _ = edited(sampler(spec, num_steps), predict, Edit(image, None, strength))
    alpha, sigma = start_level(strength, num_steps)
    variance = (alpha * S) ** 2 + sigma**2
    mean = M + (alpha * S) ** 2 / variance * (x_0 - M)
    # Of p(x | z), and of its mean as z varies.
    spread = (S * sigma) ** 2 / variance + (alpha * S**2 * sigma / variance) ** 2
    assert abs(x.mean() - mean) < 5 * np.sqrt(spread / count) + 0.01
    assert x.var() == pytest.approx(spread, rel=5 * np.sqrt(2 / count) + 0.03)


RHO, KNOWN = 0.8, 1.0


def correlated(z, logsnr, condition=None):
    """Exact eps of two pixels of N(M, S^2 [[1, RHO], [RHO, 1]]): sigma var(z)^-1 (z - alpha m)."""
    logsnr = logsnr[:, None, None, None]
    alpha_2 = jax.nn.sigmoid(logsnr)
    alpha, sigma = jnp.sqrt(alpha_2), jnp.sqrt(jax.nn.sigmoid(-logsnr))
    centred = z - alpha * M
    total, difference = centred.sum(2, keepdims=True), centred[:, :, :1] - centred[:, :, 1:]
    # The eigenvectors are the sum and the difference of the pixels.
    total = total / (alpha_2 * S**2 * (1 + RHO) + sigma**2)
    difference = difference / (alpha_2 * S**2 * (1 - RHO) + sigma**2)
    return 0.5 * sigma * jnp.concatenate([total + difference, total - difference], axis=2)


def painted(spec, resample, count=2000, num_steps=40, strength=1.0):
    """The second pixel, where the first is known to be KNOWN."""
    image = jnp.broadcast_to(jnp.asarray([KNOWN, -1.0])[None, None, :, None], (count, 1, 2, 1))
    anew = jnp.broadcast_to(jnp.asarray([False, True])[None, None, :, None], (count, 1, 2, 1))
    edit = Edit(image, anew, strength, resample)
    x, _ = edited(sampler(spec, num_steps), plain(correlated, count), edit)
    np.testing.assert_array_equal(x[:, 0, 0, 0], np.float32(KNOWN))
    return x[:, 0, 1, 0]


MEAN, DEVIATION = M + RHO * (KNOWN - M), S * np.sqrt(1 - RHO**2)  # of the second given the first


@pytest.mark.parametrize('spec', ['ancestral:v=0', 'ddim:eta=1', 'ddim', 'euler', 'heun'])
def test_resampling_paints_from_the_conditional(spec):
    once, often = (painted(spec, resample) for resample in (1, 16))
    # 40 levels leave a tenth of the deviation, as they do without a mask.
    assert abs(often.mean() - MEAN) < 0.07 * S
    assert abs(often.std() - DEVIATION) < 0.15 * DEVIATION
    # Without resampling what is painted agrees less with what is known.
    assert abs(once.mean() - MEAN) > 2 * abs(often.mean() - MEAN)


def test_nothing_is_known_of_what_is_painted():
    """With independent pixels every resampling gives the data's own distribution."""
    count = 4000
    image = jnp.ones((count, 1, 2, 1))
    anew = jnp.broadcast_to(jnp.asarray([False, True])[None, None, :, None], image.shape)
    predict = plain(normal_eps(M, S**2), count)
    for resample in (1, 5):
        x, _ = edited(sampler('ancestral:v=0', 64), predict, Edit(image, anew, 1.0, resample))
        painted = x[:, 0, 1, 0]
        assert abs(painted.mean() - M) < 5 * S / np.sqrt(count)
        assert painted.std() == pytest.approx(S, rel=0.12)  # v = 0 at 64 levels: 0.1


@pytest.mark.parametrize('name', SAMPLERS)
def test_strength_one_is_sampling(name):
    made, count = sampler(name, 6), 5
    image = jnp.ones((count, 2, 2, 1))
    x, nfe = edited(made, guided_gaussians(1.0, count), Edit(image))
    z, keys = noise_and_keys(count, image.shape[1:])
    expected, state = sample_loop(made, guided_gaussians(1.0, count), z, keys)
    np.testing.assert_allclose(x, expected, rtol=0, atol=2e-5)
    assert nfe == state.nfe


@pytest.mark.parametrize('name', [name for name in SAMPLERS if name not in HISTORY])
def test_a_mask_takes_the_steps_that_it_says(name):
    count, levels, resample = 2, 4, 3
    image = jnp.zeros((count, 2, 2, 1))
    anew = jnp.zeros(image.shape, bool).at[:, 0].set(True)
    _, nfe = edited(
        sampler(name, 8), guided_gaussians(1.0, count), Edit(image, anew, 0.5, resample)
    )
    steps = resample * (levels - 1) + 1
    assert nfe == 2 * (2 * steps - 1 if SAMPLERS.load(name).corrects else steps)


@pytest.mark.parametrize('anew', [False, True])
def test_an_image_does_not_depend_on_its_batch(anew):
    shape = (6, 2, 2, 1)
    image = jax.random.normal(jax.random.key(3), shape)
    mask = jnp.broadcast_to(jnp.arange(2)[None, :, None, None] > 0, shape) if anew else None
    made = sampler('ancestral', 5)
    edit = Edit(image, mask, 0.8, 2 if anew else 1)
    z, keys = noise_and_keys(6, shape[1:])

    def run(rows):
        part = dataclasses.replace(
            edit, image=image[rows], anew=None if mask is None else mask[rows]
        )
        predict = plain(normal_eps(M, S**2), len(rows))
        return np.asarray(edit_loop(made, predict, z[rows], keys[rows], part)[0])

    together = run(np.arange(6))
    np.testing.assert_allclose(run(np.array([4, 1])), together[[4, 1]], rtol=0, atol=1e-5)
    assert np.abs(together[4] - together[1]).max() > 1e-2


def test_what_cannot_be_edited():
    shape = (2, 3, 3, 1)
    image, anew = np.zeros(shape, np.float32), np.ones(shape, bool)
    made = sampler('ancestral', 4)
    for edit, words in (
        (Edit(image[:, :2]), 'have the shape (2, 2, 3, 1)'),
        (Edit(image, anew[:1]), 'masks have the shape'),
        (Edit(image, strength=0.0), 'strength is in (0, 1]'),
        (Edit(image, strength=1.5), 'strength is in (0, 1]'),
        (Edit(image, anew, resample=0), 'resample is at least 1'),
        (Edit(image, resample=2), 'without one nothing is known'),
    ):
        assert words in user_error(edit.check, made, shape)
    for name in SAMPLERS:
        edit = Edit(image, anew)
        if name in HISTORY:
            assert 'extrapolates from earlier levels' in user_error(
                edit.check, sampler(name, 4), shape
            )
        else:
            edit.check(sampler(name, 4), shape)
        Edit(image).check(sampler(name, 4), shape)
