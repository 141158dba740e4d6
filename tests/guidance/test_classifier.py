"""Classifier guidance in closed form.

On a mixture of Gaussians every conditional and unconditional eps and the exact classifier are
known, and guidance by that classifier is classifier-free guidance. On Gaussian data a classifier
p(c | x) ~ exp(k x) makes log p(c | z) = k E[x | z] + const linear in z, so that guidance with
weight w turns N(m, s^2) into N(m + w k s^2, s^2), and every sampler's moments follow step by step.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import M, S, levels64
from guided import eps_fn, guided

from cfg_jax import diffusion, samplers
from cfg_jax.diffusion import CosineSchedule
from cfg_jax.guidance import GuidanceLevel
from cfg_jax.guidance.classifier import (
    ClassifierEps,
    ClassifierMean,
    eps_shift,
    log_prob_gradient,
)
from cfg_jax.guidance.classifier_free import ClassifierFree
from cfg_jax.keys import per_image_noise
from cfg_jax.models.denoiser import Prediction
from cfg_jax.samplers.ancestral import Ancestral
from cfg_jax.samplers.grids import Grid
from cfg_jax.samplers.loop import sample_loop

FAST_COMPILE = {'xla_backend_optimization_level': 0}
CLASSES, NULL = 3, 3
LABEL = np.arange(6, dtype=np.int32) % CLASSES
NULLS = np.full_like(LABEL, NULL)
SHAPE = (2, 2, 1)
PRIOR = np.float32([0.5, 0.3, 0.2])
CENTRES = np.random.default_rng(7).uniform(-1, 1, size=(CLASSES, *SHAPE)).astype(np.float32)
K, W = 1.0, 0.8  # of the Gaussian data's classifier, and the weight


def mixture_logits(z, logsnr):
    """log p(c | z) up to a constant: z ~ sum_c PRIOR_c N(alpha CENTRES_c, variance)."""
    return jnp.log(PRIOR) - jnp.sum(_offsets(z, logsnr) ** 2, axis=(2, 3, 4)) / (
        2 * _variance(logsnr)[:, None]
    )


def mixture_eps(z, logsnr, label):
    """eps = -sigma grad_z log p(z | label), with the mixture itself under the null label."""
    each = _offsets(z, logsnr) / _variance(logsnr)[:, None, None, None, None]  # [B, CLASSES, ...]
    posterior = jax.nn.softmax(mixture_logits(z, logsnr))
    weights = jnp.where(label[:, None] == NULL, posterior, jax.nn.one_hot(label, CLASSES))
    sigma = diffusion.broadcast_to_images(diffusion.sigma(logsnr), z)
    return sigma * jnp.einsum('bc,bc...->b...', weights, each)


def _offsets(z, logsnr):
    alpha = diffusion.alpha(logsnr)[:, None, None, None, None]
    return z[:, None] - alpha * CENTRES


def _variance(logsnr):
    return (diffusion.alpha(logsnr) * S) ** 2 + diffusion.sigma(logsnr) ** 2


mixture_gradient = functools.partial(log_prob_gradient, mixture_logits, label=LABEL)


def compiled(fn):
    return jax.jit(fn, compiler_options=FAST_COMPILE)


def noisy(logsnr):
    """Images of the classes LABEL at a noise level."""
    rng = np.random.default_rng(0)
    x, eps = rng.normal(size=(2, len(LABEL), *SHAPE)).astype(np.float32)
    return diffusion.q_sample(CENTRES[LABEL] + S * x, logsnr, eps)


def test_gradient_is_the_difference_of_scores():
    """grad log p(c | z) = grad log p(z | c) - grad log p(z) = (eps_uncond - eps_cond) / sigma."""
    evaluate = compiled(
        lambda z, logsnr: (
            mixture_gradient(z, logsnr),
            mixture_eps(z, logsnr, NULLS) - mixture_eps(z, logsnr, LABEL),
        )
    )
    for logsnr in (-6.0, -1.0, 0.0, 2.0, 5.0):
        gradient, difference = evaluate(noisy(logsnr), jnp.full(len(LABEL), logsnr))
        expected = difference * np.sqrt(1 + np.exp(logsnr))
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_gradient_is_taken_image_by_image():
    gradient = compiled(mixture_gradient)
    z, logsnr = noisy(0.0), jnp.linspace(-3, 3, len(LABEL))
    together = gradient(z, logsnr)
    for i in (0, 4):
        others = jnp.roll(z, 1, axis=0).at[i].set(z[i])
        np.testing.assert_array_equal(gradient(others, logsnr)[i], together[i])
        at_one_level = gradient(z, logsnr[i])  # a scalar stands for all
        np.testing.assert_allclose(at_one_level[i], together[i], rtol=0, atol=1e-6)


@pytest.mark.usefixtures('unchecked')
@pytest.mark.parametrize('label', [LABEL[:1], LABEL[:5], np.tile(LABEL, 2)])
def test_as_many_labels_as_images(label):
    z = noisy(0.0)
    with pytest.raises(ValueError, match='as many labels'):
        log_prob_gradient(mixture_logits, z, 0.0, label)


@pytest.mark.usefixtures('unchecked')
def test_logits_of_another_number_of_images_are_refused():
    """One row for all images would be broadcast."""
    with pytest.raises(ValueError, match='logits'):
        log_prob_gradient(lambda z, _: z.reshape(len(z), -1)[:1], noisy(0.0), 0.0, LABEL)


def test_clip_first_shifts_the_eps_of_the_clipped_image():
    """x of the shifted eps is clip(x) + w sigma^2 / alpha grad log p, beyond [-1, 1] too."""
    z, logsnr = 3.0 * noisy(0.5), jnp.float32(0.5)
    rng = np.random.default_rng(1)
    eps, gradient = rng.normal(size=(2, *z.shape)).astype(np.float32)
    w = jnp.full(len(z), W)
    level = GuidanceLevel(z, logsnr, None)
    found, _ = ClassifierEps(clip_first=True).combine(level, w, (eps, gradient), ())
    alpha_2 = 1 / (1 + np.exp(-0.5))
    x = np.clip((z - np.sqrt(1 - alpha_2) * eps) / np.sqrt(alpha_2), -1, 1)
    expected = x + W * (1 - alpha_2) / np.sqrt(alpha_2) * gradient
    np.testing.assert_allclose(diffusion.x_from_eps(z, found, logsnr), expected, atol=1e-5)
    assert np.abs(expected).max() > 1


def free(w):
    return eps_fn(ClassifierFree(), mixture_eps, LABEL, w, num_classes=NULL)


def by_classifier(w, conditional, rule=ClassifierEps):
    """The rule's eps~, of the exact classifier."""
    return eps_fn(
        rule(conditional=conditional),
        mixture_eps,
        LABEL,
        w,
        num_classes=NULL,
        classifier=mixture_logits,
    )


