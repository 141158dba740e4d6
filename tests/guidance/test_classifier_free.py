"""The paper's rule: its convention by hand, and with networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guided import eps_fn

from cfg_jax import guidance
from cfg_jax.guidance.classifier_free import ClassifierFree

NULL = 10
FREE = ClassifierFree()


def field(value, batch=2):
    return jnp.full((batch, 3, 3, 1), value, jnp.float32)


def random_fields(count, batch=4):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, batch, 3, 3, 2)).astype(np.float32)


def network(z, logsnr, label):
    """eps = (label + 1) z + logsnr, so that each branch can be told from the output."""
    return (label[:, None, None, None] + 1.0) * z + logsnr[:, None, None, None]


def test_zero_weight_is_the_conditional_prediction():
    eps_cond, eps_uncond = random_fields(2)
    np.testing.assert_array_equal(guidance.guide(eps_cond, eps_uncond, 0.0), eps_cond)
    np.testing.assert_array_equal(guidance.guide(eps_cond, eps_uncond, np.zeros(4)), eps_cond)


def test_by_hand():
    # w = 3: (1 + 3) * 2 - 3 * 0.5 = 8 - 1.5 = 6.5
    np.testing.assert_array_equal(guidance.guide(field(2.0), field(0.5), 3.0), field(6.5))
    # w = -1 leaves the unconditional prediction: (1 - 1) * 2 + 1 * 0.5 = 0.5
    np.testing.assert_array_equal(guidance.guide(field(2.0), field(0.5), -1.0), field(0.5))


@pytest.mark.parametrize('w', [0.0, 0.1, 1.0, 4.0])
def test_weight_is_the_papers_scale_minus_one(w):
    """s = 1 + w in the convention eps_u + s (eps_c - eps_u) of other codebases."""
    eps_cond, eps_uncond = random_fields(2)
    expected = eps_uncond + (1 + w) * (eps_cond - eps_uncond)
    np.testing.assert_allclose(
        guidance.guide(eps_cond, eps_uncond, w), expected, rtol=0, atol=(1 + w) * 2e-6
    )


def test_equal_predictions_need_no_guidance():
    eps = random_fields(1)[0]
    np.testing.assert_allclose(guidance.guide(eps, eps, 2.5), eps, rtol=0, atol=4e-6)


def test_one_weight_per_image():
    eps_cond, eps_uncond = random_fields(2)
    weights = np.float32([0.0, 0.3, 1.0, 4.0])
    guided = guidance.guide(eps_cond, eps_uncond, weights)
    for i, w in enumerate(weights):
        alone = guidance.guide(eps_cond[i : i + 1], eps_uncond[i : i + 1], float(w))
        np.testing.assert_array_equal(guided[i], alone[0])


@pytest.mark.usefixtures('unchecked')
@pytest.mark.parametrize(
    ('cond', 'uncond', 'w'),
    [
        ((4, 8, 8, 3), (1, 8, 8, 3), ()),
        ((1, 8, 8, 3), (4, 8, 8, 3), ()),
        ((4, 8, 8, 3), (4, 8, 8, 1), ()),
        ((4, 8, 8, 3), (4, 8, 8), ()),
        ((1, 8, 8, 3), (1, 8, 8, 3), (4,)),
        ((4, 8, 8, 3), (4, 8, 8, 3), (1,)),
        ((4, 8, 8, 3), (4, 8, 8, 3), (3,)),
        ((4, 8, 8, 3), (4, 8, 8, 3), (4, 1, 1, 1)),
    ],
)
def test_shapes_that_disagree_are_refused_while_tracing(cond, uncond, w):
    """Broadcasting would hide the mistake, or make four images of one."""
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (cond, uncond, w)]
    with pytest.raises(ValueError, match='shape'):
        jax.eval_shape(guidance.guide, *shapes)


def test_with_a_network_by_hand():
    # eps_cond = (3 + 1) * 2 - 1 = 7, eps_uncond = (10 + 1) * 2 - 1 = 21,
    # w = 0.5: 1.5 * 7 - 0.5 * 21 = 10.5 - 10.5 = 0; w = 2: 3 * 7 - 2 * 21 = 21 - 42 = -21
    label, logsnr = jnp.array([3, 3]), jnp.float32(-1.0)
    for w, expected in ((0.5, 0.0), (2.0, -21.0)):
        eps = eps_fn(FREE, network, label, w)(field(2.0), logsnr)
        np.testing.assert_array_equal(eps, field(expected))


def test_with_a_network_and_a_weight_per_image():
    z, label = random_fields(1)[0], jnp.array([0, 1, 2, 3])
    weights = jnp.array([0.0, 0.5, 1.0, 4.0])
    together = eps_fn(FREE, network, label, weights)(z, 0.0)
    for i in range(4):
        one = slice(i, i + 1)
        alone = eps_fn(FREE, network, label[one], float(weights[i]))(z[one], 0.0)
        np.testing.assert_array_equal(together[i], alone[0])


def test_the_weight_can_be_traced():
    z, label = random_fields(1)[0], jnp.array([0, 1, 2, 3])
    traces = []

    @jax.jit
    def guided(w):
        traces.append(w)
        return eps_fn(FREE, network, label, w)(z, 0.5)

    for w in (0.0, 0.3, 4.0):
        expected = eps_fn(FREE, network, label, w)(z, 0.5)
        np.testing.assert_allclose(guided(w), expected, rtol=1e-5, atol=1e-5)
    assert len(traces) == 1
