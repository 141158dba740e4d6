"""Sums over axes against NumPy on every platform's operations; derivatives and mapped axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.models import sliced_sum as module
from cfg_jax.models.sliced_sum import folded, positions, sliced_sum

SHAPES = [(3, 4, 4, 5), (3, 16, 5), (2, 3, 5, 7), (2, 1, 1, 3), (2, 2, 4, 2, 3)]


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('compute', [sliced_sum, module._whole, module._sliced])
def test_it_is_the_sum_over_positions(shape, compute):
    values = random(shape)
    found = jax.jit(compute, static_argnames='axes')(values, axes=positions(values))
    inner = tuple(range(1, len(shape) - 1))
    np.testing.assert_allclose(found, values.sum(inner), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('length', [3, 8, 64])
def test_and_over_the_last_axis(length):
    values = random((4, 5, length))
    found = jax.jit(lambda values: sliced_sum(values, (2,)))(values)
    np.testing.assert_allclose(found, values.sum(-1), rtol=1e-5, atol=1e-6)


def test_outside_of_jit_too():
    values = random((3, 4, 4, 5))
    np.testing.assert_allclose(sliced_sum(values, (1, 2)), values.sum((1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('axis', range(4))
def test_mapped_over_any_axis(axis):
    stacked = random((6, 3, 8, 5))
    mapped = jax.jit(jax.vmap(lambda values: sliced_sum(values, (1,)), in_axes=axis))
    found = mapped(np.moveaxis(stacked, 0, axis))
    np.testing.assert_allclose(found, stacked.sum(2), rtol=1e-5, atol=1e-6)


def test_derivatives_of_both_directions_and_of_second_order():
    values, direction = random((2, 4, 4, 3)), random((2, 4, 4, 3), 1)
    add = jax.jit(lambda values: sliced_sum(values, (1, 2)))
    _, forward = jax.jvp(add, (values,), (direction,))
    np.testing.assert_allclose(forward, direction.sum((1, 2)), rtol=1e-5, atol=1e-6)
    cotangent = random((2, 3), 2)
    (backward,) = jax.vjp(add, values)[1](cotangent)
    np.testing.assert_array_equal(backward, np.broadcast_to(cotangent[:, None, None], values.shape))
    # Of sum(S^2): 2 S everywhere, whose derivative along a direction is twice the direction's sum.
    gradient = jax.grad(lambda values: jnp.sum(add(values) ** 2))
    _, second = jax.jvp(gradient, (values,), (direction,))
    twice = np.broadcast_to(2 * direction.sum((1, 2))[:, None, None], values.shape)
    np.testing.assert_allclose(second, twice, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(('platform', 'slices'), [('cpu', 8), ('cuda', 0), ('tpu', 0)])
def test_cpus_alone_take_slices(platform, slices):
    traced = jax.jit(lambda values: sliced_sum(values, (1, 2))).trace(random((3, 4, 4, 5)))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count('stablehlo.slice') == slices


@pytest.mark.parametrize('shape', [(3, 5), (0, 8, 5), (3, 0, 5), (3, 8, 0)])
def test_nothing_to_sum_over_and_nothing_at_all(shape):
    values = random(shape)
    found = jax.jit(lambda values: sliced_sum(values, positions(values)))(values)
    np.testing.assert_array_equal(found, values.sum(tuple(range(1, len(shape) - 1))))


def test_slices_combine_neighbours_apart():
    values = jnp.arange(16.0)
    np.testing.assert_array_equal(folded(values, 0, jnp.maximum), [14.0, 15.0])
    np.testing.assert_array_equal(folded(values[:12], 0, jnp.maximum), values[:12])
