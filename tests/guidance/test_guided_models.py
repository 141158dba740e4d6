"""Whole models against the sampler called by hand, on the images' own start noise and keys."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guided import OneEps
from support import user_error
from toy_images import CLASSES, INDICES, LABELS, NULL, SHAPE, W, tiny

from cfg_jax import inference, settings
from cfg_jax.guidance import RULES
from cfg_jax.guidance.classifier import eps_shift, log_prob_gradient
from cfg_jax.guidance.classifier_free import ClassifierFree
from cfg_jax.guidance.interval import Interval
from cfg_jax.keys import image_keys, per_image_noise, stream
from cfg_jax.models.denoiser import Denoiser, Prediction
from cfg_jax.samplers.loop import sample_loop

SAME_IMAGE = 2e-5


def toy_network(table, z, logsnr, label):
    """eps = tanh(z + table[label] + logsnr / 20)."""
    return jnp.tanh(z + jnp.asarray(table)[label][:, None, None] + logsnr[:, None, None, None] / 20)


def toy_classifier(kernel, z, logsnr):
    """Logits, linear in z and slightly dependent on logsnr."""
    return jnp.tanh(z.reshape(len(z), -1) @ kernel) * (1.0 + logsnr[:, None] / 40)


@functools.cache
def toy_params():
    rng = np.random.default_rng(0)
    table = np.float32(rng.normal(size=(CLASSES + 1, 1)))
    guide = np.float32(rng.normal(size=(CLASSES + 1, 1)))
    return {
        'main': table,
        'classifier': np.float32(rng.normal(size=(9, CLASSES))),
        'guide': guide,
    }


def generate(rule, name, w, params=None, **networks):
    networks = {
        'main': Denoiser(toy_network),
        'guide': Denoiser(toy_network),
        'classifier': toy_classifier,
    } | networks
    config = tiny(sampler__name=name, sampler__num_steps=6)
    model = inference.Model(config, params or toy_params(), networks=networks, rule=rule)
    return np.asarray(model.generate(7, INDICES, LABELS, w).x)


class ByHand:
    """A `predict` of functions of (z, logsnr)."""

    def __init__(self, eps, mean_gradient=None):
        self.eps, self.mean_gradient = eps, mean_gradient

    def init(self, z):
        return ()

    def __call__(self, z, logsnr, state, step=None):
        gradient = None if self.mean_gradient is None else self.mean_gradient(z, logsnr)
        return Prediction(self.eps(z, logsnr), mean_gradient=gradient), state


def by_hand(name, eps, mean_gradient=None):
    """Streams 1 and 2 of each image are its start noise and its steps."""
    keys = image_keys(7, INDICES)
    start, steps = (jax.vmap(lambda key, n=n: jax.random.fold_in(key, n))(keys) for n in (1, 2))
    sampler = settings.make_sampler(tiny(sampler__name=name, sampler__num_steps=6))
    z = per_image_noise(start, SHAPE)
    sample = jax.jit(lambda: sample_loop(sampler, ByHand(eps, mean_gradient), z, steps)[0])
    return np.asarray(sample())


def eps_of(label, params=None):
    table = (params or toy_params())['main']
    return lambda z, logsnr: toy_network(table, z, jnp.broadcast_to(logsnr, len(z)), label)


def gradient(z, logsnr):
    fn = functools.partial(toy_classifier, toy_params()['classifier'])
    return log_prob_gradient(fn, z, logsnr, LABELS)


def null_labels():
    return np.full_like(LABELS, NULL)


@pytest.mark.parametrize('conditional', [True, False])
@pytest.mark.parametrize(('form', 'name'), [('mean', 'ancestral'), ('eps', 'ddim')])
def test_classifier_guidance_is_its_mathematics_with_networks(form, name, conditional):
    base = eps_of(LABELS if conditional else null_labels())
    rule = RULES.make(f'classifier_{form}', f'conditional={conditional}')
    found = generate(rule, name, W)
    if form == 'mean':
        weights = W[:, None, None, None]
        expected = by_hand(name, base, lambda z, logsnr: weights * gradient(z, logsnr))
    else:
        expected = by_hand(
            name, lambda z, logsnr: eps_shift(base(z, logsnr), gradient(z, logsnr), logsnr, W)
        )
    np.testing.assert_allclose(found, expected, rtol=0, atol=SAME_IMAGE)
    unguided = by_hand(name, base)
    np.testing.assert_allclose(found[0], unguided[0], rtol=0, atol=SAME_IMAGE)  # w = 0
    moved = np.abs(found - unguided).max(axis=(1, 2, 3))
    assert np.all(moved[2:] > 100 * SAME_IMAGE)


@pytest.mark.parametrize('conditional', [True, False])
def test_no_weight_is_the_model_alone(conditional):
    base = eps_of(LABELS if conditional else null_labels())
    rule = RULES.make('classifier_eps', f'conditional={conditional}')
    found = generate(rule, 'ancestral', 0.0)
    np.testing.assert_allclose(found, by_hand('ancestral', base), rtol=0, atol=SAME_IMAGE)


def test_classifier_free_is_its_mathematics_with_a_network():
    found = generate(ClassifierFree(), 'ancestral', W)
    cond, uncond = eps_of(LABELS), eps_of(null_labels())
    w = W[:, None, None, None]
    expected = by_hand(
        'ancestral', lambda z, logsnr: (1 + w) * cond(z, logsnr) - w * uncond(z, logsnr)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=SAME_IMAGE)


def test_neutral_settings_are_classifier_free_guidance():
    expected = generate(ClassifierFree(), 'ancestral', W)
    for rule in (Interval(), RULES.make('projected', 'eta=1')):
        np.testing.assert_allclose(generate(rule, 'ancestral', W), expected, rtol=0, atol=2e-5)


def test_an_interval_outside_of_the_levels_is_the_model_alone():
    found = generate(Interval(lowest=1e6), 'ancestral', W)
    expected = generate(ClassifierFree(), 'ancestral', 0.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_an_interval_is_neither():
    found = generate(Interval(lowest=0.5, highest=2.0), 'ancestral', W)
    for w in (0.0, W):
        other = generate(ClassifierFree(), 'ancestral', w)
        assert np.abs(found - other)[1:].max() > 1e-3


def test_autoguidance_by_the_null_label_is_the_papers_rule():
    """A guide that ignores the class stands where eps(z) does."""

    def null_network(table, z, logsnr, label):
        return toy_network(table, z, logsnr, jnp.full_like(label, NULL))

    rule = RULES.make('autoguidance')
    params = toy_params() | {'guide': toy_params()['main']}
    for w in (W, 0.0):
        found = generate(rule, 'ancestral', w, params, guide=Denoiser(null_network))
        expected = generate(ClassifierFree(), 'ancestral', w)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


@dataclasses.dataclass(frozen=True)
class Drawn(ClassifierFree):
    """A rule whose eps~ is noise of the images' keys at the level."""

    def combine(self, level, w, predictions, state):
        return per_image_noise(level.keys, level.z.shape[1:]), state


