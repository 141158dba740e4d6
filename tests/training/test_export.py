"""Exported models: every bit comes back, the file replaces a work directory, damage is one line."""

import json
import shutil
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from flax.traverse_util import flatten_dict
from PIL import Image
from safetensors.numpy import save_file
from support import (
    CLASSIFIER,
    checkpoint_arrays,
    make_tiny_config,
    run_here,
    toy_instead_of_networks,
    user_error,
)

import cfg_jax
from cfg_jax import config as config_lib, loading
from cfg_jax.evaluation import sweep
from cfg_jax.training import export, loop
from cfg_jax.training.step import create_state


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Work directories and exported files of a toy U-Net and a toy classifier."""
    root = tmp_path_factory.mktemp('exported')
    with toy_instead_of_networks():
        loop.train(make_tiny_config(), root / 'unet')
        loop.train(make_tiny_config(CLASSIFIER), root / 'classifier')
    return root


@pytest.fixture
def exported(runs, toy_networks, capfd):
    """The file of the toy U-Net, written by the command."""
    path = runs / 'unet.safetensors'
    if not path.exists():
        arguments = f'--model={runs / "unet"}', f'--out={path}'
        status, lines, errors = run_here(capfd, 'scripts/export.py', *arguments)
        assert (status, errors) == (0, [])
        assert lines[-1] == f'step 6 of {runs / "unet"} written to {path}'
    return path


def test_the_names_are_those_of_training(runs, toy_networks, tmp_path, capfd):
    """The data set may call its classes otherwise by now."""
    run, out = shutil.copytree(runs / 'unet', tmp_path / 'run'), tmp_path / 'out.safetensors'
    names = ['zero', *'123456789']
    (run / 'classes.json').write_text(json.dumps({'names': names}))
    assert run_here(capfd, 'scripts/export.py', f'--model={run}', f'--out={out}')[0] == 0
    assert export.read_class_names(out) == names


def header(path):
    """Names, shapes and metadata, read without any library."""
    content = path.read_bytes()
    (size,) = struct.unpack('<Q', content[:8])
    return json.loads(content[8 : 8 + size])


def test_the_classes_have_names(runs, exported, toy_networks, tmp_path, capfd):
    """Those of the data set where it can be asked; a file of its own words needs none."""
    assert json.loads(header(exported)['__metadata__']['class_names']) == list('0123456789')
    assert export.read_class_names(exported) == loading.load(runs / 'unet').class_names
    params, config, _ = loading.load_params(exported)
    config.data.name = 'folder:/no/such/pictures'
    nameless, named = tmp_path / 'nameless.safetensors', tmp_path / 'named.safetensors'
    metadata = export.write_model(nameless, params, config, 6)
    assert 'class_names' not in metadata
    assert loading.load(nameless).class_names == list('0123456789')
    export.write(named, params, metadata | {'class_names': ['n01443537', *'bcdefghi', 'teapot']})
    model = loading.load(named)
    np.testing.assert_array_equal(
        model.sample(['Goldfish', 3, 'teapot'], w=1.0), model.sample([0, 3, 9], w=1.0)
    )
    assert "'teapod'" in user_error(model.sample, ['teapod'])
    out = tmp_path / 'grid.png'
    arguments = f'--model={named}', '--labels=goldfish,3,Teapot', '--names', f'--out={out}'
    assert run_here(capfd, 'scripts/sample.py', *arguments)[0] == 0
    assert out.exists()


def test_half_the_bytes(runs, exported, toy_networks, tmp_path, capfd):
    """Rounded to bfloat16; the hash is of what is read."""
    path = tmp_path / 'half.safetensors'
    arguments = f'--model={runs / "unet"}', f'--out={path}', '--dtype=bfloat16'
    assert run_here(capfd, 'scripts/export.py', *arguments)[0] == 0
    whole, half = (loading.load_params(file) for file in (exported, path))
    for a, b in zip(jax.tree.leaves(whole[0]), jax.tree.leaves(half[0]), strict=True):
        np.testing.assert_allclose(b, a, rtol=2**-8)
        np.testing.assert_array_equal(b, a.astype(jnp.bfloat16).astype(np.float32))
    assert half[2]['weights_sha256'] == export.sha256_of_params(half[0])
    assert half[2]['weights_sha256'] != whole[2]['weights_sha256']
    sizes = [
        sum(
            b['data_offsets'][1] - b['data_offsets'][0]
            for n, b in header(file).items()
            if n != '__metadata__'
        )
        for file in (exported, path)
    ]
    assert sizes[0] == 2 * sizes[1]


def like():
    return jax.eval_shape(lambda: create_state(make_tiny_config())).ema_params


def test_every_bit_comes_back(runs, exported):
    params, step, sha256 = export.read(exported, like())
    assert step == 6
    saved = {
        name: array
        for name, array in checkpoint_arrays(runs / 'unet', 6).items()
        if 'ema_params' in name
    }
    found = flatten_dict(params, sep='/')
    assert len(found) == len(saved)
    for name, array in found.items():
        (expected,) = [
            other for key, other in saved.items() if all(f"'{p}'" in key for p in name.split('/'))
        ]
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected, err_msg=name)
    assert sha256 == export.sha256_of_params(params)
    assert sha256 == loading.load(runs / 'unet').provenance()['weights_sha256']


def test_what_others_read_in_the_file(runs, exported):
    """Names are paths, layouts Flax's, and the metadata says all that is needed to use it."""
    content = header(exported)
    metadata = content.pop('__metadata__')
    assert content['params/Conv_0/kernel']['shape'] == [3, 3, 1, 8]
    assert {entry['dtype'] for entry in content.values()} == {'F32'}
    assert metadata['format'] == 'cfg_jax/1'
    assert metadata['step'] == '6'
    assert len(metadata['weights_sha256']) == 64
    assert 'jax' in json.loads(metadata['versions'])
    written = json.loads((runs / 'unet' / 'config.json').read_text())
    assert json.loads(metadata['config']) == written
    assert export.read_config(exported).to_dict() == make_tiny_config().to_dict()


