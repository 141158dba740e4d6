"""ADM's published networks: files in their naming, against guided-diffusion's formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import published_files as files
import pytest
from flax.traverse_util import flatten_dict
from numpy_blocks import FAST_COMPILE, assert_close
from support import user_error

from cfg_jax.models import networks
from cfg_jax.models.adm import step_embedding
from cfg_jax.pretrained import adm, adm_layout, importing

HEADS = 'num_heads=2'


def opened(tmp_path, network, settings=HEADS):
    return importing.open_published(files.write(tmp_path / 'adm.pt', network.tensors), settings)


def levels(config, steps):
    return np.float32(networks.make_schedule(config).table()[steps])


def predicted(published, x, steps, labels):
    """eps and h = 2 v - 1 of our network, [B, H, W, 2 C]."""
    denoiser = networks.make_denoiser(published.config)
    predict = jax.jit(denoiser.predict, compiler_options=FAST_COMPILE)
    logsnr = levels(published.config, steps)
    found = predict(published.params(), x, logsnr, np.int32(labels))
    return np.concatenate([found.eps, 2 * np.asarray(found.v) - 1], axis=-1)


@pytest.mark.parametrize(
    ('changes', 'settings'),
    [
        ({}, HEADS),
        ({'new_order': True}, f'{HEADS},attention_order=new'),
        ({'labels': 0, 'mult': (0.5, 1), 'width': 64, 'attention': (True, True)}, HEADS),
        (
            {'updown': False, 'scale_shift': False},
            f'{HEADS},schedule=cosine_beta,attention_order=legacy',
        ),
    ],
    ids=['legacy', 'new', 'unconditional', 'convolutions'],
)
def test_unet(tmp_path, changes, settings):
    network = files.unet(**changes)
    x, steps, labels = files.inputs(4)
    expected = files.last(network.unet(files.first(x), steps, labels))
    published = opened(tmp_path, network, settings)
    assert_close(predicted(published, x, steps, labels), expected)
    assert published.config.condition == ('label_only' if network.spec.labels else 'unconditional')


def test_attention_order_is_not_in_the_shapes(tmp_path):
    """The wrong one is read without complaint, so the report says what was assumed."""
    network = files.unet()
    legacy, new = (
        opened(tmp_path, network, f'{HEADS},attention_order={order}') for order in adm.ORDERS
    )
    path = 'params/middle_attention/qkv/kernel'
    kernels = [dict(published.arrays())[path] for published in (legacy, new)]
    assert kernels[0].shape == kernels[1].shape
    assert (kernels[0] != kernels[1]).any()
    assert 'attention_order=legacy' in opened(tmp_path, network).plan.findings['not in the shapes']


def test_classifier_and_its_gradient(tmp_path):
    network = files.classifier()
    published = opened(tmp_path, network)
    x, steps, _ = files.inputs(2)
    logsnr, params = levels(published.config, steps), published.params()
    classify = networks.make_noisy_classifier(published.config)
    expected = network.classifier(files.first(x), steps)
    weights = np.random.default_rng(1).normal(size=expected.shape)

    def weighted(x):
        logits = classify(params, x, logsnr)
        return jnp.sum(logits * weights), logits

    derive = jax.jit(jax.grad(weighted, has_aux=True), compiler_options=FAST_COMPILE)
    gradient, logits = derive(x)
    assert_close(np.asarray(logits), expected)
    # Along random directions, against central differences in float64.
    rng = np.random.default_rng(2)
    for _ in range(3):
        direction = rng.normal(size=x.shape)
        ahead, behind = (
            network.classifier(files.first(x + 1e-5 * sign * direction), steps) for sign in (1, -1)
        )
        slope = np.sum(weights * (ahead - behind)) / 2e-5
        difference = np.sum(gradient * direction) - slope
        assert abs(difference) < 1e-4 * np.linalg.norm(gradient)


# Width, multipliers, residual blocks, labels, output, parameters counted by the original code.
PUBLISHED = {
    64: (192, (1, 2, 3, 4), 3, 1000, 6, 295_904_454),
    128: (256, (1, 1, 2, 3, 4), 2, 1000, 6, 421_529_606),
    256: (256, (1, 1, 2, 2, 4, 4), 2, 1000, 6, 553_838_086),
    257: (256, (1, 1, 2, 2, 4, 4), 2, 0, 6, 552_814_086),
    512: (256, (0.5, 1, 1, 2, 2, 4, 4), 2, 1000, 6, 558_997_638),
    -64: (128, (1, 2, 3, 4), 4, 0, 1000, 65_438_568),
    -128: (128, (1, 1, 2, 3, 4), 2, 0, 1000, 42_568_040),
    -256: (128, (1, 1, 2, 2, 4, 4), 2, 0, 1000, 54_096_360),
    -512: (128, (0.5, 1, 1, 2, 2, 4, 4), 2, 0, 1000, 54_448_360),
}


class Shapes(dict):
    """A state dict of which only names and shapes exist."""

    def shape(self, name):
        return self[name]


@pytest.mark.parametrize('size', PUBLISHED)
def test_published_sizes(size):
    """Parameters as counted there; settings and shapes of our network follow from names and shapes.

    257 is the unconditional network, the negative ones are classifiers.
    """
    width, mult, res_blocks, labels, out, count = PUBLISHED[size]
    structure = adm_layout.Structure(
        width=width,
        channel_mult=mult,
        num_res_blocks=res_blocks,
        attention=tuple(level >= len(mult) - 3 for level in range(len(mult))),
        resblock_updown=True,
        scale_shift_norm=True,
        in_channels=3,
        out_channels=out,
        labels=labels,
        pool_positions=65 if size < 0 else 0,
        pointwise_axes=1,
    )
    state = Shapes({s.name: s.shape for s in adm_layout.sources(structure, None).values()})
    assert sum(np.prod(shape) for shape in state.values()) == count
    assert adm_layout.structure(state) == structure

    family = adm.CLASSIFIERS if size < 0 else adm.FAMILY
    assert family.recognises(state)
    config, sources, *_ = family.plan(state, '')
    assert config.data.image_size == abs(size) // 64 * 64
    if size in (256, -128, -256):  # as those above and below, but for a setting each
        return
    network, arguments = networks.make_network(config), networks.inputs(config)
    ours = jax.eval_shape(network.init, jax.random.key(0), *arguments)
    converted = {
        path: source.convert(np.broadcast_to(np.float32(0), source.shape)).shape
        for path, source in sources.items()
    }
    assert {path: leaf.shape for path, leaf in flatten_dict(ours, sep='/').items()} == converted


def test_published_settings():
    """What the commands of guided-diffusion's README say."""
    expected = {
        64: ('cosine_beta', 64, 0),
        128: ('linear_beta', 0, 4),
        256: ('linear_beta', 64, 0),
        512: ('linear_beta', 64, 0),
    }
    for size, settings in expected.items():
        used = adm.PUBLISHED[size]
        assert (used.schedule, used.head_channels, used.num_heads) == settings
        assert used.attention_order == ('new' if size == 64 else 'legacy')


