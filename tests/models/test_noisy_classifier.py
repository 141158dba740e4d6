"""The noisy classifier: ADM's sizes, its head against float64 NumPy, and what its inputs do.

Its encoder is the U-Net's, which test_unet.py compares with NumPy.
"""

import functools

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.conditioning.label import Label
from cfg_jax.models.noisy_classifier import (
    AttentionPool,
    NoisyClassifier,
)
from cfg_jax.models.unet import UNet

FAST_COMPILE = {'xla_backend_optimization_level': 0}
CLASSES = 5
ENCODER = {
    'width': 8,
    'channel_mult': (1, 2),
    'num_res_blocks': 1,
    'attention_resolutions': (4,),
    'head_channels': 8,
    'norm_groups': 4,
}
ADM_64 = {
    'num_classes': 1000,
    'width': 128,
    'channel_mult': (1, 2, 3, 4),
    'num_res_blocks': 4,
    'attention_resolutions': (32, 16, 8),
}
ADM_128 = ADM_64 | {'channel_mult': (1, 1, 2, 3, 4), 'num_res_blocks': 2}


def compiled(fn):
    return jax.jit(fn, compiler_options=FAST_COMPILE)


def shapes(module, *args):
    return jax.eval_shape(module.init, jax.random.key(0), *args)


def random_params(module, *args):
    """Parameters of the module's shapes, none of them zero, scaled to keep activations near 1."""
    rng = np.random.default_rng(0)

    def random(path, leaf):
        fan_in = np.prod(leaf.shape[:-1]) if path[-1].key == 'kernel' else 1
        values = rng.normal(size=leaf.shape) / np.sqrt(fan_in)
        return np.float32(1 + 0.3 * values if path[-1].key == 'scale' else values)

    return jax.tree.map_with_path(random, shapes(module, *args))


def inputs(batch=4):
    z = np.random.default_rng(0).normal(size=(batch, 8, 8, 2)).astype(np.float32)
    return z, np.linspace(-6, 6, batch, dtype=np.float32)


@functools.cache
def small():
    """(logits and gradient of log p(0 | z), params): a small classifier with random parameters."""
    model = NoisyClassifier(num_classes=CLASSES, **ENCODER)
    return compiled(logits_and_gradient(model)), random_params(model, *inputs())


def logits_and_gradient(model):
    def total(z, params, logsnr):
        logits = model.apply(params, z, logsnr)
        return jax.nn.log_softmax(logits)[:, 0].sum(), logits

    def evaluate(params, z, logsnr):
        gradient, logits = jax.grad(total, has_aux=True)(z, params, logsnr)
        return logits, gradient

    return evaluate


def pool64(h, params, num_heads):
    """CLIP's attention pooling of h [B, H, W, C], one example and one head at a time."""
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    pooled = np.zeros((len(h), h.shape[-1]))
    for b, tokens in enumerate(np.asarray(h, np.float64).reshape(len(h), -1, h.shape[-1])):
        tokens = np.concatenate([[tokens.mean(axis=0)], tokens]) + params['position']
        qkv = tokens @ params['qkv']['kernel'] + params['qkv']['bias']
        heads = (np.split(part, num_heads, axis=1) for part in np.split(qkv, 3, axis=1))
        attended = []
        for q, k, v in zip(*heads, strict=True):
            weights = np.exp(q @ k.T / np.sqrt(q.shape[1]))
            attended.append((weights / weights.sum(axis=1, keepdims=True)) @ v)
        pooled[b] = np.concatenate(attended, axis=1)[0]
    return pooled @ params['proj']['kernel'] + params['proj']['bias']


@pytest.mark.parametrize(
    ('settings', 'side', 'count'), [(ADM_64, 64, 65_438_568), (ADM_128, 128, 42_568_040)]
)
def test_adm_parameter_counts(settings, side, count):
    params = shapes(NoisyClassifier(**settings), jnp.zeros((1, side, side, 3)), jnp.zeros(1))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert params['params']['pool']['position'].shape == (1 + 8 * 8, 512)


def test_encoder_is_that_of_the_unet():
    z, logsnr = inputs()
    unet = UNet(conditioning=Label(CLASSES), out_channels=2, **ENCODER)
    of_unet = shapes(unet, z, logsnr, np.zeros(4, np.int32))['params']
    of_classifier = shapes(NoisyClassifier(num_classes=CLASSES, **ENCODER), z, logsnr)['params']
    way_up = {name for name in of_unet if name.startswith('up_')} | {
        'label',
        'norm_out',
        'conv_out',
    }
    head = {'norm_out', 'pool'}
    assert set(of_classifier) - head == set(of_unet) - way_up
    for name in set(of_classifier) - head:
        assert of_classifier[name] == of_unet[name], name


