"""From a published file to a table: the command, what it refuses, and the models it makes."""

import json
import os
import pickle
import re

import jax
import numpy as np
import published_files as files
import pytest
import safetensors
from numpy_blocks import FAST_COMPILE
from safetensors.numpy import save_file
from support import ROOT, run_here, user_error
from test_decoder import autoencoder

import cfg_jax
from cfg_jax import cli, loading
from cfg_jax.evaluation import sweep
from cfg_jax.pretrained import importing, presets, torch_archive

IMPORT = 'scripts/import_checkpoint.py'
HALF = '--dtype=bfloat16'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Published files: a conditional U-Net, an unconditional one, and a classifier."""
    root = tmp_path_factory.mktemp('published')
    files.write(root / 'unet.pt', files.unet().tensors)
    files.write(root / 'uncond.pt', files.unet(labels=0).tensors)
    files.write(root / 'classifier.pt', files.classifier().tensors)
    return root


def run_import(capsys, folder, name):
    out = folder / f'{name}.safetensors'
    settings = '--set=num_heads=2' + (',num_classes=5' if name == 'uncond' else '')
    status, lines, errors = run_here(
        capsys, IMPORT, folder / f'{name}.pt', f'--out={out}', settings
    )
    assert (status, errors) == (0, [])
    return out, '\n'.join(lines)


def test_the_command_reports_what_it_found(capsys, folder):
    out, report = run_import(capsys, folder, 'unet')
    source = folder / 'unet.pt'
    for words in (
        "ADM's U-Net",
        '16 x 16 x 3',
        'eps and the variance',
        '5 labels, no null condition',
        'attention_order=legacy',
        f'{sum(a.size for a in files.unet().tensors.values()):,}',
        importing.open_published(source, 'num_heads=2').record()['file_sha256'],
        'not for commercial use',
    ):
        assert words in report
    with safetensors.safe_open(out, framework='numpy') as file:
        metadata = file.metadata()
        assert json.loads(metadata['source'])['file'] == 'unet.pt'
        tensor = file.get_tensor('params/conv_in/kernel')
    original = files.unet().tensors['input_blocks.0.0.weight']
    np.testing.assert_array_equal(tensor, original.transpose(2, 3, 1, 0))


def test_the_command_reports_what_was_set(folder):
    published = importing.open_published(folder / 'unet.pt', 'num_heads=2')
    assert published.plan.findings['set'] == 'num_heads=2'


def test_an_imported_file_is_not_imported_again(capsys, folder):
    out, _ = run_import(capsys, folder, 'unet')
    half = folder / 'half.safetensors'
    assert run_here(capsys, 'scripts/export.py', f'--model={out}', f'--out={half}', HALF)[0] == 0
    for path in (out, half):
        assert 'give it as --model' in user_error(importing.open_published, path)


def test_an_imported_model_takes_the_place_of_a_work_directory(capsys, folder):
    """The same images from the imported file; w needs what the network has not, or another one."""
    out, _ = run_import(capsys, folder, 'unet')
    other, _ = run_import(capsys, folder, 'uncond')
    judge, _ = run_import(capsys, folder, 'classifier')
    few = {'num_steps': 3, 'seed': 1}
    model = cfg_jax.load(out)
    assert model.provenance()['source']['file'] == 'unet.pt'
    assert model.provenance()['weights'] == 'published'
    images = model.sample([1, 4], **few)
    assert images.shape == (2, 16, 16, 3)
    message = user_error(model.sample, [1, 4], w=1.0, guidance='classifier_free', **few)
    assert 'no null' in message or 'null condition' in message
    assert '--guidance_network' in message

    pair = cfg_jax.load(out, guidance='autoguidance', guidance_network=other)
    assert (pair.sample([1, 4], w=2.0, **few) != images).any()
    guided = cfg_jax.load(out, guidance='classifier_mean', guidance_network=judge)
    assert guided.networks.keys() == guided.params.keys() == {'main', 'classifier'}
    assert type(model.rule).__name__ == 'Independent'  # a random other label


def test_load_takes_the_published_file_itself(folder):
    path = files.write(folder / 'heads.pt', files.unet(width=64, heads=1, attention=(0, 1)).tensors)
    model = cfg_jax.load(path)
    assert model.config.model.head_channels == 64
    assert model.provenance()['source']['file'] == 'heads.pt'
    original = torch_archive.read(path)['out.2.weight']
    found = model.params['main']['params']['conv_out']['kernel']
    np.testing.assert_array_equal(found, original.transpose(2, 3, 1, 0))


def test_the_unconditional_network_sees_no_label(folder):
    published = importing.open_published(folder / 'uncond.pt', 'num_heads=2')
    model = cfg_jax.Model(published.config, {'main': published.params()})
    x, _, _ = files.inputs(1)
    eps = jax.jit(model.eps, compiler_options=FAST_COMPILE)
    found = [eps(x, 0.0, np.int32([label])) for label in (0, 999)]
    np.testing.assert_array_equal(*found)
    np.testing.assert_array_equal(model.conditioning.null(np.int32([7])), [7])


def refused(capsys, script, *arguments):
    """The one line with which a command refuses."""
    status, _, errors = run_here(capsys, script, *arguments)
    assert status == 2
    assert len(errors) == 1
    return errors[0]


def test_a_classifier_is_no_model(capsys, folder):
    judge, _ = run_import(capsys, folder, 'classifier')
    out = folder / 'grid.png'
    message = refused(capsys, 'scripts/sample.py', f'--model={judge}', '--labels=1', f'--out={out}')
    assert 'noisy classifier' in message
    assert not out.exists()
    unet, _ = run_import(capsys, folder, 'unet')
    message = user_error(cfg_jax.load, judge, guidance='autoguidance', guidance_network=unet)
    assert 'noisy classifier' in message
    message = user_error(cfg_jax.load, unet, guidance='classifier_eps', guidance_network=unet)
    assert 'needs the work directory of a noisy classifier' in message


def test_bfloat16_is_close_and_recorded(capsys, folder):
    out, _ = run_import(capsys, folder, 'unet')
    config = loading.read_config(out)
    exact = cfg_jax.load(out)
    assert 'model_dtype' not in exact.provenance()
    config.model.dtype = 'bfloat16'
    model = cfg_jax.load(out, config=config)
    assert model.provenance()['model_dtype'] == 'bfloat16'
    x, _, labels = files.inputs(2)
    found, expected = (
        np.asarray(jax.jit(m.eps, compiler_options=FAST_COMPILE)(x, 0.0, np.int32(labels)))
        for m in (model, exact)
    )
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    assert 1e-4 < difference < 3e-2
    message = refused(
        capsys, 'scripts/sample.py', f'--model={out}', '--labels=1', '--model_dtype=int8'
    )
    assert 'model.dtype must be one of float32, bfloat16' in message


def test_the_cost_of_an_imported_model(capsys, folder):
    """A preset's w = 0 at 250 levels of 50,000 images is one evaluation each."""
    network = files.unet()
    files.write(folder / 'of64.pt', network.tensors)
    out = folder / 'of64.safetensors'
    options = f'--out={out}', '--set=num_heads=2,image_size=64'
    assert run_here(capsys, IMPORT, folder / 'of64.pt', *options)[0] == 0
    status, lines, _ = run_here(
        capsys, 'scripts/describe.py', f'--model={out}', '--preset=adm64', '--accelerator=a100'
    )
    assert status == 0
    found = json.loads('\n'.join(lines))
    assert found['parameters'] == sum(a.size for a in network.tensors.values())
    assert found['sweep_nfe'] == 250 * 50_000
    assert found['sweep_device_hours'] > 0
    assert 'training_images' not in found
    for options in ((), (f'--model={out}', '--config=configs/digits.py')):
        assert 'one of --config and --model' in refused(capsys, 'scripts/describe.py', *options)