@pytest.mark.parametrize('w', [0.0, 0.5, 3.0, [0.0, 0.1, 1.0, 2.0, 4.0, 0.3]])
def test_exact_classifier_is_classifier_free_guidance(w):
    """Weight w on eps(z, c), w + 1 on eps(z), and classifier-free guidance with w: one eps~."""
    w = jnp.asarray(w)
    rules = (free(w), by_classifier(w, True), by_classifier(w + 1, False))
    evaluate = compiled(lambda z, logsnr: [rule(z, logsnr) for rule in rules])
    for logsnr in (-4.0, 0.0, 4.0):
        expected, *guided = evaluate(noisy(logsnr), jnp.float32(logsnr))
        for eps in guided:
            np.testing.assert_allclose(eps, expected, rtol=0, atol=2e-5)


def test_samples_are_those_of_classifier_free_guidance():
    """The same noise leads to the same images; T and schedule keep the rounding of x~ small."""
    w, keys = 1.5, jax.random.split(jax.random.key(0), len(LABEL))
    z = per_image_noise(keys, SHAPE)
    grid = Grid(CosineSchedule(logsnr_min=-8.0))
    sample = compiled(
        lambda z, keys: [
            samplers.ancestral(eps, z, keys, num_steps=8, v=0.3, grid=grid)
            for eps in (by_classifier(w + 1, False), free(w))
        ]
    )
    images = sample(z, keys)
    np.testing.assert_allclose(images[0], images[1], rtol=0, atol=1e-4)


def gaussian_eps(z, logsnr):
    alpha, sigma = diffusion.alpha(logsnr), diffusion.sigma(logsnr)
    return sigma * (z - alpha * M) / ((alpha * S) ** 2 + sigma**2)


def gaussian_gradient(z, logsnr):
    """grad_z of log p(c | z) = k E[x | z] + const."""
    alpha, sigma = diffusion.alpha(logsnr), diffusion.sigma(logsnr)
    return jnp.full_like(z, K * alpha * S**2 / ((alpha * S) ** 2 + sigma**2))


class GaussianPredict:
    """A `predict` of the Gaussian data, guided through 'eps' or through the 'mean'."""

    def __init__(self, form):
        self.form = form

    def init(self, z):
        return ()

    def __call__(self, z, logsnr, state, step=None):
        eps, gradient = gaussian_eps(z, logsnr), gaussian_gradient(z, logsnr)
        if self.form == 'eps':
            return Prediction(eps_shift(eps, gradient, logsnr, W)), state
        return Prediction(eps, mean_gradient=W * gradient), state


@functools.cache
def guided_sampler(form, num_steps):
    """sample(z, keys, v) of the Gaussian data, guided through 'eps' or through the 'mean'."""

    @compiled
    def sample(z, keys, v):
        sampler = Ancestral(num_steps=num_steps, v=v, clip=False)
        return sample_loop(sampler, GaussianPredict(form), z, keys)[0]

    return sample


