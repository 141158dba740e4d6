"""Rules with networks: what is evaluated, counted and carried, and what a model makes of it."""

import collections
import dataclasses
import functools
from typing import ClassVar

import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
import pytest
from guided import denoiser, eps_fn, guided
from pairs import LabelAndVector
from support import make_tiny_config, user_error

from cfg_jax import inference, samplers, settings
from cfg_jax.conditioning.noisy import NoisyCondition
from cfg_jax.diffusion import CosineSchedule
from cfg_jax.guidance import CONDITIONAL, RULES, Rule
from cfg_jax.guidance.classifier import eps_shift, log_prob_gradient
from cfg_jax.guidance.classifier_free import ClassifierFree
from cfg_jax.guidance.interval import Interval
from cfg_jax.guidance.two_conditions import TwoConditions
from cfg_jax.keys import image_keys, per_image_noise, stream
from cfg_jax.models.denoiser import Denoiser, Prediction
from cfg_jax.perf.operations import count_flops
from cfg_jax.samplers import SAMPLERS
from cfg_jax.samplers.editing import Edit, edit_loop
from cfg_jax.samplers.grids import Grid
from cfg_jax.samplers.loop import sample_loop

CLASSES = NULL = 4
SHAPE = (3, 3, 1)
INDICES = np.arange(5)
LABELS = np.int32([3, 0, 1, 2, 3])
W = np.float32([0.0, 0.5, 1.0, 2.0, 4.0])
SAME_IMAGE = 2e-5
LEVELS = 3  # of the combinations of rules and samplers, which are many
LIMITS = {'logsnr_min': -8.0, 'logsnr_max': 8.0}


def random_images(batch=3):
    return np.random.default_rng(0).normal(size=(batch, 3, 3, 2)).astype(np.float32)


class Recorder:
    """eps = (label + 1) z + logsnr, so that each branch can be told from the output."""

    def __init__(self):
        self.calls = []

    def __call__(self, z, logsnr, label):
        self.calls.append((z, logsnr, label))
        return (label[:, None, None, None] + 1.0) * z + logsnr[:, None, None, None]


def test_no_weight_is_one_plain_pass():
    network, label = Recorder(), jnp.array([3, 0, 7])
    z = random_images()
    eps = eps_fn(ClassifierFree(), network, label, None)(z, 1.5)
    np.testing.assert_array_equal(eps, network(z, jnp.full(3, 1.5), label))
    z_seen, logsnr_seen, label_seen = network.calls[0]
    assert len(network.calls) == 2  # the second is this test's own
    np.testing.assert_array_equal(z_seen, z)
    np.testing.assert_array_equal(logsnr_seen, [1.5, 1.5, 1.5])
    np.testing.assert_array_equal(label_seen, label)


def test_classifier_free_is_one_pass_over_both_labels():
    network, label, pairs = Recorder(), jnp.array([3, 0, 7], jnp.int32), []

    class Keeping(Rule):
        def combine(self, level, w, predictions, state):
            pairs.append(predictions)
            return predictions[0], state

    z = random_images()
    eps_fn(Keeping(), network, label, 1.0, num_classes=10)(z, -2.0)
    (z_seen, logsnr, one_label) = network.calls[0]
    assert len(network.calls) == 1
    np.testing.assert_array_equal(z_seen, z)
    np.testing.assert_array_equal(logsnr, [-2.0, -2.0, -2.0])
    assert (one_label.shape, one_label.dtype) == ((3,), jnp.int32)
    (pair,) = pairs
    for eps, labels in zip(pair, (label, jnp.full(3, 10)), strict=True):
        np.testing.assert_array_equal(eps, Recorder()(z, jnp.full(3, -2.0), labels))


def test_what_does_not_depend_on_the_label_is_computed_once():
    """Convolutions before the label's: of B images; behind it: one, of both branches, 2B images."""
    batch, kernel = 3, jnp.ones((3, 3, 2, 2))

    def convolve(h):
        return jax.lax.conv_general_dilated(
            h, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
        )

    def network(z, logsnr, label):
        return convolve(convolve(z) + label[:, None, None, None])

    eps = eps_fn(ClassifierFree(), network, jnp.arange(batch), 1.0)
    jaxpr = jax.make_jaxpr(eps)(random_images(batch), jnp.float32(0.0))
    convolutions = [e for e in jaxpr.eqns if e.primitive.name == 'conv_general_dilated']
    assert [e.invars[0].aval.shape[0] for e in convolutions] == [batch, 2 * batch]


