"""Blocks against float64 NumPy, and those that compute something simple in a quicker way."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_blocks import (
    assert_close,
    attention64,
    averages64,
    compiled,
    dense,
    group_norm,
    logsnr_embedding64,
    randomised,
    res_block64,
    to_float64,
)

from cfg_jax.models import blocks, encoder, layers
from cfg_jax.models.perturbation import Perturbation
from cfg_jax.perf import operations


def test_logsnr_embedding_formula():
    logsnr = np.float32([-20, -3, -0.1, 0, 2, 7, 20])
    expected = logsnr_embedding64(logsnr, 10)
    actual = encoder.logsnr_embedding(jnp.asarray(logsnr), 10)
    assert actual.shape == (7, 10)
    assert actual.dtype == jnp.float32
    # Angles reach t = 1000, where float32 numbers lie 6e-5 apart; at logsnr 7 and 20 t < 20.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-4)
    np.testing.assert_allclose(actual[5:], expected[5:], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ('direction', 'features', 'scale_shift_norm'),
    [(None, 8, True), (None, 12, True), ('up', 8, True), ('down', 8, True), (None, 12, False)],
)
def test_res_block_formula(direction, features, scale_shift_norm):
    rng = np.random.default_rng(1)
    h = rng.normal(size=(2, 4, 6, 8)).astype(np.float32)
    emb = rng.normal(size=(2, 5)).astype(np.float32)
    block = blocks.ResBlock(features, 0.0, 4, scale_shift_norm, direction)
    params = randomised(block, h, emb, train=False)
    assert ('conv_skip' in params['params']) == (features != 8)
    expected = res_block64(*to_float64((h, emb, params['params'])), scale_shift_norm, direction)
    assert_close(compiled(block.apply)(params, h, emb, train=False), expected)


@pytest.mark.parametrize('features', [8, 12])
def test_res_block_of_parts(features):
    """As of their concatenation, with the same parameters."""
    rng = np.random.default_rng(1)
    h = rng.normal(size=(2, 4, 6, 8)).astype(np.float32)
    emb = rng.normal(size=(2, 5)).astype(np.float32)
    block = blocks.ResBlock(features, 0.0, 4)
    params = randomised(block, h, emb, train=False)
    parts = jnp.asarray(h[..., :5]), jnp.asarray(h[..., 5:])
    whole, of_parts = (compiled(block.apply)(params, of, emb, train=False) for of in (h, parts))
    assert_close(of_parts, whole)


@pytest.mark.parametrize('kind', [None, 'identity', 'blur', 'skip'])
def test_attention_block_formula(kind):
    h = np.random.default_rng(1).normal(size=(2, 3, 5, 12)).astype(np.float32)
    block = blocks.AttentionBlock(num_heads=3, groups=4)
    params = randomised(block, h)
    perturbation = kind and Perturbation(kind, blur=0.8)
    found = compiled(functools.partial(block.apply, perturbation=perturbation))(params, h)
    h, p = to_float64((h, params['params']))
    if kind == 'skip':
        expected = h
    elif kind == 'identity':
        v = dense(group_norm(h.reshape(2, 15, 12), p['norm'], 4), p['qkv'])[..., 24:]
        expected = h + dense(v, p['proj']).reshape(h.shape)
    else:
        averages = averages64(3, 5, 0.8) if kind == 'blur' else None
        expected = attention64(h, p, 3, averages)
    assert_close(found, expected)


@pytest.mark.parametrize('shape', [(2, 4, 3, 5), (1, 1, 1, 2)])
def test_convolving_what_was_doubled(shape):
    """Value and gradient of conv(upsample(h)), with 4 / 9 of the operations."""
    rng = np.random.default_rng(0)
    h = rng.normal(size=shape).astype(np.float32)
    kernel = rng.normal(size=(3, 3, shape[-1], 7)).astype(np.float32)
    params = {'params': {'kernel': kernel, 'bias': rng.normal(size=7).astype(np.float32)}}
    weights = rng.normal(size=(shape[0], 2 * shape[1], 2 * shape[2], 7)).astype(np.float32)
    plain, quick = (
        layers.conv(7, 3, jnp.float32),
        layers.conv_of_upsampled(7, jnp.float32, 'conv'),
    )

    def directly(params, h):
        return plain.apply(params, layers.upsample(h))

    np.testing.assert_allclose(quick.apply(params, h), directly(params, h), rtol=0, atol=1e-5)
    ours, theirs = (
        jax.grad(lambda params, h, f=f: jnp.sum(weights * f(params, h)), (0, 1))(params, h)
        for f in (quick.apply, directly)
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())
    flops = [operations.count_flops(f, params, h) for f in (quick.apply, directly)]
    assert 9 * flops[0] == 4 * flops[1]
    assert 9 * operations.count_flops(layers.transposed, h, kernel) == 4 * flops[1]


def test_devices_convolve_what_was_doubled_alike():
    """A GPU's transposed convolution and the others' four: value, gradients, operations."""
    rng = np.random.default_rng(1)
    h, kernel = rng.normal(size=(2, 4, 3, 5)), rng.normal(size=(3, 3, 5, 7))
    weights = rng.normal(size=(2, 8, 6, 7))
    with jax.enable_x64(True):
        found = [
            jax.value_and_grad(lambda h, kernel, f=f: jnp.sum(weights * f(h, kernel)), (0, 1))(
                jnp.asarray(h), jnp.asarray(kernel)
            )
            for f in (layers.transposed, layers.by_phases)
        ]
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())


def test_patches_are_blocks_of_pixels_and_come_back():
    image = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    h = layers.space_to_depth(image, 2)
    assert h.shape == (2, 2, 3, 12)
    for i, j in ((0, 0), (1, 2)):
        block = image[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]  # [B, 2, 2, C]
        np.testing.assert_array_equal(h[:, i, j], block.reshape(2, 12))
    np.testing.assert_array_equal(layers.depth_to_space(h, 2), image)