def exact_moments(form, num_steps, v):
    """Mean and standard deviation of the guided sampler's output, in float64.

    Those of N(M + W K S^2, S^2) as the number of steps grows: the mean of 'eps' at any.
    """
    logsnr, alpha, sigma = levels64(num_steps)
    gain = alpha * S**2 / ((alpha * S) ** 2 + sigma**2)  # E[x | z] = m + gain (z - alpha m)
    offset = M * (1 - gain * alpha)
    if form == 'eps':  # x~ = (z - sigma eps~) / alpha
        offset += W * sigma**2 / alpha * K * gain
    mean, variance = 0.0, 1.0
    for t in range(num_steps - 1):
        r = np.exp(logsnr[t] - logsnr[t + 1])
        x_weight = (1 - r) * alpha[t + 1]
        slope = r * alpha[t + 1] / alpha[t] + x_weight * gain[t]
        added = (1 - r) * sigma[t + 1] ** (2 * (1 - v)) * sigma[t] ** (2 * v)
        shift = W * added * K * gain[t] if form == 'mean' else 0.0
        mean, variance = slope * mean + x_weight * offset[t] + shift, slope**2 * variance + added
    return gain[-1] * mean + offset[-1], gain[-1] * np.sqrt(variance)


@pytest.mark.parametrize('form', ['eps', 'mean'])
@pytest.mark.parametrize('v', [0.0, 0.7, 1.0])
def test_guided_moments_are_those_of_the_exact_recursion(form, v):
    keys = jax.random.split(jax.random.key(1), 8192)
    z = np.random.default_rng(0).normal(size=(8192, *SHAPE)).astype(np.float32)
    x = np.asarray(guided_sampler(form, num_steps=12)(z, keys, v), np.float64)
    mean, std = exact_moments(form, 12, v)
    # Standard errors: std / sqrt(n) of a mean, std / sqrt(2 n) of a standard deviation.
    assert abs(x.mean() - mean) < 5 * std / np.sqrt(x.size)
    assert abs(x.std() - std) < 5 * std / np.sqrt(2 * x.size)


def test_mean_form_by_hand():
    """eps of the model and w grad; with one weight per image 0 and 1 times it.

    The sampler multiplies by the variance of its transition (tests/samplers/test_ancestral.py).
    """
    z = noisy(0.0)
    gradient = mixture_gradient(z, 0.0)
    base = mixture_eps(z, jnp.zeros(len(z)), LABEL)
    for w in (2.0, np.float32([0.0, 1.0, 2.0, 0.5, 0.0, 1.0])):
        predict = guided(
            ClassifierMean(), mixture_eps, LABEL, w, num_classes=NULL, classifier=mixture_logits
        )
        prediction, _ = predict(z, jnp.float32(0.0), predict.init(z))
        np.testing.assert_allclose(prediction.eps, base, rtol=0, atol=1e-6)
        expected = np.reshape(np.broadcast_to(w, len(z)), (-1, 1, 1, 1)) * gradient
        np.testing.assert_allclose(prediction.mean_gradient, expected, rtol=1e-5, atol=1e-6)


def test_eps_form_by_hand():
    # sigma^2 = 1/2 at logsnr 0: eps - w sigma g = 1 - 2 * sqrt(1/2) * 3 = 1 - 4.2426
    eps, gradient = jnp.ones((2, *SHAPE)), jnp.full((2, *SHAPE), 3.0)
    shifted = eps_shift(eps, gradient, 0.0, np.float32([0.0, 2.0]))
    np.testing.assert_allclose(shifted[:, 0, 0, 0], [1.0, 1.0 - 3.0 * np.sqrt(2.0)], rtol=1e-6)


@pytest.mark.usefixtures('unchecked')
@pytest.mark.parametrize(
    ('gradient', 'w'), [((1, 2, 2, 1), ()), ((4, 2, 2, 3), ()), ((4, 2, 2, 1), (2,))]
)
def test_shapes_that_disagree_are_refused_while_tracing(gradient, w):
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4, 2, 2, 1), gradient, w)]
    with pytest.raises(ValueError, match='shape'):
        jax.eval_shape(lambda eps, gradient, w: eps_shift(eps, gradient, 0.0, w), *shapes)
    with pytest.raises(ValueError, match='shape'):
        jax.eval_shape(lambda eps, g, w: ClassifierMean().mean_gradient(w, (eps, g)), *shapes)


def test_the_weight_can_be_traced():
    z = noisy(0.0)
    traces = []

    @compiled
    def guided(w):
        traces.append(w)
        return by_classifier(w, True)(z, jnp.float32(0.0))

    plain = mixture_eps(z, jnp.zeros(len(z)), LABEL)
    np.testing.assert_allclose(guided(0.0), plain, rtol=0, atol=1e-6)
    assert np.abs(guided(2.0) - plain).max() > 0.1
    assert len(traces) == 1