@pytest.mark.parametrize('space', ['eps', 'x', 'v'])
@pytest.mark.parametrize('logsnr', [-6.0, 0.0, 6.0])
def test_a_linear_rule_is_the_same_in_every_space(space, logsnr):
    """eps, x and v are affine in each other at a fixed z, and the weights add up to 1."""

    class InSpace(ClassifierFree):
        pass

    InSpace.space = space
    z, label = random_images(), jnp.array([0, 2, 1])
    network = Recorder()
    w = np.float32([0.0, 1.0, 3.0])
    expected = eps_fn(ClassifierFree(), network, label, w)(z, logsnr)
    found = eps_fn(InSpace(), network, label, w)(z, logsnr)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * scale)


def test_what_a_rule_gives_must_have_the_shape_of_an_image():
    class Mean(Rule):
        def combine(self, level, w, predictions, state):
            return predictions[0].mean(axis=(1, 2, 3), keepdims=True), state

    with pytest.raises(ValueError, match='guided'):
        jax.eval_shape(eps_fn(Mean(), Recorder(), jnp.arange(3), 1.0), random_images(), 0.0)


class Counting:
    """Networks that count how often they are evaluated while a compiled program runs."""

    def __init__(self):
        self.counts = collections.Counter()
        self.null_levels = []

    def called(self, role, value, logsnr, label):
        def note(value, logsnr, label):
            self.counts[role] += 1
            if np.all(label == NULL):
                self.null_levels.append(float(np.ravel(logsnr)[0]))

        jax.debug.callback(note, value, logsnr, label)

    def network(self, role):
        def evaluate(params, z, logsnr, label, **options):
            if isinstance(label, NoisyCondition):
                label = label.condition
            label = jax.tree.leaves(label)[0]  # of a pair the first
            # The label is among the arguments, so that each of the mapped conditions counts.
            self.called(role, z.mean() + label.sum(), logsnr, label)
            shift = label[:, None, None, None] / 7.0
            return jnp.tanh(z + shift + logsnr[:, None, None, None] / 20.0)

        return Denoiser(evaluate)

    def classifier(self, params, z, logsnr):
        kernel = jnp.asarray(np.random.default_rng(1).normal(size=(9, CLASSES)), jnp.float32)
        self.called('classifier', z.mean(), logsnr, jnp.zeros((), jnp.int32))
        return z.reshape(len(z), -1) @ kernel

    def networks(self):
        return {
            'main': self.network('main'),
            'guide': self.network('guide'),
            'classifier': self.classifier,
        }


def tiny(**changes):
    config = make_tiny_config(**changes)
    config.data.image_size, config.data.num_classes = SHAPE[0], CLASSES
    return config


def counted(rule, sampler, w):
    """(nfe of a model's images, evaluations that its networks counted, levels of null ones)."""
    spy = Counting()
    networks = spy.networks()
    params = dict.fromkeys(networks, ())
    model = inference.Model(tiny(), params, networks=networks, rule=rule, sampler=sampler)
    nfe = np.asarray(model.generate(0, INDICES, LABELS, w).nfe)
    jax.effects_barrier()
    assert len(set(nfe.tolist())) == 1
    return int(nfe[0]), spy.counts, sorted(spy.null_levels)


def combinations():
    """Every rule with every sampler that can follow it, each at few levels."""
    for rule_name in RULES:
        rule = RULES.make(rule_name)
        for name in SAMPLERS:
            sampler = SAMPLERS.make(name, num_steps=LEVELS)
            fits = sampler.shifts_mean or not rule.ancestral_only
            if fits and (sampler.renoises or not rule.renoises):
                yield pytest.param(rule, sampler, id=f'{rule_name}-{name}')


def test_the_combinations_are_all_but_those_that_are_refused():
    found = {param.id for param in combinations()}
    others = {f'{rule}-{name}' for rule in RULES for name in SAMPLERS} - found
    refused = {f'classifier_mean-{name}' for name in SAMPLERS if name != 'ancestral'}
    assert others == refused | {f'cfg_plus_plus-{name}' for name in SAMPLERS if name != 'ddim'}


