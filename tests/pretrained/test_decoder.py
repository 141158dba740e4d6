"""The autoencoder's decoder, and models of latents from files to images."""

import json

import jax
import numpy as np
import published_files as files
import pytest
import safetensors.numpy
from numpy_blocks import FAST_COMPILE, assert_close
from numpy_dit import DecoderNetwork
from support import run_here, user_error
from test_dit import HEADS, drawn, without_variance

import cfg_jax
from cfg_jax import loading
from cfg_jax.evaluation import sweep
from cfg_jax.models import networks
from cfg_jax.pretrained import importing

IMPORT = 'scripts/import_checkpoint.py'
EIGHT = (32, 32, 32, 32)  # channels of a decoder that makes 8 x 8 pixels of a latent


def latents(count=2, side=3):
    return np.random.default_rng(1).normal(size=(count, side, side, 4)).astype(np.float32)


def autoencoder(path, **changes):
    """A decoder in NumPy, and its file with an encoder next to it."""
    network = DecoderNetwork(**changes)
    network.forward(files.first(latents(1, 1)))
    other = {
        'encoder.conv_in.weight': np.ones((2, 3, 3, 3), 'f4'),
        'quant_conv.bias': np.ones(8, 'f4'),
    }
    write(path, dict(network.tensors) | other)
    return network


def write(path, tensors):
    if path.suffix == '.safetensors':
        safetensors.numpy.save_file(tensors, path, metadata={'format': 'pt'})
    else:
        files.write(path, tensors)


@pytest.mark.parametrize('former_names', [False, True])
@pytest.mark.parametrize('suffix', ['safetensors', 'bin'])
def test_decoder(tmp_path, suffix, former_names):
    path = tmp_path / f'diffusion_pytorch_model.{suffix}'
    network = autoencoder(path, channels=(32, 64), former_names=former_names)
    published = importing.open_published(path)
    assert '2 tensors' in published.plan.findings['left out']
    z = latents()
    decode = jax.jit(networks.make_latent_decoder(published.config), compiler_options=FAST_COMPILE)
    found = decode(published.params(), z)
    assert found.shape == (2, 6, 6, 3)
    assert_close(found, files.last(network.forward(files.first(z) / 0.18215)), 5e-5)


def test_the_scale_of_another_autoencoder(tmp_path):
    path = tmp_path / 'vae.safetensors'
    autoencoder(path)
    published = importing.open_published(path, 'scale=0.13025')
    assert published.config.latent.scale == 0.13025
    assert 'scale=0.13025' in published.plan.findings['not in the shapes']


@pytest.mark.parametrize(
    ('name', 'value', 'words'),
    [
        ('decoder.conv_out.bias', None, "lacks 'decoder.conv_out.bias'"),
        ('decoder.up_blocks.1.resnets.1.conv1.weight', None, 'differ in their numbers of blocks'),
        ('decoder.up_blocks.2.attentions.0.to_q.weight', np.ones((2, 2), 'f4'), 'also has'),
        ('decoder.conv_out.bias', np.ones(3, np.int8), "'decoder.conv_out.bias' is I8"),
    ],
)
def test_bad_files(tmp_path, name, value, words):
    path = tmp_path / 'vae.safetensors'
    tensors = dict(autoencoder(path).tensors)
    tensors.pop(name, None)
    write(path, tensors if value is None else tensors | {name: value})
    assert words in user_error(importing.open_published, path)


def test_names_of_compvis(tmp_path):
    path = tmp_path / 'vae.safetensors'
    tensors = {
        name.replace('up_blocks', 'up').replace('resnets', 'block'): value
        for name, value in autoencoder(path).tensors.items()
    }
    write(path, tensors)
    message = user_error(importing.open_published, path)
    assert "CompVis's names" in message
    assert 'give diffusion_pytorch_model.safetensors' in message


def test_a_safetensors_file_that_is_cut_off_or_of_something_else(tmp_path):
    path = tmp_path / 'vae.safetensors'
    autoencoder(path)
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    assert 'not a readable safetensors file' in user_error(importing.open_published, path)
    write(path, {'a.weight': np.ones(2, 'f4')})
    assert "it holds 'a.weight'" in user_error(loading.read_config, path)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """DiT.pt, SiT.pt for 64 x 64 images, vae.safetensors; the imported dit and decoder."""
    root = tmp_path_factory.mktemp('latents')
    files.write(root / 'DiT.pt', drawn().tensors)
    files.write(root / 'SiT.pt', without_variance(drawn(seed=1)).tensors)
    autoencoder(root / 'vae.safetensors', channels=EIGHT, blocks=1)
    return root


