"""w = 0, alone or beside other weights: the unguided model, or the terms that w does not weigh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guided import guided
from pairs import LabelAndVector
from support import make_tiny_config, user_error

from cfg_jax import animation, inference
from cfg_jax.conditioning import noisy
from cfg_jax.conditioning.noisy import NoisyCondition
from cfg_jax.guidance import RULES, make_rule
from cfg_jax.models.denoiser import Denoiser
from cfg_jax.samplers import SAMPLERS
from cfg_jax.samplers.loop import sample_loop
from cfg_jax.watching import Watcher

NULL = 10
LABELS = np.int32([3, 3, 7, 1])
MIXED = np.float32([0.0, 0.6, 0.0, 1.0])
# What each has at w = 0 beside the conditional model.
WITH_TERMS = [
    'composition:labels=3/7',
    'negative:keep_null=true',
    'two_conditions',
    'threshold:quantile=0.5',
    'cfg_zero_star',
    'classifier_eps:clip_first=true',
]
NEUTRAL = ['composition', 'negative:keep_null=true,strength=0', 'two_conditions:first=1']
NEUTRAL += ['cfg_zero_star:zero=0', 'composition:labels=3,weights=0']


def images():
    return jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 3, 2)), jnp.float32)


def network(z, logsnr, condition, **options):
    if isinstance(condition, NoisyCondition):  # whose noise turns the embedding
        label = noisy.encode(Rising(), condition, 8, jnp.float32) @ jnp.arange(8.0) / 28
    else:
        label = sum(leaf.reshape(len(z), -1).sum(axis=1) for leaf in jax.tree.leaves(condition))
    shift = jnp.sin(label + 0.1 * logsnr)[:, None, None, None]
    return (0.3 * z + 0.2 * jnp.roll(z, 1, axis=1) * shift + shift) * (0.5 if options else 1.0)


class Rising:
    """Embeds a label as its number, more and more over the features."""

    def encode(self, condition, features, dtype):
        return (condition[:, None] * jnp.linspace(0.5, 1.5, features)).astype(dtype)


def predict_of(spec, w):
    rule, condition, conditioning = make_rule(spec), jnp.asarray(LABELS), None
    if spec.startswith('two_conditions'):
        conditioning = LabelAndVector(NULL)
        condition = conditioning.from_labels(condition)
    predict = guided(
        rule,
        network,
        condition,
        w,
        conditioning=conditioning,
        guide=lambda *inputs: 0.9 * network(*inputs),
        classifier=lambda z, logsnr: z.reshape(len(z), -1)[:, :10],
    )
    main = Denoiser(lambda params, *inputs, **options: network(*inputs, **options))
    return dataclasses.replace(predict, networks=predict.networks | {'main': main})


def prediction(spec, w, logsnr=-6.0):
    predict = predict_of(spec, w)
    return predict(images(), jnp.float32(logsnr), predict.init(images()))[0]


@pytest.mark.parametrize('spec', [*(r for r in RULES if r not in WITH_TERMS), *NEUTRAL])
def test_images_of_zero_weight_are_unguided_beside_others(spec):
    rule = make_rule(spec)
    if not rule.unguided_at_zero:
        assert spec == 'threshold'  # its default is among `WITH_TERMS` with another quantile
        return
    assert rule.nfe_per_level(0.0) == 1
    found, alone = prediction(spec, MIXED), prediction(spec, None)
    np.testing.assert_allclose(found.eps[::2], alone.eps[::2], rtol=0, atol=2e-6)
    if rule.renoises:
        np.testing.assert_array_equal(found.renoise[::2], alone.eps[::2])
    if rule.ancestral_only:
        assert not np.any(found.mean_gradient[::2])


@pytest.mark.parametrize('spec', WITH_TERMS)
def test_terms_that_w_does_not_weigh_stay(spec):
    rule = make_rule(spec)
    assert not rule.unguided_at_zero
    assert rule.nfe_per_level(0.0) == len(rule.evaluations)
    for modified in (f'{spec}+interval:highest=1e9', f'{spec}+schedule'):
        assert not make_rule(modified).unguided_at_zero
    logsnr = -9.0 if spec == 'cfg_zero_star' else 0.5
    found, alone = prediction(spec, MIXED, logsnr), prediction(spec, None, logsnr)
    assert np.abs(found.eps[::2] - alone.eps[::2]).max() > 0.01


@pytest.mark.parametrize(
    'spec', ['cfg_plus_plus', 'negative:keep_null=true', 'interval', 'annealed_condition']
)
def test_a_number_and_a_list_of_zeros_are_the_same_images(spec):
    """In `generate`, `trajectory`, animations, and step by step."""
    config = make_tiny_config(sampler__name='ddim', sampler__num_steps=3)
    networks = {'main': Denoiser(lambda params, *inputs: network(*inputs))}
    model = inference.Model(config, {'main': ()}, networks=networks, rule=make_rule(spec))
    labels = LABELS.tolist()
    one, many = (model.sample(labels, w) for w in (0.0, np.zeros(4)))
    assert np.abs(np.int32(one) - many).max() <= 1
    assert np.abs(np.int32(one) - model.sample(labels, 0.6)).max() > 1
    assert np.abs(np.int32(one) - model.trajectory(labels, 0.0)[-1]).max() <= 1
    first, _ = animation.growing_weight(model, labels, 0.0, 0.6)[0]
    assert np.abs(np.int32(one) - first).max() <= 1
    *_, last = Watcher(model).pictures(0, range(4), LABELS, 0.0)
    assert np.abs(np.int32(one) - last()).max() <= 1
    evaluations = 3 * (3 if spec.startswith('negative') else 1)
    assert set(model.generate(0, range(4), LABELS, 0.0).nfe.tolist()) == {evaluations}


def test_noise_on_the_condition_is_another_at_every_level():
    """And no noise at gamma = 1, near clean levels."""
    rule = 'annealed_condition:tau1=0.2,tau2=0.6,scale=0.5,mix=1'
    predict = predict_of(rule, None)
    state, found = predict.init(images()), []
    for _ in range(2):
        prediction, state = predict(images(), jnp.float32(0.0), state)
        found.append(prediction.eps)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    ones, zeros = jnp.ones(4), jnp.zeros(4)
    undisturbed = NoisyCondition(jnp.asarray(LABELS), ones, zeros, zeros, predict.keys)
    for logsnr, noise in ((18.0, False), (0.0, True)):
        eps = predict(images(), jnp.float32(logsnr), predict.init(images()))[0].eps
        plain = network(images(), jnp.full(4, logsnr), undisturbed)
        assert (np.abs(eps - plain).max() > 1e-3) == noise


@pytest.mark.parametrize('w', [0.0, 1.0])
def test_an_unguided_model_without_a_null_condition_is_refused(w):
    """Its label's row is not there: images were NaN at w = 0."""
    config = make_tiny_config(sampler__name='ddim', sampler__num_steps=2)
    config.condition = 'label_only'
    networks = {
        'main': Denoiser(lambda params, *inputs: network(*inputs)),
        'classifier': lambda params, z, logsnr: z.reshape(len(z), -1)[:, :10],
    }

    def model_of(rule):
        params = dict.fromkeys(networks, ())
        return inference.Model(config, params, networks=networks, rule=make_rule(rule))

    assert model_of('classifier_eps').sample(LABELS.tolist(), w).shape[0] == 4
    model = model_of('classifier_eps:conditional=false')
    for message in (
        user_error(model.sample, LABELS.tolist(), w),
        user_error(model.trajectory, LABELS.tolist(), w),
        user_error(Watcher(model).pictures, 0, range(4), LABELS, w),
    ):
        assert 'needs a null condition' in message
        assert 'w=0' not in message


@pytest.mark.parametrize('rule', RULES)
def test_every_rule_acts_in_an_interval(rule):
    """Of noise levels, compiled: a branch of each level."""
    if rule == 'interval':
        return
    made = make_rule(f'{rule}+interval:lowest=0.5,highest=2')
    name = 'ancestral' if made.ancestral_only else 'ddim'
    sampler = SAMPLERS.make(name, num_steps=8)
    keys = jax.random.split(jax.random.key(0), 4)
    predict = predict_of(f'{rule}+interval:lowest=0.5,highest=2', MIXED)
    x, state = jax.jit(lambda z: sample_loop(sampler, predict, z, keys))(images())
    assert np.isfinite(x).all()
    assert 8 < int(state.nfe) < 8 * len(made.evaluations)
