"""The residual sum: value and derivatives of a sum, also of batches that are mapped over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.models.residual import add_residual

RNG = np.random.default_rng(0)
SKIP, H = (jnp.asarray(RNG.normal(size=(3, 2, 4, 4, 5)), jnp.float32) for _ in range(2))


@pytest.mark.parametrize('axes', [(0, 0), (None, 0), (0, None), (1, 1), (2, 0)])
def test_it_is_a_sum_under_vmap(axes):
    skip, h = (
        array[0] if axis is None else jnp.moveaxis(array, 0, axis)
        for array, axis in zip((SKIP, H), axes, strict=True)
    )
    expected = jax.vmap(jnp.add, axes)(skip, h)
    np.testing.assert_array_equal(jax.vmap(add_residual, axes)(skip, h), expected)


def test_twice_mapped():
    arguments = SKIP[None].repeat(2, 0), H[None].repeat(2, 0)
    twice = jax.vmap(jax.vmap(add_residual))
    np.testing.assert_array_equal(twice(*arguments), arguments[0] + arguments[1])


def test_derivatives_forward_and_in_reverse():
    weights = RNG.normal(size=SKIP.shape).astype(np.float32)

    def weighted(skip, h):
        return jnp.sum(weights * jax.vmap(add_residual)(skip, h) ** 3)

    gradients = jax.grad(weighted, (0, 1))(SKIP, H)
    for gradient in gradients:
        np.testing.assert_allclose(gradient, 3 * weights * (SKIP + H) ** 2, rtol=1e-5)
    _, slope = jax.jvp(weighted, (SKIP, H), (SKIP, H))
    expected = np.sum(np.float64(weights) * 3 * np.float64(SKIP + H) ** 3)
    np.testing.assert_allclose(slope, expected, rtol=1e-4)


def test_a_batch_that_is_mapped_over_is_added_as_one():
    """What XLA needs to see for the sum to be part of a convolution."""
    text = str(jax.make_jaxpr(jax.vmap(add_residual))(SKIP, H))
    assert 'f32[6,4,4,5] = add' in text
