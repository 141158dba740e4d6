"""Rules with networks: what is evaluated at one level, and carried to the next."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guided import OneEps, Recorder, denoiser, eps_fn, guided
from support import user_error
from toy_images import NULL, random_images

from cfg_jax.guidance import CONDITIONAL, RULES, Rule
from cfg_jax.guidance.classifier_free import ClassifierFree
from cfg_jax.samplers import SAMPLERS
from cfg_jax.samplers.editing import Edit, edit_loop
from cfg_jax.samplers.loop import sample_loop


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


@dataclasses.dataclass(frozen=True)
class Summing(Rule):
    """Predicts the sum of w over the levels before."""

    evaluations: ClassVar = (CONDITIONAL,)

    def init(self, z):
        return jnp.zeros(len(z))

    def combine(self, level, w, predictions, state):
        return jnp.zeros_like(level.z) + state[:, None, None, None], state + w


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


def test_unknown_rule():
    message = user_error(RULES.make, 'classifier_median')
    assert "'classifier_median'" in message
    assert "did you mean 'classifier_mean'" in message
    assert ', '.join(RULES) in message