def cut(path):
    path.write_bytes(path.read_bytes()[:-2000])


def run_code(path):
    class Touch:
        def __reduce__(self):
            return os.system, (f'touch {path.parent}/touched',)

    path.write_bytes(pickle.dumps({'w': Touch()}, 2))


def other_family(path):
    files.write(path, {'blocks.0.weight': np.ones((2, 2), 'f4')})


def directory(path):
    path.unlink()
    path.mkdir()


def missing(path):
    path.unlink()


@pytest.mark.parametrize(
    ('spoil', 'words'),
    [
        (cut, 'cut off'),
        (run_code, 'asks to run the code'),
        (other_family, "it holds 'blocks.0.weight'"),
        (directory, 'is a directory'),
        (missing, 'there is no file'),
    ],
)
def test_bad_files_write_nothing(capsys, tmp_path, spoil, words):
    path = files.write(tmp_path / 'bad.pt', files.unet().tensors)
    spoil(path)
    out = tmp_path / 'out.safetensors'
    status, _, errors = run_here(capsys, IMPORT, path, f'--out={out}')
    assert status == 2
    assert len(errors) == 1
    assert words in errors[0]
    assert str(path) in errors[0]
    assert not out.exists()
    assert not (tmp_path / 'touched').exists()


def test_not_finite_numbers_write_nothing(capsys, tmp_path):
    tensors = dict(files.unet().tensors)
    tensors['out.2.bias'] = np.float16([np.inf] * 6)
    path = files.write(tmp_path / 'bad.pt', tensors)
    out = tmp_path / 'out.safetensors'
    status, _, errors = run_here(capsys, IMPORT, path, f'--out={out}', '--set=num_heads=2')
    assert status == 2
    assert 'not finite' in errors[0]
    assert [entry.name for entry in tmp_path.iterdir()] == ['bad.pt']


