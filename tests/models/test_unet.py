"""The U-Net: ADM's sizes, the whole of it against float64 NumPy, and what its inputs do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_blocks import (
    FAST_COMPILE,
    assert_close,
    attention64,
    compiled,
    conv,
    dense,
    group_norm,
    logsnr_embedding64,
    randomised,
    res_block64,
    silu,
    to_float64,
)

from cfg_jax.conditioning.label import Label
from cfg_jax.models import unet
from cfg_jax.models.perturbation import Perturbation
from cfg_jax.perf import operations

CLASSES, NULL = 3, 3
SMALL = {
    'conditioning': Label(CLASSES),
    'out_channels': 2,
    'width': 8,
    'channel_mult': (1, 2),
    'num_res_blocks': 1,
    'attention_resolutions': (4,),
    'head_channels': 8,
    'norm_groups': 4,
}
ADM_64 = {
    'conditioning': Label(1000),
    'out_channels': 3,
    'width': 192,
    'channel_mult': (1, 2, 3, 4),
    'num_res_blocks': 3,
    'attention_resolutions': (32, 16, 8),
    'head_channels': 64,
    'dropout': 0.1,
}
ADM_128 = ADM_64 | {
    'width': 256,
    'channel_mult': (1, 1, 2, 3, 4),
    'num_res_blocks': 2,
    'head_channels': 0,
    'num_heads': 4,
    'dropout': 0.0,
}
ADM_512 = ADM_128 | {
    'channel_mult': (0.5, 1, 1, 2, 2, 4, 4),
    'head_channels': 64,
    'num_heads': 0,
}


def inputs(batch=4, seed=0):
    """(z, logsnr, label): each class once, then the null token."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(batch, 8, 8, 2)).astype(np.float32)
    return z, np.linspace(-6, 6, batch, dtype=np.float32), np.arange(batch, dtype=np.int32) % 4


@functools.cache
def small(**changes):
    """(apply, params): the small network, compiled, with random parameters."""
    model = unet.UNet(**(SMALL | changes))
    return compiled(model.apply), randomised(model, *inputs())


def parameter_count(width, channel_mult, num_res_blocks, attention_resolutions, side, out, classes):
    """Parameters of ADM's U-Net with RGB input, walked through on paper."""
    channels = [int(mult * width) for mult in channel_mult]
    total = width * 4 * width + (4 * width) ** 2 + 2 * 4 * width + classes * 4 * width
    total += 9 * 3 * channels[0] + channels[0]

    def res(inputs, outputs):
        nonlocal total
        total += 2 * inputs + 9 * inputs * outputs + outputs
        total += (4 * width + 1) * 2 * outputs
        total += 2 * outputs + 9 * outputs**2 + outputs
        total += (inputs + 1) * outputs * (inputs != outputs)
        return outputs

    def attend(features):
        nonlocal total
        total += 2 * features + 3 * features * (features + 1) + features * (features + 1)

    def block(inputs, outputs):
        res(inputs, outputs)
        if side in attention_resolutions:
            attend(outputs)
        return outputs

    features, skips = channels[0], [channels[0]]
    for level, outputs in enumerate(channels):
        for _ in range(num_res_blocks):
            features = block(features, outputs)
            skips.append(features)
        if level < len(channels) - 1:
            skips.append(res(features, features))
            side //= 2
    res(features, features)
    attend(features)
    res(features, features)
    for level, outputs in reversed(list(enumerate(channels))):
        for _ in range(num_res_blocks + 1):
            features = block(features + skips.pop(), outputs)
        if level:
            res(features, features)
            side *= 2
    return total + 2 * features + 9 * features * out + out


