"""Blocks that compute something simple in a quicker way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import cost
from cfg_jax.models import blocks


@pytest.mark.parametrize('shape', [(2, 4, 3, 5), (1, 1, 1, 2)])
def test_convolving_what_was_doubled(shape):
    """Value and gradient of conv(upsample(h)), with 4 / 9 of the operations."""
    rng = np.random.default_rng(0)
    h = rng.normal(size=shape).astype(np.float32)
    kernel = rng.normal(size=(3, 3, shape[-1], 7)).astype(np.float32)
    params = {'params': {'kernel': kernel, 'bias': rng.normal(size=7).astype(np.float32)}}
    weights = rng.normal(size=(shape[0], 2 * shape[1], 2 * shape[2], 7)).astype(np.float32)
    plain, quick = (
        blocks.conv(7, 3, jnp.float32),
        blocks.conv_of_upsampled(7, jnp.float32, 'conv'),
    )

    def directly(params, h):
        return plain.apply(params, blocks.upsample(h))

    np.testing.assert_allclose(quick.apply(params, h), directly(params, h), rtol=0, atol=1e-5)
    ours, theirs = (
        jax.grad(lambda params, h, f=f: jnp.sum(weights * f(params, h)), (0, 1))(params, h)
        for f in (quick.apply, directly)
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())
    flops = [cost.count_flops(f, params, h) for f in (quick.apply, directly)]
    assert 9 * flops[0] == 4 * flops[1]