def test_another_suffix(capsys, folder):
    status, _, errors = run_here(capsys, IMPORT, folder / 'unet.pt', '--out=model.npz')
    assert status == 2
    assert '.safetensors' in errors[0]


def test_safetensors_of_absurd_size(tmp_path):
    path = tmp_path / 'model.safetensors'
    for header in (2**63 - 1, 2**40, 0):
        path.write_bytes(header.to_bytes(8, 'little') + b'{}' * 50)
        assert 'safetensors' in user_error(loading.read_config, path)


def test_presets_refuse_other_models(folder):
    published = importing.open_published(folder / 'unet.pt', 'num_heads=2')
    assert 'data.image_size=64' in user_error(presets.apply, published.config, 'adm64')
    assert "did you mean 'adm64'" in user_error(presets.apply, published.config, 'adm46')


def test_a_preset_sets_what_was_published(folder):
    published = importing.open_published(folder / 'unet.pt', 'num_heads=2,image_size=64')
    presets.apply(published.config, 'adm64')
    sampler, sweep = published.config.sampler, published.config.sweep
    assert (sampler.name, sampler.num_steps, sampler.grid) == ('ancestral', 250, 'respaced')
    assert (sweep.num_samples, sweep.labels, sweep.w) == (50_000, 'uniform', (0.0,))
    assert sweep.rounding == 'truncate'


def test_a_preset_asks_for_its_network_unless_another_rule_is_given(folder):
    parser = cli.Parser('')
    cli.add_model_options(parser)
    published = importing.open_published(folder / 'unet.pt', 'num_heads=2,image_size=128')
    arguments = ['--model=m', '--preset=adm128']

    def apply(*more):
        config = published.config.copy_and_resolve_references()
        cli.apply_model_options(config, parser.parse_args([*arguments, *more]))
        return config.guidance.rule

    assert 'needs --guidance_network' in user_error(apply)
    assert apply('--guidance_network=c.safetensors') == 'classifier_mean'
    assert apply('--guidance=independent') == 'independent'


def test_a_published_file_is_exported_without_sweeps(capsys, folder):
    published, out = folder / 'unet.pt', folder / 'exported' / 'model.safetensors'
    status, _, errors = run_here(
        capsys, 'scripts/export.py', f'--model={published}', f'--out={out}'
    )
    assert (status, errors) == (0, [])
    assert 'No sweep of these weights' in (out.parent / 'MODEL_CARD.md').read_text()


