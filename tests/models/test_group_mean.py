"""Means of groups against NumPy on every platform's operations; derivatives and mapped axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.models import group_mean as module
from cfg_jax.models.group_mean import group_mean


def expected(sums, groups):
    means = sums.reshape(*sums.shape[:-1], groups, -1).mean(-1)
    return np.repeat(means, sums.shape[-1] // groups, axis=-1)


@pytest.fixture
def sums():
    return np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)


@pytest.mark.parametrize('groups', [1, 4, 12])
@pytest.mark.parametrize('compute', [group_mean, module._reshaped, module._products])
def test_it_is_the_mean(sums, groups, compute):
    found = jax.jit(compute, static_argnames='groups')(jnp.asarray(sums), groups=groups)
    np.testing.assert_allclose(found, expected(sums, groups), rtol=1e-6, atol=1e-7)


def test_outside_of_jit_too(sums):
    np.testing.assert_allclose(group_mean(sums, 4), expected(sums, 4), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('axis', [0, 1, 2])
def test_mapped_over_any_axis(axis):
    stacked = np.random.default_rng(1).normal(size=(5, 3, 12)).astype(np.float32)
    mapped = jax.vmap(lambda sums: group_mean(sums, 4), in_axes=axis)
    found = mapped(jnp.asarray(np.moveaxis(stacked, 0, axis)))
    np.testing.assert_allclose(found, expected(stacked, 4), rtol=1e-6, atol=1e-7)


def test_derivatives_are_itself(sums):
    direction = np.random.default_rng(2).normal(size=sums.shape).astype(np.float32)
    mean = jax.jit(lambda sums: group_mean(sums, 4))
    _, forward = jax.jvp(mean, (jnp.asarray(sums),), (jnp.asarray(direction),))
    (backward,) = jax.vjp(mean, jnp.asarray(sums))[1](jnp.asarray(direction))
    matrix = np.kron(np.eye(4), np.full((3, 3), 1 / 3))
    for found in (forward, backward):
        np.testing.assert_allclose(found, direction @ matrix, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(('platform', 'products'), [('cpu', 2), ('cuda', 0), ('tpu', 0)])
def test_cpus_alone_take_products(sums, platform, products):
    traced = jax.jit(lambda sums: group_mean(sums, 4)).trace(sums)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count('dot_general') == products


def test_groups_that_do_not_divide_are_refused(sums):
    with pytest.raises(ValueError, match='12 channels do not split into 5 groups'):
        group_mean(sums, 5)
