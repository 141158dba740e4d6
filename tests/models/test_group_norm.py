"""Group norm with SiLU in one: Flax's, its gradient by autodiff, and what rounding may do."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.models.group_norm import GroupNorm

SHAPE = (3, 4, 5, 8)


def plain(silu, params, h, scale=None, shift=None):
    """The same of Flax's parts."""
    norm = nn.GroupNorm(num_groups=4, epsilon=1e-5, use_fast_variance=False)
    u = norm.apply(params, h)
    if scale is not None:
        u = u * (1.0 + scale[:, None, None]) + shift[:, None, None]
    return nn.silu(u) if silu else u


def inputs():
    """(params, h, scale, shift)."""
    rng = np.random.default_rng(0)
    h, *rest = (rng.normal(size=s).astype(np.float32) for s in (SHAPE, (3, 8), (3, 8), 8, 8))
    scale, shift, gain, bias = rest
    return {'params': {'scale': 1 + 0.3 * gain, 'bias': bias}}, 2 * h + 1, scale, shift


@pytest.mark.parametrize('silu', [False, True])
@pytest.mark.parametrize('modulated', [False, True])
def test_value_and_gradient_are_those_of_plain_parts(silu, modulated):
    """Of the parameters, the features, and the second affine map."""
    params, h, *affine = inputs()
    affine = affine if modulated else []
    weights = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)

    def weighed(function):
        def loss(params, h, *affine):
            return jnp.sum(weights * function(params, h, *affine))

        argnums = tuple(range(2 + len(affine)))
        return jax.jit(jax.value_and_grad(loss, argnums))(params, h, *affine)

    ours, theirs = weighed(GroupNorm(4, silu).apply), weighed(functools.partial(plain, silu))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-6 * np.abs(b).max())


def test_positions_in_a_row_are_positions_in_a_square():
    params, h, *_ = inputs()
    square, row = (GroupNorm(4).apply(params, h.reshape(s)) for s in (SHAPE, (3, 20, 8)))
    np.testing.assert_allclose(square.reshape(3, 20, 8), row, rtol=0, atol=2e-6)


def test_a_mean_far_from_zero_costs_no_digits():
    """At 1,000 times the deviation float32 leaves four digits of h, and no fewer of the result."""
    params, h, *_ = inputs()
    moved = GroupNorm(4).apply(params, (h + 1000).astype(np.float32))
    np.testing.assert_allclose(moved, GroupNorm(4).apply(params, h), rtol=0, atol=1e-3)


def test_bfloat16_is_kept_for_the_gradient_and_given_back():
    """Statistics are float32 all the same: one rounding of the input, one of the result."""
    params, h, *_ = inputs()
    rounded = jnp.asarray(h, jnp.bfloat16)
    module = GroupNorm(4, silu=True, dtype=jnp.bfloat16)
    y, gradient = jax.vjp(lambda h: module.apply(params, h), rounded)
    exact = GroupNorm(4, silu=True).apply(params, rounded.astype(jnp.float32))
    assert y.dtype == gradient(y)[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=2.0**-8, atol=1e-6)


def test_groups_divide_the_channels():
    with pytest.raises(ValueError, match='8 channels do not split into 3 groups'):
        GroupNorm(3).init(jax.random.key(0), jnp.zeros(SHAPE))