@pytest.mark.parametrize(('rule', 'sampler'), list(combinations()))
def test_nfe_is_what_the_networks_count(rule, sampler):
    """Uncompiled, which is quicker for so many: there only the branches taken are run."""
    keys = jax.random.split(jax.random.key(0), len(LABELS))
    z = per_image_noise(keys, SHAPE)
    for w, per_level in ((W, rule.nfe_per_level(2.0)), (None, 1)):
        spy = Counting()
        networks = spy.networks()
        predict = guided(rule, Recorder(), LABELS, w, num_classes=NULL)
        predict = dataclasses.replace(
            predict, networks=networks, params=dict.fromkeys(networks, ())
        )
        if isinstance(rule, TwoConditions):
            conditioning = LabelAndVector(NULL)
            condition = conditioning.from_labels(jnp.asarray(LABELS))
            predict = dataclasses.replace(predict, conditioning=conditioning, condition=condition)
        with jax.disable_jit():
            _, state = sample_loop(sampler, predict, z, keys)
        jax.effects_barrier()
        assert int(state.nfe) == sum(spy.counts.values())
        evaluations = (rule.unguided,) if w is None else rule.evaluations
        expected = collections.Counter(evaluation.network for evaluation in evaluations)
        calls = int(state.nfe) // per_level  # of a sampler that calls once a level or more often
        assert calls >= LEVELS
        assert spy.counts == {network: calls * number for network, number in expected.items()}


@pytest.mark.parametrize('name', ['ancestral', 'ddim'])
def test_nfe_of_a_compiled_model(name):
    rule = ClassifierFree()
    sampler = SAMPLERS.make(name, num_steps=6)
    for w, expected in ((W, 12), (2.0, 12), (0.0, 6)):
        nfe, counts, _ = counted(rule, sampler, w)
        assert (nfe, counts) == (expected, {'main': expected})


def test_an_interval_evaluates_the_null_condition_inside_it_alone():
    """Levels with s = exp(-logsnr / 2) in (0.5, 2], out of six."""
    levels = np.asarray(Grid(CosineSchedule(**LIMITS)).levels(6))
    inside = [lev for lev in levels if 0.5 < np.exp(-lev / 2) <= 2.0]
    assert 0 < len(inside) < 6
    sampler = SAMPLERS.make('ancestral', num_steps=6, grid=Grid(CosineSchedule(**LIMITS)))
    nfe, counts, null_levels = counted(Interval(lowest=0.5, highest=2.0), sampler, W)
    np.testing.assert_allclose(null_levels, inside, rtol=0, atol=1e-5)
    assert nfe == sum(counts.values()) == 6 + len(inside)


def flops_of_branches(jaxpr):
    """Operations of each branch of the conditions in a jaxpr, at any depth, ascending."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == 'cond':
            branches = equation.params['branches']
            yield sorted(
                count_flops(jex.core.jaxpr_as_fun(branch), *branch.in_avals) for branch in branches
            )
            continue
        for value in equation.params.values():
            inner = getattr(value, 'jaxpr', value)
            if hasattr(inner, 'eqns'):
                yield from flops_of_branches(inner)


@pytest.mark.parametrize('name', ['classifier_free', 'autoguidance', 'projected', 'rescale'])
@pytest.mark.parametrize('sampler', ['ancestral', 'dpmpp_2m'])
def test_a_level_outside_of_the_interval_takes_the_operations_of_one_pass(name, sampler):
    """The trajectory branches at each level between one evaluation and the rule's two."""
    matrix = jnp.ones((2, 2))

    def network(z, logsnr, label):
        return (z + label[:, None, None, None]) @ matrix

    one = 2 * 3 * 9 * 2 * 2  # of B = 3 images
    rule = Interval(lowest=0.5, highest=2.0, inner=RULES.make(name))
    predict = guided(rule, network, jnp.array([0, 2, 1]), 1.0, guide=network)
    keys = jax.random.split(jax.random.key(0), 3)
    made = SAMPLERS.make(sampler, num_steps=4)
    jaxpr = jax.make_jaxpr(lambda z: sample_loop(made, predict, z, keys)[0])(random_images())
    found = [pair for pair in flops_of_branches(jaxpr.jaxpr) if max(pair) > 0]
    assert found == [[one, 2 * one]]


