"""Identities for XLA: what they are lowered to, and that they change no derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.models.barriers import computed_again, together

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))


def plain(x):
    return jnp.sum(jnp.sin(x) ** 2 * x)


def barred(x):
    """The same with barriers around what it is made of; one of the arrays has no derivative."""
    sine, number = computed_again((jnp.sin(x), jnp.arange(3)))
    return jnp.sum(sine**2 * computed_again({'x': x})['x']) + 0 * number.sum()


@pytest.mark.parametrize('compile_it', [jax.jit, lambda function: function])
def test_derivatives(compile_it):
    """In reverse, twice, forward, and over a batch."""
    ways = (
        jax.grad,
        lambda f: jax.grad(lambda x: jnp.sum(jax.grad(f)(x) ** 2)),
        lambda f: lambda x: jax.jvp(f, (x,), (jnp.cos(x),)),
        lambda f: jax.vmap(jax.value_and_grad(f)),
        lambda f: jax.vmap(f, in_axes=1),
    )
    for way in ways:
        found, expected = compile_it(way(barred))(X), compile_it(way(plain))(X)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), found, expected
        )


def test_a_gradient_has_no_branches():
    """JAX 0.11 cannot transpose a barrier in a branch of a choice by platform."""
    text = str(jax.make_jaxpr(jax.grad(lambda x: barred(together(x))))(X))
    assert 'computed_again' in text
    assert 'together' in text
    assert 'cond[' not in text


@pytest.mark.parametrize(('platform', 'count'), [('cpu', 0), ('cuda', 2), ('rocm', 2), ('tpu', 2)])
def test_accelerators_alone_compute_again(platform, count):
    text = jax.jit(barred).trace(X).lower(lowering_platforms=(platform,)).as_text()
    assert text.count('stablehlo.optimization_barrier') == count
