"""Rules that combine predictions: the paper's convention, by hand and on fake networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import guidance

NULL = 10


def field(value, batch=2):
    return jnp.full((batch, 3, 3, 1), value, jnp.float32)


def random_fields(count, batch=4):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, batch, 3, 3, 2)).astype(np.float32)


class FakeNetwork:
    """eps = (label + 1) z + logsnr, so that each branch can be told from the output."""

    def __init__(self):
        self.calls = []

    def __call__(self, z, logsnr, label):
        self.calls.append((z, logsnr, label))
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


def test_conditional_is_one_plain_pass():
    network, label = FakeNetwork(), jnp.array([3, 0, 7])
    z = random_fields(1, batch=3)[0]
    eps = guidance.conditional(network, label)(z, jnp.float32(1.5))
    np.testing.assert_array_equal(eps, network(z, jnp.full(3, 1.5), label))
    z_seen, logsnr_seen, label_seen = network.calls[0]
    assert len(network.calls) == 2  # the second is this test's own
    np.testing.assert_array_equal(z_seen, z)
    np.testing.assert_array_equal(logsnr_seen, [1.5, 1.5, 1.5])
    np.testing.assert_array_equal(label_seen, label)


def test_classifier_free_is_one_pass_over_both_labels():
    network, label = FakeNetwork(), jnp.array([3, 0, 7], jnp.int32)
    z = random_fields(1, batch=3)[0]
    pair = guidance.pair(network, label, NULL)(z, jnp.float32(-2.0))
    (z_seen, logsnr, one_label) = network.calls[0]
    assert len(network.calls) == 1
    np.testing.assert_array_equal(z_seen, z)
    np.testing.assert_array_equal(logsnr, [-2.0, -2.0, -2.0])
    assert (one_label.shape, one_label.dtype) == ((3,), jnp.int32)
    for eps, labels in zip(pair, (label, jnp.full(3, NULL)), strict=True):
        np.testing.assert_array_equal(eps, FakeNetwork()(z, jnp.full(3, -2.0), labels))


def test_what_does_not_depend_on_the_label_is_computed_once():
    """Convolutions before the label's: of B images; behind it: one, of both branches, 2B images."""
    batch, kernel = 3, jnp.ones((3, 3, 2, 2))

    def convolve(h):
        return jax.lax.conv_general_dilated(
            h, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
        )

    def network(z, logsnr, label):
        return convolve(convolve(z) + label[:, None, None, None])

    pair_fn = guidance.pair(network, jnp.arange(batch), NULL)
    jaxpr = jax.make_jaxpr(pair_fn)(random_fields(1, batch)[0], jnp.float32(0.0))
    convolutions = [e for e in jaxpr.eqns if e.primitive.name == 'conv_general_dilated']
    assert [e.invars[0].aval.shape[0] for e in convolutions] == [batch, 2 * batch]


def test_classifier_free_by_hand():
    # eps_cond = (3 + 1) * 2 - 1 = 7, eps_uncond = (10 + 1) * 2 - 1 = 21,
    # w = 0.5: 1.5 * 7 - 0.5 * 21 = 10.5 - 10.5 = 0; w = 2: 3 * 7 - 2 * 21 = 21 - 42 = -21
    label, logsnr = jnp.array([3, 3]), jnp.float32(-1.0)
    for w, expected in ((0.5, 0.0), (2.0, -21.0)):
        eps_fn = guidance.classifier_free(FakeNetwork(), label, NULL, w)
        np.testing.assert_array_equal(eps_fn(field(2.0), logsnr), field(expected))


def test_classifier_free_with_a_weight_per_image():
    z, label = random_fields(1)[0], jnp.array([0, 1, 2, 3])
    weights = jnp.array([0.0, 0.5, 1.0, 4.0])
    together = guidance.classifier_free(FakeNetwork(), label, NULL, weights)(z, jnp.float32(0.0))
    for i in range(4):
        alone = guidance.classifier_free(FakeNetwork(), label[i : i + 1], NULL, float(weights[i]))(
            z[i : i + 1], jnp.float32(0.0)
        )
        np.testing.assert_array_equal(together[i], alone[0])


def test_the_weight_can_be_traced():
    z, label = random_fields(1)[0], jnp.array([0, 1, 2, 3])
    traces = []

    @jax.jit
    def guided(w):
        traces.append(w)
        return guidance.classifier_free(FakeNetwork(), label, NULL, w)(z, jnp.float32(0.5))

    for w in (0.0, 0.3, 4.0):
        expected = guidance.classifier_free(FakeNetwork(), label, NULL, w)(z, jnp.float32(0.5))
        np.testing.assert_allclose(guided(w), expected, rtol=1e-5, atol=1e-5)
    assert len(traces) == 1
