"""How often rules evaluate networks: as the networks count it, and in operations of programs."""

import collections
import dataclasses

import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
import pytest
from guided import Recorder, guided
from pairs import LabelAndVector
from toy_images import CLASSES, INDICES, LABELS, NULL, SHAPE, W, random_images, tiny

from cfg_jax import inference
from cfg_jax.conditioning.noisy import NoisyCondition
from cfg_jax.diffusion import CosineSchedule
from cfg_jax.guidance import RULES
from cfg_jax.guidance.classifier_free import ClassifierFree
from cfg_jax.guidance.interval import Interval
from cfg_jax.guidance.two_conditions import TwoConditions
from cfg_jax.keys import per_image_noise
from cfg_jax.models.denoiser import Denoiser
from cfg_jax.perf.operations import count_flops
from cfg_jax.samplers import SAMPLERS
from cfg_jax.samplers.grids import Grid
from cfg_jax.samplers.loop import sample_loop

LEVELS = 3  # of the combinations of rules and samplers, which are many
LIMITS = {'logsnr_min': -8.0, 'logsnr_max': 8.0}


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