def test_what_is_not_evaluated_is_not_in_the_program():
    """Operations of the compiled functions: w = 0 has one evaluation of one network a level."""
    matrix = jnp.ones((2, 2))

    def network(z, logsnr, label):
        return (z + label[:, None, None, None]) @ matrix

    def classifier(z, logsnr):
        return z.reshape(len(z), -1)[:, :8] @ jnp.ones((8, 8))

    one = 2 * 3 * 9 * 2 * 2  # of B = 3 images
    gradient = 2 * (2 * 3 * 8 * 8)  # forward and backward
    z, label, logsnr = random_images(), jnp.array([0, 2, 1]), jnp.float32(0.0)
    for name, guided_flops in {
        'classifier_free': 2 * one,
        'interval': 2 * one,  # the dearest branch of the condition
        'projected': 2 * one,
        'autoguidance': 2 * one,
        'classifier_eps': one + gradient,
        'classifier_mean': one + gradient,
    }.items():
        for w, expected in ((None, one), (1.0, guided_flops)):
            others = {'guide': network, 'classifier': classifier}
            predict = guided(RULES.make(name), network, label, w, **others)
            flops = count_flops(lambda z, predict=predict: predict(z, logsnr, predict.init(z)), z)
            assert flops == expected, (name, w)


@dataclasses.dataclass(frozen=True)
class Summing(Rule):
    """Predicts the sum of w over the levels before."""

    evaluations: ClassVar = (CONDITIONAL,)

    def init(self, z):
        return jnp.zeros(len(z))

    def combine(self, level, w, predictions, state):
        return jnp.zeros_like(level.z) + state[:, None, None, None], state + w


@dataclasses.dataclass(frozen=True)
class OneEps(samplers.Sampler):
    """The prediction of the last level itself."""

    def step(self, predict, z, level, state):
        prediction, guidance = predict(z, level.logsnr, state.guidance)
        return prediction.eps, state._replace(guidance=guidance)


def test_state_is_carried_from_level_to_level():
    predict = guided(Summing(), Recorder(), jnp.arange(3), [1.0, 2.0, 0.5])
    keys = jax.random.split(jax.random.key(0), 3)
    eps, state = sample_loop(OneEps(num_steps=4), predict, jnp.asarray(random_images()), keys)
    np.testing.assert_allclose(eps[:, 0, 0, 0], [3.0, 6.0, 1.5])  # before the fourth level
    np.testing.assert_allclose(state.rule, [4.0, 8.0, 2.0])
    assert int(state.nfe) == 4


@pytest.mark.parametrize(
    ('name', 'painted'), [('heun', 0), ('flow_heun', 0), ('ddim', 3), ('heun', 2)]
)
def test_state_counts_levels_and_not_evaluations(name, painted):
    """A second evaluation of a level, for Heun's correction or to paint, adds no momentum."""
    predict = guided(Summing(), Recorder(), jnp.arange(3), [1.0, 2.0, 0.5])
    keys = jax.random.split(jax.random.key(0), 3)
    sampler, z = SAMPLERS.make(name, num_steps=4), jnp.asarray(random_images())
    if painted:
        anew = jnp.ones((3, 3, 3, 1), bool)
        _, state = edit_loop(sampler, predict, z, keys, Edit(jnp.zeros_like(z), anew, 1.0, painted))
        visits = 3 * painted + 1
    else:
        _, state = sample_loop(sampler, predict, z, keys)
        visits = 4
    np.testing.assert_allclose(state.rule, [4.0, 8.0, 2.0])
    assert int(state.nfe) == (2 * visits - 1 if sampler.corrects else visits)


@pytest.mark.parametrize('w', [None, 1.5])
def test_a_predicted_variance_passes_through_the_rule(w):
    """v = (h + 1) / 2 of the conditional evaluation, whatever the null condition's."""

    def network(z, logsnr, label):
        second = jnp.where(label == NULL, -1.0, 0.5)[:, None, None, None]
        return jnp.concatenate([z, jnp.zeros_like(z) + second], axis=-1)

    predict = guided(ClassifierFree(), network, jnp.array([0, 2, 1]), w, num_classes=NULL)
    networks = {'main': denoiser(network, learned_variance=True)}
    predict = dataclasses.replace(predict, networks=networks)
    z = jnp.asarray(random_images())
    prediction, _ = predict(z, jnp.float32(0.0), predict.init(z))
    np.testing.assert_array_equal(prediction.v, np.full_like(z, 0.75))


# Whole models against the sampler called by hand, on the images' own start noise and keys.


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


def test_unknown_rule():
    message = user_error(RULES.make, 'classifier_median')
    assert "'classifier_median'" in message
    assert "did you mean 'classifier_mean'" in message
    assert ', '.join(RULES) in message


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