@pytest.fixture(scope='module')
def imported(folder):
    for name, settings in ('DiT.pt', HEADS), ('SiT.pt', HEADS), ('vae.safetensors', ''):
        published = importing.open_published(folder / name, settings)
        importing.write(published, folder / f'{name.partition(".")[0]}-ours.safetensors')
    return {name: folder / f'{name}-ours.safetensors' for name in ('DiT', 'SiT', 'vae')}


def test_the_command_and_a_picture(capsys, folder, imported, tmp_path):
    """import_checkpoint.py writes a decoder; sample.py draws with it, and with the file itself."""
    out = tmp_path / 'decoder.safetensors'
    status, lines, errors = run_here(capsys, IMPORT, folder / 'vae.safetensors', f'--out={out}')
    assert (status, errors) == (0, [])
    assert 'scale=0.18215' in '\n'.join(lines)
    pictures = []
    for decoder in (out, folder / 'vae.safetensors'):
        png = tmp_path / f'{len(pictures)}.png'
        given = [f'--model={imported["DiT"]}', f'--decoder={decoder}', f'--out={png}']
        given += ['--labels=1,3', '--w=0.5', '--num_steps=2', '--guidance=classifier_free+channels']
        status, _, errors = run_here(capsys, 'scripts/sample.py', *given)
        assert (status, errors) == (0, [])
        pictures.append(png.read_bytes())
    assert pictures[0] == pictures[1]


def test_images_are_decoded_latents(imported):
    """Those that the sampler ends in, decoded image by image."""
    config = loading.read_config(imported['SiT'])
    config.sampler.name, config.sampler.num_steps = 'euler', 2
    params = {'main': loading.load_params(imported['SiT'])[0]}
    labels = np.int32([0, 1, 4])

    def enlarged(params, z):
        pixels = z[..., :3].repeat(8, 1).repeat(8, 2)
        return params * (pixels - z.mean((1, 2, 3), keepdims=True))

    def images(decoder, scale):
        networks = {'decoder': decoder}
        model = cfg_jax.Model(config, params | {'decoder': np.float32(scale)}, networks=networks)
        return np.asarray(model.generate(3, range(3), labels, 0.5).x, np.float64)

    latents = images(lambda params, z: z, 1.0)
    assert latents.shape == (3, 8, 8, 4)
    assert_close(images(enlarged, 2.0), enlarged(2.0, latents), 1e-5)


def test_a_sweep_of_latents(imported):
    """The config names the decoder, and other weights of one are another sweep."""
    config = loading.read_config(imported['DiT'])
    config.latent.decoder = str(imported['vae'])
    model, _, _ = sweep.prepare(config, imported['DiT'])
    assert 'vae.safetensors' in json.dumps(model.provenance())
    assert config.data.image_size == 64


@pytest.mark.parametrize(
    ('model', 'decoder', 'words'),
    [
        ('DiT', None, '--decoder'),
        ('DiT', 'SiT', 'holds a diffusion model; this needs the file of a decoder of latents'),
        ('vae', None, 'holds a decoder of latents; this needs the work directory of a diffusion'),
    ],
)
def test_files_in_each_others_place(imported, model, decoder, words):
    given = {'decoder': imported[decoder]} if decoder else {}
    assert words in user_error(cfg_jax.load, imported[model], **given)


def test_a_decoder_that_is_not_there_is_not_to_be_trained(imported, tmp_path):
    for path in (tmp_path, tmp_path / 'vae', tmp_path / 'vae.bin'):
        message = user_error(cfg_jax.load, imported['DiT'], decoder=path)
        assert message.startswith(f'{path} is no file; a decoder is a published file')


def test_a_decoder_for_other_latents(imported, tmp_path):
    autoencoder(tmp_path / 'vae.safetensors', channels=(32, 32), blocks=1)
    message = user_error(cfg_jax.load, imported['DiT'], decoder=tmp_path / 'vae.safetensors')
    assert 'takes 4 channels and enlarges 2 times; the model has 4 and 8' in message