def test_an_earlier_step(runs, exported, capfd):
    path = runs / 'early.safetensors'
    arguments = f'--model={runs / "unet"}', '--step=3', f'--out={path}'
    assert run_here(capfd, 'scripts/export.py', *arguments)[0] == 0
    early, newest = (loading.load(p).provenance() for p in (path, exported))
    assert early['checkpoint_step'] == 3
    assert early['weights_sha256'] != newest['weights_sha256']
    assert early == loading.load(runs / 'unet', step=3).provenance()


def test_load_takes_it_in_place_of_the_work_directory(runs, exported):
    given = {'condition': [3, 3, 7], 'w': 2.0, 'seed': 5}
    expected = cfg_jax.load(runs / 'unet').sample(**given)
    np.testing.assert_array_equal(cfg_jax.load(str(exported)).sample(**given), expected)
    assert cfg_jax.load(exported).provenance() == cfg_jax.load(runs / 'unet').provenance()


def test_sample_takes_it(runs, exported, capfd, tmp_path):
    pictures = []
    for name, model in (('a', runs / 'unet'), ('b', exported)):
        out = tmp_path / f'{name}.png'
        arguments = f'--model={model}', '--labels=3,3,7', '--w=1', f'--out={out}'
        status, _, errors = run_here(capfd, 'scripts/sample.py', *arguments)
        assert (status, errors) == (0, [])
        pictures.append(np.asarray(Image.open(out)))
    np.testing.assert_array_equal(*pictures)


def test_classifiers_are_exported_too(runs, toy_networks, capfd):
    path = runs / 'classifier.safetensors'
    arguments = f'--model={runs / "classifier"}', f'--out={path}'
    assert run_here(capfd, 'scripts/export.py', *arguments)[0] == 0
    given = {'guidance': 'classifier_eps'}
    by_file = loading.load(runs / 'unet', guidance_network=path, **given)
    by_directory = loading.load(runs / 'unet', guidance_network=runs / 'classifier', **given)
    labels = [3, 3, 7]
    np.testing.assert_array_equal(
        by_file.sample(labels, w=30.0), by_directory.sample(labels, w=30.0)
    )
    assert 'noisy classifier' in user_error(loading.load, path)
    status, _, errors = run_here(capfd, 'scripts/sample.py', f'--model={path}', '--labels=3')
    assert status == 2
    assert 'noisy classifier' in errors[0]


class Brightness:
    """An extractor without weights: rows' mean colours, and logits of them."""

    name, distance, params = 'brightness', 'FD-mean', ()
    logits_are_labels, chunk = False, 7

    def apply(self, params, images):
        from cfg_jax.metrics.features import Features

        rows = images.astype(np.float32).mean(axis=(2, 3)) / 255.0
        return Features(rows, 10.0 * rows)

    def provenance(self):
        return {'name': self.name, 'sha256': 64 * '0'}


def test_a_sweep_of_it_is_that_of_the_work_directory(runs, exported):
    config = make_tiny_config(sweep__w=(1.0,), sweep__num_samples=20, sweep__bootstrap=0)
    results = []
    for model in (runs / 'unet', exported):
        directory = sweep.run(config, model, name='tiny', extractor=Brightness())
        results.append(json.loads((directory / 'results.json').read_text()))
    assert directory == runs / 'unet.sweep' / 'sweep' / 'tiny'
    assert results[0]['rows'] == results[1]['rows']
    assert results[0]['weights_sha256'] == results[1]['weights_sha256']


def test_it_holds_one_step(exported):
    message = user_error(loading.load, exported, step=3)
    assert 'leave --step out' in message
    loading.load(exported)


