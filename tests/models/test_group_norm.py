"""Group norm with SiLU in one: Flax's, its gradient by autodiff, and what rounding may do."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.models import modulation
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


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize('value', [3.0234375, 100.75, 302.0])
@pytest.mark.parametrize('side', [28, 48, 64])
def test_features_that_are_all_the_same(dtype, value, side):
    """Their variance is 0; in 16 bits it rounded to less than -1e-5, whose root is no number."""
    same = jnp.full((1, side, side, 32), value, dtype)
    norm = GroupNorm(32, silu=True, dtype=dtype)
    params = norm.init(jax.random.key(0), same)

    def total(h):
        out = norm.apply(params, h)
        return jnp.sum(out.astype(jnp.float32)), out

    (_, out), slope = jax.jit(jax.value_and_grad(total, has_aux=True))(same)
    assert np.abs(np.float32(out)).max() < 0.1
    assert np.isfinite(np.float32(slope)).all()


def test_positions_in_a_row_are_positions_in_a_square():
    params, h, *_ = inputs()
    square, row = (GroupNorm(4).apply(params, h.reshape(s)) for s in (SHAPE, (3, 20, 8)))
    np.testing.assert_allclose(square.reshape(3, 20, 8), row, rtol=0, atol=2e-6)


def test_a_mean_far_from_zero_costs_no_digits():
    """At 1,000 times the deviation float32 leaves four digits of h, and no fewer of the result."""
    params, h, *_ = inputs()
    moved = GroupNorm(4).apply(params, (h + 1000).astype(np.float32))
    np.testing.assert_allclose(moved, GroupNorm(4).apply(params, h), rtol=0, atol=1e-3)


def test_one_feature_far_from_the_others():
    """Where it is the one that differences are taken to: its square is lost to four digits."""
    params, h, *_ = inputs()
    h[0, 0, 0] = 100.0
    exact = plain(False, params, h)
    np.testing.assert_allclose(GroupNorm(4).apply(params, h), exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize('mean', [0.0, 30.0])
def test_statistics_of_bfloat16(mean):
    """E[h^2] - E[h]^2 in float32 of what rounding has left of h."""
    params, h, *_ = inputs()
    rounded = jnp.asarray(h + mean, jnp.bfloat16)
    exact = plain(False, params, rounded.astype(jnp.float32))
    np.testing.assert_allclose(GroupNorm(4).apply(params, rounded), exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_parts_are_normalised_as_one(dtype):
    """Value and gradient; 8 channels in 4 groups, of which the parts divide two."""
    params, h, scale, shift = inputs()
    h = jnp.asarray(h, dtype)
    module = GroupNorm(4, silu=True)

    def loss(params, parts):
        return jnp.sum(jnp.sin(module.apply(params, parts, scale, shift)))

    parts = h[..., :3], h[..., 3:4], h[..., 4:]
    both = [jax.jit(jax.value_and_grad(loss, (0, 1)))(params, of) for of in (parts, h)]
    joined = jnp.concatenate([part.astype(jnp.float32) for part in both[0][1][1]], axis=-1)
    tolerance = {'rtol': 0, 'atol': 2e-5 if dtype == jnp.float32 else 0.02}
    np.testing.assert_allclose(both[0][0], both[1][0], rtol=1e-5)
    np.testing.assert_allclose(joined, both[1][1][1].astype(jnp.float32), **tolerance)
    for a, b in zip(*(jax.tree.leaves(found[1][0]) for found in both), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


@pytest.mark.parametrize('shape', [SHAPE, (2, 7, 3), (1, 4, 4, 2)])
def test_both_sums_in_one_pass(shape):
    """What GPUs do in reverse, and what other devices do."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, *shape)).astype(np.float32)
    positions = tuple(range(1, len(shape) - 1))
    for sums in (modulation.in_one_pass, modulation.one_by_one):
        for found, array in zip(jax.jit(sums)(x, y), (x, y), strict=True):
            np.testing.assert_allclose(found, array.sum(positions), rtol=0, atol=1e-5)


def test_gpus_get_one_reduction_of_both():
    """Lowered for CUDA, the reverse pass has one; for the CPU, two."""
    params, h, *_ = inputs()
    gradient = jax.jit(jax.grad(lambda h: jnp.sum(GroupNorm(4, silu=True).apply(params, h))))

    def of_two_arrays(platform):
        text = gradient.trace(h).lower(lowering_platforms=(platform,)).as_text()
        return len(re.findall(r'stablehlo.reduce\([^)]*\), \(', text))

    assert of_two_arrays('cuda') == 2  # each array's parts, then the parts
    assert of_two_arrays('cpu') == 0


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
