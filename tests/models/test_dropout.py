"""Dropout against its formula, and a gradient that the result alone decides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cfg_jax.models import dropout
from cfg_jax.models.dropout import Dropout

RATE = 0.25


@pytest.fixture
def h():
    """Features, some of them exactly 0 and some too small to be divided in float32."""
    h = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
    h[:10] = np.repeat([0.0, -0.0, 1e-45, 1e-38, -1e-38], 2)[:, None]
    return h


class Flax(nn.Module):
    """The library's own, under the name that draws the same numbers."""

    @nn.compact
    def __call__(self, h, train):
        return nn.Dropout(RATE, name='drop')(h, deterministic=not train)


class Ours(nn.Module):
    @nn.compact
    def __call__(self, h, train):
        return Dropout(RATE, name='drop')(h, train)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_it_is_flax_dropout(h, dtype):
    h, weights = jnp.asarray(h, dtype), jnp.asarray(np.arange(2000).reshape(50, 40) % 7 + 1.0)

    def value_and_gradient(module):
        def weighted(h):
            out = module.apply({}, h, True, rngs={'dropout': jax.random.key(1)})
            return jnp.sum(weights * out), out

        return jax.value_and_grad(weighted, has_aux=True)(h)

    ((_, ours), gradient), ((_, theirs), expected) = map(value_and_gradient, (Ours(), Flax()))
    np.testing.assert_allclose(np.float32(ours), np.float32(theirs), rtol=1e-6, atol=1e-37)
    np.testing.assert_allclose(np.float32(gradient), np.float32(expected), rtol=1e-6)
    kept = np.asarray(expected) != 0
    assert 0.7 < kept.mean() < 0.8
    assert kept[:10].any() and not kept[:10].all()  # of zeros too, some are kept
    np.testing.assert_array_equal(np.asarray(ours) != 0, kept)


def test_without_training_or_a_rate_nothing_is_dropped(h):
    np.testing.assert_array_equal(Dropout(RATE).apply({}, jnp.asarray(h), False), h)
    np.testing.assert_array_equal(Dropout(0.0).apply({}, jnp.asarray(h), True), h)


def test_forward_and_reverse_are_one_diagonal(h):
    key, h = jax.random.key(0), jnp.asarray(h)

    def dropped(h):
        return Dropout(RATE).apply({}, h, True, rngs={'dropout': key})

    out, reverse = jax.vjp(dropped, h)
    _, forward = jax.jvp(dropped, (h,), (jnp.ones_like(h),))
    (backward,) = reverse(jnp.ones_like(h))
    np.testing.assert_array_equal(forward, backward)
    np.testing.assert_allclose(backward, np.where(np.asarray(out) != 0, 1 / (1 - RATE), 0))


def test_a_tpus_own_draws_have_the_rate_and_follow_the_key():
    keys = jax.random.split(jax.random.key(0), 2)
    first, again, other = (
        np.asarray(dropout._draw_by_the_chip(keys[i], 0.75, (200, 500))) for i in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    deviation = np.sqrt(0.75 * 0.25 / first.size)
    for kept in (first, other):
        assert abs(kept.mean() - 0.75) < 5 * deviation
    together = np.mean(first & other)
    assert abs(together - 0.75**2) < 5 * np.sqrt(0.75**2 * (1 - 0.75**2) / first.size)


def test_keys_of_four_words_will_do():
    key = jax.random.key(0, impl='rbg')
    out = Dropout(RATE).apply({}, jnp.ones((50, 40)), True, rngs={'dropout': key})
    assert 0.7 < np.mean(np.asarray(out) != 0) < 0.8


@pytest.mark.parametrize(
    ('platform', 'own', 'barriers'), [('tpu', True, 1), ('cuda', False, 1), ('cpu', False, 0)]
)
def test_only_tpus_draw_their_own_and_nobody_twice(platform, own, barriers):
    def dropped(h, key):
        return Dropout(RATE).apply({}, h, True, rngs={'dropout': key})

    traced = jax.jit(dropped).trace(jnp.zeros((4, 5)), jax.random.key(0))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ('rng_bit_generator' in text) == own
    assert text.count('stablehlo.optimization_barrier') == barriers