def tampered(tmp_path, change, settings=HEADS):
    """The message about a U-Net's file with changed tensors."""
    tensors = dict(files.unet().tensors)
    change(tensors)
    path = files.write(tmp_path / 'adm.pt', tensors)
    return user_error(importing.open_published, path, settings)


def test_tensors_missing_or_left_over(tmp_path):
    name = 'output_blocks.2.0.in_layers.2.bias'
    assert f"lacks '{name}'" in tampered(tmp_path, lambda tensors: tensors.pop(name))
    message = tampered(tmp_path, lambda tensors: tensors.update({'extra.weight': np.ones(3)}))
    assert "also has 'extra.weight'" in message
    for name in ('time_embed.0.weight', 'input_blocks.3.0.out_layers.3.weight', 'out.2.weight'):
        assert repr(name) in tampered(tmp_path, lambda tensors, name=name: tensors.pop(name))


def test_shapes_that_do_not_fit(tmp_path):
    name = 'middle_block.0.emb_layers.1.weight'
    message = tampered(tmp_path, lambda tensors: tensors.update({name: np.ones((3, 128), 'f4')}))
    assert f'{name!r} has the shape (3, 128), not (128, 128)' in message
    rgbd = np.ones((32, 6, 3, 3), 'f4')
    message = tampered(tmp_path, lambda tensors: tensors.update({'input_blocks.0.0.weight': rgbd}))
    assert 'upsampler' in message


def test_settings_that_do_not_fit(tmp_path):
    path = files.write(tmp_path / 'adm.pt', files.unet(attention=(True, True)).tensors)
    message = user_error(importing.open_published, path)
    assert 'head_channels=64' in message
    assert '--set=head_channels' in message
    for settings in ('attention_order=old,num_heads=2', 'num_heads=2,head_channels=32', 'depth=3'):
        user_error(importing.open_published, path, settings)


def test_networks_of_improved_diffusion_are_refused(tmp_path):
    """They have ADM's names, 4,000 steps, and other heads; only convolutions resample in them."""
    path = files.write(tmp_path / 'adm.pt', files.unet(updown=False).tensors)
    stated = [HEADS, 'schedule=cosine_beta', 'attention_order=legacy']
    for settings in ('', *(','.join(part for part in stated if part != left) for left in stated)):
        message = user_error(importing.open_published, path, settings)
        assert 'improved-diffusion' in message
        assert '4,000 steps' in message
    importing.open_published(path, ','.join(stated))
    path = files.write(tmp_path / 'judge.pt', files.classifier(updown=False).tensors)
    assert 'improved-diffusion' in user_error(importing.open_published, path)


@pytest.mark.parametrize('size', [8, 32, 64])
def test_a_classifiers_image_size_is_in_its_shapes(tmp_path, size):
    path = files.write(tmp_path / 'judge.pt', files.classifier().tensors)
    assert importing.open_published(path, f'{HEADS},image_size=16').config.data.image_size == 16
    message = user_error(importing.open_published, path, f'{HEADS},image_size={size}')
    assert f'has 65 positions; images of {size} pixels' in message
    assert 'leave image_size out' in message


@pytest.mark.parametrize('value', [np.inf, np.nan])
def test_float16_with_infinities(tmp_path, value):
    tensors = {n: array.astype(np.float16) for n, array in files.unet().tensors.items()}
    published = importing.open_published(files.write(tmp_path / 'adm.pt', tensors), HEADS)
    assert all(array.dtype == np.float32 for _, array in published.arrays())
    tensors['out.2.bias'][0] = value
    published = importing.open_published(files.write(tmp_path / 'adm.pt', tensors), HEADS)
    assert "'out.2.bias' (float16)" in user_error(published.params)


def test_frequencies_are_rounded_once():
    """At step 999 a frequency that is off by one unit in the last place is an angle off by 6e-5."""
    half = 64
    exponents = np.float32(-np.log(10000.0)) * np.arange(half, dtype=np.float32) / half
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = (np.float32(999) * frequencies).astype(np.float64)
    found = step_embedding(np.float32([999]), 2 * half)[0]
    expected = np.concatenate([np.cos(angles), np.sin(angles)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