@pytest.mark.parametrize(('num_heads', 'side'), [(1, 2), (3, 4)])
def test_attention_pool_formula(num_heads, side):
    h = np.random.default_rng(1).normal(size=(2, side, side + 1, 12)).astype(np.float32)
    pool = AttentionPool(num_heads, features=7)
    params = random_params(pool, h)
    assert params['params']['position'].shape == (1 + side * (side + 1), 12)
    logits = compiled(pool.apply)(params, h)
    assert logits.shape == (2, 7)
    np.testing.assert_allclose(
        logits, pool64(h, params['params'], num_heads), rtol=0, atol=2e-5 * np.abs(logits).max()
    )
    half = jax.ShapeDtypeStruct(h.shape, jnp.bfloat16)
    assert jax.eval_shape(pool.apply, params, half).dtype == jnp.float32


def test_attention_pool_starts_as_in_adm():
    """Positions ~ N(0, 1 / C), nothing zero: unlike the blocks, the classifier's end is random."""
    init = compiled(AttentionPool(2, features=16).init)
    params = init(jax.random.key(0), jnp.ones((1, 8, 8, 32)))['params']
    assert np.std(params['position']) == pytest.approx(32**-0.5, rel=0.1)
    assert all(np.std(params[name]['kernel']) > 0.05 for name in ('qkv', 'proj'))


def test_head_is_norm_silu_and_pooling():
    (_, params), args = small(), inputs()
    model = NoisyClassifier(num_classes=CLASSES, **ENCODER)
    apply = compiled(
        functools.partial(model.apply, capture_intermediates=True, mutable='intermediates')
    )
    logits, captured = apply(params, *args)
    h = np.asarray(captured['intermediates']['middle_1']['__call__'][0], np.float64)
    norm = params['params']['norm_out']
    groups = h.reshape(4, 16, 4, 4)  # [B, HW, groups, C / groups]
    centred = groups - groups.mean(axis=(1, 3), keepdims=True)
    normed = centred / np.sqrt(groups.var(axis=(1, 3), keepdims=True) + 1e-5)
    normed = normed.reshape(h.shape) * norm['scale'] + norm['bias']
    expected = pool64(normed / (1 + np.exp(-normed)), params['params']['pool'], num_heads=2)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_logits_are_float32_whatever_the_computation():
    (evaluate, params), args = small(), inputs()
    model = NoisyClassifier(num_classes=CLASSES, dtype=jnp.bfloat16, **ENCODER)
    exact, rounded = evaluate(params, *args)[0], compiled(model.apply)(params, *args)
    assert exact.shape == (4, CLASSES)
    assert exact.dtype == rounded.dtype == jnp.float32
    # bfloat16 rounds by 2^-9 = 0.2 %; some twenty roundings add up to a few times that.
    error = np.sqrt(np.mean(np.square(rounded - exact)) / np.mean(np.square(exact)))
    assert 1e-4 < error < 0.03
    _, gradient = jax.eval_shape(logits_and_gradient(model), params, *args)
    assert (gradient.shape, gradient.dtype) == (args[0].shape, jnp.float32)


def test_every_input_matters_and_examples_do_not_mix():
    (evaluate, params), (z, logsnr) = small(), inputs()
    together = evaluate(params, z, logsnr)[0]
    for other in (evaluate(params, z, logsnr + 1), evaluate(params, z + 0.1, logsnr)):
        assert np.all(np.abs(other[0] - together).max(axis=1) > 1e-3)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(
        evaluate(params, z[order], logsnr[order])[0], together[order], rtol=0, atol=1e-5
    )


def test_gradient_with_respect_to_the_image():
    (evaluate, params), (z, _) = small(), inputs()
    _, gradient = evaluate(params, z, np.float32([-20, -3, 3, 20]))  # both ends of the schedule
    assert gradient.shape == z.shape
    assert gradient.dtype == jnp.float32
    assert np.isfinite(gradient).all()
    assert np.all(np.abs(gradient).max(axis=(1, 2, 3)) > 1e-4)


def test_another_image_size_is_refused():
    _, params = small()
    model = NoisyClassifier(num_classes=CLASSES, **ENCODER)
    with pytest.raises(flax.errors.ScopeParamShapeError, match='position'):
        jax.eval_shape(model.apply, params, jnp.zeros((1, 16, 16, 2)), jnp.zeros(1))
