"""Rules that draw a condition, a level or noise, each against its published formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_level import LABELS, direct, guided, network

from cfg_jax.conditioning import noisy
from cfg_jax.guidance import make_rule
from cfg_jax.guidance.guided import GuidedDenoiser
from cfg_jax.keys import stream
from cfg_jax.models.denoiser import Denoiser


def test_independent_condition_needs_no_null_label():
    """The second condition is some class, drawn anew at each level."""
    seen = []

    def spy(params, z, logsnr, label):
        jax.debug.callback(lambda labels: seen.append(np.asarray(labels).ravel()), label)
        return network(params, z, logsnr, label)

    rule, keys = make_rule('independent'), jax.random.split(jax.random.key(5), 200)
    label = jnp.full(200, 3)
    bound = GuidedDenoiser(
        rule, {'main': Denoiser(spy)}, {'main': ()}, LABELS, label, keys, jnp.ones(200)
    )
    z = jnp.zeros((200, 2, 2, 1))
    state = bound.init(z)
    for logsnr in (0.0, 1.0):
        _, state = bound(z, jnp.float32(logsnr), state)
        jax.effects_barrier()
    first, second = (np.concatenate(seen[i::2]) for i in range(2))
    labels = np.concatenate([first, second])
    assert labels.max() < 10  # the null label is 10
    others = labels[labels != 3]
    assert len(set(others.tolist())) == 9
    assert state.nfe == 4


def test_time_step_guidance_shows_a_wrong_level():
    found = guided('time_step:deviation=0', 2.0)[0].eps
    cond = direct((3, 3, 7, 1))
    np.testing.assert_allclose(found, cond, rtol=1e-4, atol=1e-5)
    keys = stream(jax.random.split(jax.random.key(5), 4), 0)  # of the first level
    n = jnp.stack([jax.random.normal(jax.random.fold_in(key, 1), ()) for key in keys])
    found = guided('time_step:deviation=1.5', 2.0)[0].eps
    wrong = direct((3, 3, 7, 1), 0.7 + 1.5 * n)
    np.testing.assert_allclose(found, 3 * cond - 2 * wrong, rtol=1e-4, atol=1e-5)
    assert np.abs(wrong - cond).max() > 0.05


@pytest.mark.parametrize('mix', [1.0, 0.25])
def test_annealed_condition_by_hand(mix):
    """CADS on an embedding: gamma, noise and standardisation, each image by itself."""

    class Embedding:
        def null(self, condition):
            return jnp.zeros_like(condition)

        def encode(self, condition, features, dtype):
            return condition.astype(dtype)

    keys = jax.random.split(jax.random.key(2), 3)
    y = jnp.arange(24.0).reshape(3, 8)
    rule = make_rule(f'annealed_condition:tau1=0.2,tau2=0.6,scale=0.5,mix={mix}')
    for logsnr, gamma in ((0.0, 0.25), (18.0, 1.0), (-18.0, 0.0)):  # u = 1/2, near 0, near 1
        conditions = rule.conditions(Embedding(), y, jnp.float32(logsnr), keys)
        found = np.asarray(noisy.encode(Embedding(), conditions['given'], 8, jnp.float32))
        if gamma == 1.0:
            np.testing.assert_array_equal(found, y)
            continue
        n = np.stack([jax.random.normal(key, (8,)) for key in keys])
        disturbed = np.sqrt(gamma) * np.asarray(y) + 0.5 * np.sqrt(1 - gamma) * n
        mean, deviation = disturbed.mean(1, keepdims=True), disturbed.std(1, keepdims=True)
        expected = (disturbed - mean) / deviation * np.asarray(y).std(1, keepdims=True)
        expected = expected + np.asarray(y).mean(1, keepdims=True)
        expected = mix * expected + (1 - mix) * disturbed
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        null = noisy.encode(Embedding(), conditions['null'], 8, jnp.float32)
        assert not np.any(null)