def test_a_sweep_of_a_published_file_asks_for_its_import(folder):
    assert 'import it first: python scripts/import_checkpoint.py' in user_error(
        sweep.workdir_of, folder / 'unet.pt'
    )


def test_what_presets_say_is_published_stands_on_the_page():
    rows = (ROOT / 'docs' / 'published_models.md').read_text().splitlines()
    for name, preset in presets.PRESETS.items():
        [row] = [row for row in rows if row.startswith('|') and row.endswith(f' `{name}` |')][:1]
        for number in re.findall(r'[A-Za-z]+ \d+\.\d+', preset.published.partition(' (')[0]):
            assert number in row, name
        assert 'nothing' not in row
    assert 'FID 2.15' in presets.PRESETS['sit-xl-256-ode'].published


def test_every_preset_names_fields_that_exist():
    from cfg_jax import config as config_lib

    for preset in presets.PRESETS.values():
        known = config_lib.fields(preset.fits['model.kind'])
        assert preset.settings.keys() | preset.fits.keys() <= known.keys()
        assert preset.network or preset.settings['guidance.rule'] != 'autoguidance'


def test_an_imported_model_is_exported_with_its_origin_and_licence(capsys, folder, tmp_path):
    """In half the bytes: the record of the file and the card go along, of every role."""
    autoencoder(folder / 'decoder.safetensors')
    decoder = folder / 'imported.safetensors'
    arguments = IMPORT, folder / 'decoder.safetensors', f'--out={decoder}'
    assert run_here(capsys, *arguments)[0] == 0
    imported = [run_import(capsys, folder, name)[0] for name in ('unet', 'classifier')]
    for whole in (*imported, decoder):
        half = tmp_path / whole.stem / 'half.safetensors'
        arguments = f'--model={whole}', f'--out={half}', '--dtype=bfloat16'
        status, lines, errors = run_here(capsys, 'scripts/export.py', *arguments)
        assert (status, errors) == (0, [])
        assert lines[-1] == f'{whole} written to {half}'
        (_, config, kept), before = loading.load_params(half), loading.load_params(whole)[2]
        assert (kept['weights'], kept['source']) == ('published', before['source'])
        card = (half.parent / 'MODEL_CARD.md').read_text()
        for word in ('licence', 'origin', 'file', 'file_sha256'):
            assert before['source'][word] in card
        assert ('images of latents of 4 channels' in card) == (config.model.kind == 'decoder')
        assert 'p_uncond' not in card
        assert 'checkpoint step' not in card


def test_the_record_of_the_origin_may_be_damaged(capsys, folder, tmp_path):
    out, _ = run_import(capsys, folder, 'unet')
    with safetensors.safe_open(out, framework='numpy') as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    for wrong in ('{"family": ', '["ADM"]'):
        save_file(tensors, tmp_path / 'bad.safetensors', metadata | {'source': wrong})
        message = user_error(loading.load_params, tmp_path / 'bad.safetensors')
        assert 'is damaged or of another kind; export or import the model again' in message


def test_what_is_read_is_not_replaced(capsys, folder, tmp_path):
    """The published file, by whatever path; nor an exported one by its own rounding."""
    autoencoder(tmp_path / 'published.safetensors')
    (tmp_path / 'link.safetensors').symlink_to('published.safetensors')
    published = (tmp_path / 'published.safetensors').read_bytes()
    out, _ = run_import(capsys, folder, 'unet')
    imported = out.read_bytes()
    for command in (
        (IMPORT, tmp_path / 'published.safetensors', f'--out={tmp_path}/link.safetensors'),
        (IMPORT, tmp_path / 'link.safetensors', f'--out={tmp_path}/x/../published.safetensors'),
        ('scripts/export.py', f'--model={out}', f'--out={out}', '--dtype=bfloat16'),
    ):
        assert 'is what is read, and would be lost' in refused(capsys, *command)
    assert (tmp_path / 'published.safetensors').read_bytes() == published
    assert out.read_bytes() == imported