def test_keys_of_a_rule_are_the_images_own():
    networks = {'main': Denoiser(toy_network)}
    model = inference.Model(
        tiny(), toy_params(), networks=networks, rule=Drawn(), sampler=OneEps(num_steps=2)
    )
    together = np.asarray(model.generate(7, INDICES, LABELS, 1.0).x)
    alone = np.asarray(model.generate(7, INDICES[3:4], LABELS[3:4], 1.0).x)
    np.testing.assert_array_equal(together[3], alone[0])
    for number in (1, 2):  # neither the start noise nor the steps'
        keys = stream(image_keys(7, INDICES), number)
        for others in (keys, stream(keys, 0), stream(keys, 1)):
            assert np.abs(together - per_image_noise(others, SHAPE)).min() > 0
    later = inference.Model(
        tiny(), toy_params(), networks=networks, rule=Drawn(), sampler=OneEps(num_steps=3)
    )
    # Another level draws anew.
    assert np.abs(together - np.asarray(later.generate(7, INDICES, LABELS, 1.0).x)).min() > 0


def test_a_rule_without_its_network():
    for name, network in (('autoguidance', 'guide'), ('classifier_eps', 'classifier')):
        message = user_error(inference.Model, tiny(), toy_params(), rule=RULES.make(name))
        assert f'needs a {network} network' in message
        assert '--guidance_network' in message


def test_a_shifted_mean_is_ancestral():
    networks = {'classifier': toy_classifier}
    rule, config = RULES.make('classifier_mean'), tiny(sampler__name='ddim')
    message = user_error(inference.Model, config, toy_params(), networks=networks, rule=rule)
    assert 'use the ancestral sampler' in message
