"""Rules with networks: what a generator makes of them, against the sampler called by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import (
    classifier_guidance,
    generation,
    guidance,
    rules,
    sampling,
)

CLASSES = NULL = 4
SHAPE = (3, 3, 1)
INDICES = np.arange(5)
LABELS = np.int32([3, 0, 1, 2, 3])
W = np.float32([0.0, 0.5, 1.0, 2.0, 4.0])
SAME_IMAGE = 2e-5


def network(table, z, logsnr, label):
    """eps = tanh(z + table[label] + logsnr / 20)."""
    return jnp.tanh(z + jnp.asarray(table)[label][:, None, None] + logsnr[:, None, None, None] / 20)


def classifier(kernel, z, logsnr):
    """Logits, linear in z and slightly dependent on logsnr."""
    return jnp.tanh(z.reshape(len(z), -1) @ kernel) * (1.0 + logsnr[:, None] / 40)


def params():
    rng = np.random.default_rng(0)
    table = np.float32(rng.normal(size=(CLASSES + 1, 1)))
    return rules.GuidedNetworks(table, np.float32(rng.normal(size=(9, CLASSES))))


def sampler(name):
    return sampling.make_sampler(name, num_steps=6, v=0.3)


def generate(rule, name, w, values=None):
    generator = generation.Generator(rule, sampler(name), SHAPE)
    values = params() if values is None else values
    return np.asarray(generator(values, 7, INDICES, LABELS, w))


def by_hand(name, eps_fn, **shift):
    """The sampler on the images' own start noise and keys: streams 1 and 2 of each image."""
    keys = generation.image_keys(7, INDICES)
    start, steps = (jax.vmap(lambda key, n=n: jax.random.fold_in(key, n))(keys) for n in (1, 2))
    z = sampling.per_image_noise(start, SHAPE)
    return np.asarray(jax.jit(lambda: sampler(name)(eps_fn, z, steps, **shift))())


def eps_of(label):
    return guidance.conditional(functools.partial(network, params().unet), label)


def gradient_fn(z, logsnr):
    fn = functools.partial(classifier, params().classifier)
    return classifier_guidance.log_prob_gradient(fn, z, logsnr, LABELS)


def rule(form, conditional):
    return rules.ClassifierGuidance(network, classifier, NULL, form=form, conditional=conditional)


@pytest.mark.parametrize('conditional', [True, False])
@pytest.mark.parametrize(('form', 'name'), [('mean', 'ancestral'), ('eps', 'ddim')])
def test_classifier_guidance_is_its_mathematics_with_networks(form, name, conditional):
    base = eps_of(LABELS if conditional else np.full_like(LABELS, NULL))
    found = generate(rule(form, conditional), name, W)
    if form == 'mean':
        shift = classifier_guidance.mean_shift(gradient_fn, W)
        expected = by_hand(name, base, mean_shift_fn=shift)
    else:
        expected = by_hand(name, classifier_guidance.eps_shift(base, gradient_fn, W))
    np.testing.assert_allclose(found, expected, rtol=0, atol=SAME_IMAGE)
    unguided = by_hand(name, base)
    np.testing.assert_allclose(found[0], unguided[0], rtol=0, atol=SAME_IMAGE)  # w = 0
    moved = np.abs(found - unguided).max(axis=(1, 2, 3))
    assert np.all(moved[2:] > 100 * SAME_IMAGE)


@pytest.mark.parametrize('conditional', [True, False])
def test_no_weight_is_the_model_alone(conditional):
    base = eps_of(LABELS if conditional else np.full_like(LABELS, NULL))
    found = generate(rule('eps', conditional), 'ancestral', 0.0)
    np.testing.assert_allclose(found, by_hand('ancestral', base), rtol=0, atol=SAME_IMAGE)


def test_classifier_free_is_its_mathematics_with_a_network():
    free = rules.ClassifierFree(network, NULL)
    found = generate(free, 'ancestral', W, params().unet)
    eps_theta = functools.partial(network, params().unet)
    expected = by_hand('ancestral', guidance.classifier_free(eps_theta, LABELS, NULL, W))
    np.testing.assert_allclose(found, expected, rtol=0, atol=SAME_IMAGE)


class _Drawn(rules.ClassifierFree):
    """A rule whose eps~ is noise of the images' guidance keys."""

    def guided(self, params, label, w, keys):
        return rules.Guided(lambda z, logsnr: sampling.per_image_noise(keys, z.shape[1:]))


def test_keys_of_a_rule_are_the_images_own():
    def one_eps(eps_fn, z, keys):
        return eps_fn(z, jnp.float32(0))

    generator = generation.Generator(_Drawn(network, NULL), one_eps, SHAPE)
    table = params().unet
    together = np.asarray(generator(table, 7, INDICES, LABELS, 1.0))
    alone = np.asarray(generator(table, 7, INDICES[3:4], LABELS[3:4], 1.0))
    np.testing.assert_array_equal(together[3], alone[0])
    steps = jax.vmap(lambda key: jax.random.fold_in(key, 2))(generation.image_keys(7, INDICES))
    assert np.abs(together - sampling.per_image_noise(steps, SHAPE)).min() > 0


def test_unknown_form():
    with pytest.raises(ValueError, match='mean, eps'):
        rule('median', True)
