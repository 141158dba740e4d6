"""TPUs' attention: its kernels against the formula, and what is lowered to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.models import attention, remat, tpu_attention


def formula(q, k, v):
    logits = jnp.einsum('bthc,bshc->bhts', q, k) / np.sqrt(q.shape[-1])
    return jnp.einsum('bhts,bshc->bthc', jax.nn.softmax(logits, axis=-1), v)


def heads(positions, seed=0, shape=(3, 8)):
    shape = (2, positions, *shape)
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    ('queries', 'keys', 'at_once', 'shape'),
    [
        (256, 384, 128 * 384, (3, 8)),  # queries in two parts, three heads in few lanes
        (384, 128, 256 * 128, (4, 64)),  # in three; two blocks of two heads
        (128, 256, 10**9, (3, 64)),  # a block that is not full
        (128, 128, 10**9, (2, 128)),
    ],
)
def test_both_directions_are_the_formula(monkeypatch, queries, keys, at_once, shape):
    monkeypatch.setattr(tpu_attention, '_AT_ONCE', at_once)
    q, k, v = (heads(n, seed, shape) for seed, n in enumerate((queries, keys, keys)))
    q, cotangent = 3.0 * q, heads(queries, 3, shape)
    ours, reverse = jax.vjp(lambda *a: tpu_attention.attend(*a, True), q, k, v)
    found = [ours, *reverse(cotangent)]
    with jax.enable_x64(True):
        expected, exact = jax.vjp(formula, *(np.float64(a) for a in (q, k, v)))
        expected = [expected, *exact(np.float64(cotangent))]
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * np.abs(b).max())


def test_in_16_bits_it_is_the_formula_up_to_their_rounding():
    q, k, v = (jnp.asarray(heads(128, seed), jnp.bfloat16) for seed in range(3))
    ours, reverse = jax.vjp(lambda *a: tpu_attention.attend(*a, True), q, k, v)
    expected, exact = jax.vjp(formula, *(a.astype(jnp.float32) for a in (q, k, v)))
    found, expected = [ours, *reverse(q)], [expected, *exact(q.astype(jnp.float32))]
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.float32(a), b, rtol=0, atol=0.01 * np.abs(b).max())


def lowered(function, *arguments):
    traced = jax.jit(function).trace(*arguments)
    return traced.lower(lowering_platforms=('tpu',)).as_text()


class TestChoice:
    many = jax.ShapeDtypeStruct((2, 1024, 3, 64), jnp.bfloat16)

    @staticmethod
    def attend(q, kernel='pallas'):
        return attention.attend(q, q, q, kernel)

    def loss(self, q):
        return self.attend(q).astype(jnp.float32).sum()

    def test_many_weights_are_lowered_to_it(self):
        pairs = jax.ShapeDtypeStruct((2, *self.many.shape), self.many.dtype)
        assert lowered(self.attend, self.many).count('tpu_custom_call') == 1
        assert lowered(jax.vmap(self.attend), pairs).count('tpu_custom_call') == 1
        both = lowered(jax.value_and_grad(self.loss), self.many)
        assert both.count('tpu_custom_call') == 2
        assert 'dot_general' not in both  # no weights outside of it

    def test_remat_of_all_but_products_keeps_it(self):
        policy = remat.POLICIES['convolutions']
        again = jax.checkpoint(lambda q: jnp.sin(self.attend(jnp.cos(q))), policy=policy)
        gradient = jax.grad(lambda q: again(q).astype(jnp.float32).sum())
        assert lowered(gradient, self.many).count('tpu_custom_call') == 2  # one in each direction

    @pytest.mark.parametrize(
        ('shape', 'dtype'),
        [
            ((2, 64, 3, 64), jnp.bfloat16),  # few weights
            ((2, 1024, 3, 64), jnp.float32),
            ((2, 1000, 3, 64), jnp.bfloat16),
            ((2, 1024, 3, 72), jnp.bfloat16),
            ((2, 1024, 9, 64), jnp.bfloat16),  # a block of 576 channels does not fit
            ((2, 2048, 4, 64), jnp.bfloat16),
            ((2, 8192, 3, 64), jnp.bfloat16),  # rows that do not fit
        ],
    )
    def test_other_heads_are_xlas(self, shape, dtype):
        text = lowered(self.attend, jax.ShapeDtypeStruct(shape, dtype))
        assert 'tpu_custom_call' not in text

    def test_on_a_cpu_the_same_call_is_xlas(self):
        q = jax.random.normal(jax.random.key(0), self.many.shape, jnp.bfloat16)
        ours, theirs = (jax.jit(self.attend, static_argnums=1)(q, k) for k in ('pallas', 'xla'))
        np.testing.assert_allclose(np.float32(ours), np.float32(theirs), rtol=0, atol=0.02)