@pytest.mark.parametrize('out', ['model', 'model.npz', 'model.safetensors.bak'])
def test_another_ending_is_refused(runs, toy_networks, capfd, tmp_path, out):
    arguments = f'--model={runs / "unet"}', f'--out={tmp_path / out}'
    status, _, errors = run_here(capfd, 'scripts/export.py', *arguments)
    assert status == 2
    assert 'must end in .safetensors' in errors[0]
    assert list(tmp_path.iterdir()) == []


def rewritten(change):
    """A damage: the file's tensors and metadata changed by `change`, written again."""

    def damage(path, exported):
        with safetensors.safe_open(exported, framework='numpy') as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata())
        change(tensors, metadata)
        save_file(tensors, path, metadata)

    return damage


def cut(path, exported):
    path.write_bytes(exported.read_bytes()[:-100])


def flipped(path, exported):
    content = bytearray(exported.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def reshape(tensors, metadata):
    tensors['params/Conv_0/kernel'] = tensors['params/Conv_0/kernel'][..., :4].copy()


def narrower(tensors, metadata):
    config = json.loads(metadata['config'])
    config['data']['channels'] = 3
    metadata['config'] = json.dumps(config)


KERNEL = 'params/Conv_0/kernel'
DAMAGES = {
    'missing': (lambda path, _: None, 'does not exist'),
    'directory': (lambda path, _: path.mkdir(), 'is a directory'),
    'empty': (lambda path, _: path.write_bytes(b''), 'not a readable safetensors file'),
    'text': (lambda path, _: path.write_text('not one\n' * 99), 'not a readable safetensors file'),
    'cut': (cut, 'not a readable safetensors file'),
    'flipped': (flipped, 'is damaged: its weights are not those that were exported'),
    'foreign': (
        lambda path, _: save_file({'a': np.zeros(3)}, path),
        'not of a family that we know',
    ),
    'other_format': (
        rewritten(lambda tensors, metadata: metadata.update(format='cfg_jax/9')),
        "no format 'cfg_jax/1'",
    ),
    'no_config': (rewritten(lambda tensors, metadata: metadata.pop('config')), 'is damaged'),
    'broken_config': (
        rewritten(lambda tensors, metadata: metadata.update(config='{"model": ')),
        'is damaged',
    ),
    'list_for_config': (
        rewritten(lambda tensors, metadata: metadata.update(config='[1, 2]')),
        'is damaged',
    ),
    'unknown_field': (
        rewritten(lambda tensors, metadata: metadata.update(config='{"model": {"witdh": 8}}')),
        'witdh',
    ),
    'no_step': (rewritten(lambda tensors, metadata: metadata.pop('step')), 'is damaged'),
    'step_of_words': (
        rewritten(lambda tensors, metadata: metadata.update(step='six')),
        'is damaged',
    ),
    'no_hash': (rewritten(lambda tensors, metadata: metadata.pop('weights_sha256')), 'is damaged'),
    'missing_tensor': (
        rewritten(lambda tensors, _: tensors.pop(KERNEL)),
        f"lacks tensor '{KERNEL}'",
    ),
    'extra_tensor': (
        rewritten(lambda tensors, _: tensors.update(extra=np.zeros(2))),
        "has an unexpected tensor 'extra'",
    ),
    'other_shape': (rewritten(reshape), f"'{KERNEL}' has the shape (3, 3, 1, 4)"),
    'other_config': (rewritten(narrower), 'has the shape'),
}


@pytest.mark.parametrize('name', DAMAGES)
def test_a_bad_file_ends_in_one_sentence(exported, tmp_path, capfd, name):
    damage, words = DAMAGES[name]
    path = tmp_path / 'bad.safetensors'
    damage(path, exported)
    message = user_error(loading.load, path)
    assert str(path) in message or name == 'unknown_field'
    assert words in message
    arguments = f'--model={path}', '--labels=3', f'--out={tmp_path / "grid.png"}'
    status, _, errors = run_here(capfd, 'scripts/sample.py', *arguments)
    assert status == 2
    assert errors == [f'error: {message}']


def test_object_stores_are_refused_in_one_sentence(toy_networks, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: object())
    message = user_error(loading.load, 'gs://bucket/model.safetensors')
    assert 'copy the file to this machine first' in message


def test_fields_of_later_editions_have_their_defaults(exported, tmp_path):
    """A config without fields that came later, as work directories of the first edition."""

    def older(tensors, metadata):
        config = json.loads(metadata['config'])
        del config['target'], config['guidance'], config['diffusion']['scaling']
        metadata['config'] = json.dumps(config)

    path = tmp_path / 'old.safetensors'
    rewritten(older)(path, exported)
    assert loading.read_config(path).to_dict() == make_tiny_config().to_dict()
    expected = loading.load(exported).sample([3], w=1.0)
    np.testing.assert_array_equal(loading.load(path).sample([3], w=1.0), expected)
    config_lib.validate(loading.read_config(path))
    shutil.copy(path, tmp_path / 'renamed.safetensors')
    loading.load(tmp_path / 'renamed.safetensors')
