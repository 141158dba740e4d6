"""DiT and SiT: files in their naming, against their formulas in NumPy."""

import functools

import jax
import numpy as np
import published_files as files
import pytest
from numpy_blocks import FAST_COMPILE, assert_close
from numpy_dit import DiTNetwork
from support import user_error

from cfg_jax import diffusion, inference, settings
from cfg_jax.models import networks
from cfg_jax.models.perturbation import Perturbation
from cfg_jax.pretrained import importing, presets

HEADS = 'num_heads=3'


def inputs(count=4, channels=4):
    """Latents [B, 8, 8, C] of 64 x 64 images, and labels, the null among them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 8, 8, channels)).astype(np.float32)
    return x, np.arange(count) + 6 - count


def drawn(**changes):
    """A network with its parameters."""
    network = DiTNetwork(**changes)
    x, labels = inputs(1, network.channels)
    network.forward(files.first(x), [0.0], labels)
    return network


def without_variance(network):
    """As SiT's training leaves it: the second half of the outputs is zero."""
    for name in ('final_layer.linear.weight', 'final_layer.linear.bias'):
        rows = network.tensors[name].reshape(4, 8, -1)
        rows[:, 4:] = 0.0
    return network


def compiled(fn):
    return jax.jit(fn, compiler_options=FAST_COMPILE)


@pytest.fixture(scope='module')
def dit(tmp_path_factory):
    """DiT's network, and its file."""
    network = drawn()
    return network, files.write(tmp_path_factory.mktemp('dit') / 'DiT.pt', network.tensors)


def test_dit(dit):
    network, path = dit
    published = importing.open_published(path, HEADS)
    config = published.config
    assert (config.data.image_size, config.data.num_classes) == (64, 5)
    assert networks.noise_shape(config) == (8, 8, 4)
    assert not config.sampler.clip
    x, labels = inputs()
    steps = np.array([0, 333, 666, 999])
    logsnr = np.float32(networks.make_schedule(config).table()[steps])
    denoiser = networks.make_denoiser(config)
    found = compiled(denoiser.predict)(published.params(), x, logsnr, np.int32(labels))
    expected = files.last(network.forward(files.first(x), steps, labels))
    assert_close(np.concatenate([found.eps, 2 * found.v - 1], axis=-1), expected, 2e-5)


@pytest.mark.parametrize('out', [8, 4])
def test_sit(tmp_path, out):
    """x - eps at t = alpha of a flow: its z is t x + (1 - t) eps."""
    network = drawn(out=out)
    if out == 8:
        without_variance(network)
    path = files.write(tmp_path / 'SiT.pt', network.tensors)
    published = importing.open_published(path, HEADS)
    assert published.config.target == 'velocity'
    y, labels = inputs()
    t = np.float32([1e-4, 0.3, 0.7, 0.9999])
    logsnr = np.float32(2 * np.log(t / (1 - t.astype(np.float64))))
    z = y / np.asarray(diffusion.FLOW.factor(logsnr))[:, None, None, None]
    denoiser = networks.make_denoiser(published.config)
    eps = compiled(denoiser.eps)(published.params(), z, logsnr, np.int32(labels))
    velocity = files.last(network.forward(files.first(y), t, labels)[:, :4])
    assert_close(eps, y - t[:, None, None, None] * velocity, 2e-5)


def test_what_names_and_shapes_do_not_show(dit, tmp_path):
    _, path = dit
    said = importing.open_published(path, HEADS).plan.findings
    assert 'process=diffusion' in said['not in the shapes']
    assert 'num_heads' not in said['not in the shapes']
    assert said['predicts'] == 'eps and the variance'
    flow = importing.open_published(path, f'{HEADS},process=flow')
    assert flow.config.target == 'velocity'
    assert '4 unused channels' in flow.plan.findings['predicts']
    published = drawn(width=384, depth=1, heads=6)
    path = files.write(tmp_path / 'S.pt', published.tensors)
    plan = importing.open_published(path).plan
    assert plan.config.model.num_heads == 6
    assert 'num_heads=6' in plan.findings['not in the shapes']


@pytest.mark.parametrize(
    ('changes', 'settings', 'words'),
    [
        ({}, '', 'width of 24; give its attention heads'),
        ({}, 'num_heads=5', 'num_heads=5 does not divide'),
        ({}, f'{HEADS},process=score', 'process is diffusion (DiT) or flow (SiT)'),
        ({'out': 4}, f'{HEADS},process=diffusion', 'does not predict the variance'),
        ({'out': 6}, HEADS, "'final_layer.linear.weight' puts out 6 channels; 4 or 8"),
        ({'rows': 1}, HEADS, 'has 1 rows, and no class'),
        ({}, f'{HEADS},width=3', "no option 'width=3'"),
    ],
)
def test_files_and_settings_that_do_not_fit(tmp_path, changes, settings, words):
    network = DiTNetwork(**changes)
    x, _ = inputs(1)
    network.forward(files.first(x), [0.0], [0])
    path = files.write(tmp_path / 'bad.pt', network.tensors)
    assert words in user_error(importing.open_published, path, settings)


@pytest.mark.parametrize(
    ('name', 'shape', 'words'),
    [
        ('projectors.0.0.weight', (2, 2), "also has 'projectors.0.0.weight'"),  # REPA's
        ('blocks.1.mlp.fc1.weight', None, "lacks 'blocks.1.mlp.fc1.weight'"),
        ('blocks.1.mlp.fc1.weight', (48, 24), 'has the shape (48, 24), not (96, 24)'),
        ('pos_embed', (1, 15, 24), "'pos_embed' is for 15 tokens, not a square"),
    ],
)
def test_tensors_that_do_not_fit(dit, tmp_path, name, shape, words):
    tensors = dict(dit[0].tensors)
    tensors.pop(name, None)
    if shape:
        tensors[name] = np.ones(shape, np.float32)
    path = files.write(tmp_path / 'bad.pt', tensors)
    assert words in user_error(importing.open_published, path, HEADS)


@pytest.mark.parametrize('kind', ['identity', 'skip'])
def test_attention_can_be_weakened(dit, kind):
    """In the last block: identity attention is v itself, and a skipped one adds nothing."""
    network, path = dit
    published = importing.open_published(path, HEADS)
    denoiser = networks.make_denoiser(published.config)
    x, labels = inputs(2)
    weak = DiTNetwork(weakened={'blocks.1': kind})
    weak.tensors = network.tensors
    expected = files.last(weak.forward(files.first(x), [500, 500], labels))[..., :4]
    level = np.float32(networks.make_schedule(published.config).table()[500])
    predict = functools.partial(denoiser.predict, perturbation=Perturbation(kind, 'block_1'))
    found = compiled(predict)(published.params(), x, level, np.int32(labels))
    assert_close(found.eps, expected, 2e-5)


def test_a_model_of_latents_needs_a_decoder(dit):
    published = importing.open_published(dit[1], HEADS)
    message = user_error(inference.Model, published.config, {'main': published.params()})
    assert '--decoder' in message


def test_presets(dit, tmp_path):
    config = importing.open_published(dit[1], HEADS).config
    assert 'data.image_size=256' in user_error(presets.apply, config, 'dit-xl-256')
    config.data.image_size, config.model.width, config.model.depth = 256, 1152, 28
    assert 'target=velocity' in user_error(presets.apply, config, 'sit-xl-256')
    presets.apply(config, 'dit-xl-256')
    assert (config.sampler.name, config.sampler.num_steps) == ('ancestral', 250)
    assert not config.sampler.clip
    assert settings.make_rule(config).count == 3
    assert config.sweep.w == (0.5,)  # scale 1.5 there