@pytest.mark.parametrize(
    ('settings', 'side', 'count'),
    [(ADM_64, 64, 295_900_035), (ADM_128, 128, 421_523_715), (ADM_512, 512, None)],
)
def test_adm_parameter_counts(settings, side, count):
    """A million parameters of ADM-512, the one with half the width at first: 559 as published."""
    args = jnp.zeros((1, side, side, 3)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
    params = jax.eval_shape(unet.UNet(**settings).init, jax.random.key(0), *args)
    names = ('width', 'channel_mult', 'num_res_blocks', 'attention_resolutions')
    by_hand = functools.partial(parameter_count, **{name: settings[name] for name in names})
    ours = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert ours == by_hand(side=side, out=settings['out_channels'], classes=1001)
    if count is None:
        published = by_hand(side=side, out=6, classes=1000)  # without a null token
        assert round(published / 1e6) == 559
        assert params['params']['conv_in']['kernel'].shape == (3, 3, 3, 128)
    else:
        assert ours == count
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_output_is_zero_at_the_start():
    model, (z, logsnr, label) = unet.UNet(**SMALL), inputs()
    params = jax.jit(model.init, compiler_options=FAST_COMPILE)(jax.random.key(0), z, logsnr, label)
    np.testing.assert_array_equal(small()[0](params, z, logsnr, label), np.zeros(z.shape))
    zeros = {
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree.leaves_with_path(params)
        if 'kernel' in jax.tree_util.keystr(path) and not np.any(leaf)
    }
    blocks = ('down_0_0', 'down_0_resample', 'down_1_0', 'middle_0', 'middle_1')
    blocks += ('up_0_0', 'up_0_1', 'up_1_0', 'up_1_1', 'up_1_resample')
    attentions = ('down_1_0', 'middle', 'up_1_0', 'up_1_1')
    expected = {f"['params']['{block}']['conv_out']['kernel']" for block in blocks}
    expected |= {f"['params']['{name}_attention']['proj']['kernel']" for name in attentions}
    assert zeros == expected | {"['params']['conv_out']['kernel']"}
    assert np.std(params['params']['label']['embedding']) == pytest.approx(1.0, abs=0.2)


def test_bfloat16_is_close_to_float32():
    args = inputs()
    (apply, params), (apply_bf16, _) = small(), small(dtype=jnp.bfloat16)
    exact, rounded = apply(params, *args), apply_bf16(params, *args)
    assert exact.shape == args[0].shape
    assert exact.dtype == rounded.dtype == jnp.float32
    # bfloat16 rounds by 2^-9 = 0.2 %; some thirty roundings in sequence add up to a few times that.
    error = np.sqrt(np.mean(np.square(rounded - exact)) / np.mean(np.square(exact)))
    assert 1e-4 < error < 0.03


def test_dropout_acts_in_training_only():
    args = inputs()
    apply, params = small()
    apply_dropout, _ = small(dropout=0.5)
    plain = apply(params, *args)
    np.testing.assert_array_equal(apply_dropout(params, *args), plain)
    train = [
        apply_dropout(params, *args, train=True, rngs={'dropout': jax.random.key(seed)})
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(train[0], train[1])
    for a, b in ((train[0], plain), (train[0], train[2])):
        assert np.abs(a - b).max() > 0.01
    rngs = {'dropout': jax.random.key(0)}
    np.testing.assert_allclose(apply(params, *args, train=True, rngs=rngs), plain, atol=1e-5)


def test_every_input_matters():
    apply, params = small()
    z, logsnr, _ = inputs(1)
    outputs = [apply(params, z, logsnr, np.int32([label])) for label in range(CLASSES + 1)]
    for a in range(CLASSES + 1):  # the null token, the last one, among them
        for b in range(a):
            assert np.abs(outputs[a] - outputs[b]).max() > 0.01
    label = np.int32([0])
    for other in (apply(params, z, logsnr + 1, label), apply(params, z + 0.1, logsnr, label)):
        assert np.abs(other - outputs[0]).max() > 0.01


def test_null_token_reads_its_own_row():
    apply, params = small()
    z, logsnr, _ = inputs(2)
    label = np.int32([NULL, 1])
    before = apply(params, z, logsnr, label)
    table = params['params']['label']['embedding'].copy()
    assert table.shape[0] == CLASSES + 1
    table[NULL] += 1.0
    changed = {'params': params['params'] | {'label': {'embedding': table}}}
    after = apply(changed, z, logsnr, label)
    assert np.abs(after[0] - before[0]).max() > 0.01
    np.testing.assert_allclose(after[1], before[1], rtol=0, atol=1e-5)


def test_gradient_reaches_only_the_rows_of_the_labels():
    model, (_, params) = unet.UNet(**SMALL), small()
    z, logsnr, _ = inputs()

    @functools.partial(jax.jit, compiler_options=FAST_COMPILE)
    def gradient(label):
        def loss(params):
            return jnp.mean(jnp.square(model.apply(params, z, logsnr, label)))

        return jax.grad(loss)(params)['params']['label']['embedding']

    for label in ([0, 2, 2, 0], [NULL, 1, NULL, 1]):
        sizes = np.abs(gradient(np.int32(label))).max(axis=1)
        used = np.isin(np.arange(CLASSES + 1), label)
        np.testing.assert_array_equal(sizes[~used], 0.0)
        assert np.all(sizes[used] > 1e-4)


def test_examples_do_not_mix():
    apply, params = small()
    args = inputs()
    together = apply(params, *args)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(
        apply(params, *(a[order] for a in args)), together[order], rtol=0, atol=1e-5
    )


def test_heads_by_channels_or_by_number():
    args = inputs()
    (by_channels, params), (by_number, _) = small(), small(head_channels=0, num_heads=2)
    expected = by_channels(params, *args)  # 16 channels: 2 heads of 8
    np.testing.assert_allclose(by_number(params, *args), expected, rtol=0, atol=1e-5)
    one_head, _ = small(head_channels=16)
    assert np.abs(one_head(params, *args) - expected).max() > 1e-3


def test_plain_resampling_and_added_embedding():
    args = inputs()
    reference = small()[1]['params']
    for changes in ({'resblock_updown': False}, {'scale_shift_norm': False}):
        apply, params = small(**changes)
        output = apply(params, *args)
        assert output.shape == args[0].shape
        assert np.isfinite(output).all()
        other = apply(params, args[0], args[1], (args[2] + 1) % 4)
        assert np.abs(output - other).max() > 0.01
        if 'resblock_updown' in changes:
            assert set(params['params']['down_0_resample']) == {'kernel', 'bias'}
            assert params['params']['up_1_resample']['kernel'].shape == (3, 3, 16, 16)
        else:  # half as many outputs of the embedding
            for name in ('middle_0', 'up_0_0'):
                full = reference[name]['emb']['kernel'].shape
                assert params['params'][name]['emb']['kernel'].shape == (full[0], full[1] // 2)


def test_attention_stands_at_its_resolutions():
    def attentions(resolutions):
        params = randomised(
            unet.UNet(**(SMALL | {'attention_resolutions': resolutions})), *inputs()
        )
        return sorted(name for name in params['params'] if name.endswith('attention'))

    high = ['down_0_0_attention', 'up_0_0_attention', 'up_0_1_attention']
    low = ['down_1_0_attention', 'up_1_0_attention', 'up_1_1_attention']
    middle = ['middle_attention']  # always
    assert attentions(()) == middle
    assert attentions((4,)) == sorted(low + middle)
    assert attentions((8,)) == sorted(high + middle)
    assert attentions((8, 4)) == sorted(low + high + middle)


def unet64(z, logsnr, label, p):
    """The network of `SMALL`, its plan written out."""
    width = len(p['logsnr_0']['kernel'])
    emb = dense(silu(dense(logsnr_embedding64(logsnr, width), p['logsnr_0'])), p['logsnr_1'])
    emb = emb + p['label']['embedding'][label]

    def res(name, *parts, **kwargs):
        return res_block64(np.concatenate(parts, axis=-1), emb, p[name], **kwargs)

    def both(name, *parts):
        return attention64(res(name, *parts), p[f'{name}_attention'], heads=2)

    a = conv(z, p['conv_in'])  # 8 x 8
    b = res('down_0_0', a)
    c = res('down_0_resample', b, direction='down')  # 4 x 4
    d = both('down_1_0', c)
    h = attention64(res('middle_0', d), p['middle_attention'], heads=2)
    h = both('up_1_1', both('up_1_0', res('middle_1', h), d), c)
    h = res('up_1_resample', h, direction='up')  # 8 x 8
    h = res('up_0_1', res('up_0_0', h, b), a)
    return conv(silu(group_norm(h, p['norm_out'], 4)), p['conv_out'])


@pytest.mark.parametrize('changes', [{}, {'width': 16, 'channel_mult': (0.5, 1)}])
def test_whole_network_formula(changes):
    """Half the width at first: the same channels, and embeddings twice as wide."""
    (apply, params), (z, logsnr, label) = small(**changes), inputs()
    expected = unet64(z.astype(np.float64), logsnr, label, to_float64(params['params']))
    assert_close(apply(params, z, logsnr, label), expected, relative=2e-5)


def test_a_perturbation_meets_the_layers_of_its_name():
    """A network that skips the attention of the way up does without its parameters alone."""
    changes = {'channel_mult': (1,), 'num_res_blocks': 0, 'attention_resolutions': (8,)}
    model, args = unet.UNet(**SMALL | changes), inputs()
    layers = randomised(model, *args)['params']
    perturbation = Perturbation('skip', 'up_0_0')
    apply = compiled(functools.partial(model.apply, perturbation=perturbation))

    def without(name):
        return np.asarray(
            apply({'params': layers | {name: jax.tree.map(np.zeros_like, layers[name])}}, *args)
        )

    expected = np.asarray(apply({'params': layers}, *args))
    np.testing.assert_array_equal(without('up_0_0_attention'), expected)
    assert np.abs(without('middle_attention') - expected).max() > 0.01


@pytest.mark.parametrize(
    ('remat', 'least', 'most'), [('convolutions', -0.01, 0.01), ('blocks', 0.5, 1.0)]
)
def test_computing_again_changes_nothing(remat, least, most):
    """remat: parameters of the same names, the same gradient with the same dropout masks.

    The backward pass of 'blocks' takes up to another forward pass of products, that of
    'convolutions' none: they are what it keeps.
    """
    changes = {'channel_mult': (1,), 'attention_resolutions': (), 'dropout': 0.5}
    plain = unet.UNet(**SMALL | changes)
    again = plain.clone(remat=remat)
    args = inputs()
    params = randomised(plain, *args)
    assert jax.tree.structure(params) == jax.tree.structure(
        jax.eval_shape(again.init, jax.random.key(0), *args)
    )

    def loss(model, params, seed):
        rngs = {'dropout': jax.random.key(seed)}
        return jnp.sum(model.apply(params, *args, train=True, rngs=rngs) ** 2)

    gradients = [jax.grad(functools.partial(loss, model)) for model in (plain, again)]
    both = [jax.jit(g, compiler_options=FAST_COMPILE) for g in gradients]
    ours, theirs, others = both[0](params, 0), both[1](params, 0), both[1](params, 1)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(ours))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * largest)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), theirs, others)
    assert max(jax.tree.leaves(moved)) > 1e-2 * largest  # dropout acts, and by its key
    work = [operations.count_flops(gradient, params, 0) for gradient in gradients]
    forward = operations.count_flops(plain.apply, params, *args)
    assert least * forward < work[1] - work[0] < most * forward
