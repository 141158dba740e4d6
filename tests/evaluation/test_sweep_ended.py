"""A sweep that ends early: refused, or killed while its picture is drawn."""

import json

import numpy as np
import pytest
from PIL import Image
from support import make_tiny_config, user_error

from cfg_jax import config as config_lib, files
from cfg_jax.evaluation import drawing, sweep

pytestmark = pytest.mark.usefixtures('toy_networks')


def test_a_refused_sweep_leaves_no_directory(workdir):
    refused = make_tiny_config(sweep__reference='/nowhere/reference.npz')
    assert '/nowhere/reference.npz' in user_error(sweep.run, refused, workdir, name='other')
    assert [each.name for each in (workdir / 'sweep').iterdir()] == ['tiny']


def test_a_refused_sweep_that_has_samples_keeps_them(workdir):
    directory = workdir / 'sweep' / 'tiny'
    before = sorted(each.name for each in directory.rglob('*'))
    user_error(
        sweep.run, make_tiny_config(sweep__reference='/nowhere/reference.npz'), workdir, name='tiny'
    )
    assert sorted(each.name for each in directory.rglob('*')) == before


def test_the_table_is_there_before_the_picture(workdir, monkeypatch):
    directory = workdir / 'sweep' / 'tiny'
    old_picture = Image.open(directory / 'samples.png').size
    config = make_tiny_config(sweep__w=(0.0, 1.0, 2.0))
    with monkeypatch.context() as killed:
        killed.setattr(drawing, 'save_samples', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sweep.run(config, workdir, name='tiny')
    assert (directory / 'table.md').read_text().count('\n') == 2 + 3
    assert not (directory / 'samples.png').exists()  # the old one was of two w
    sweep.run(config, workdir, name='tiny')
    assert Image.open(directory / 'samples.png').size[0] > old_picture[0]


def test_a_reference_of_another_size_or_precision_is_refused(workdir):
    (path,) = (workdir / 'reference').glob('*.npz')
    arrays = files.read_npz(path)
    record = json.loads(str(arrays['record']))
    for changes, words in (
        ({'image_size': 16}, '16 pixels'),
        ({'features': record['features'] | {'dtype': 'bfloat16'}}, 'dtype bfloat16'),
    ):
        files.write_npz(path, arrays | {'record': np.array(json.dumps(record | changes))})
        config = make_tiny_config(sweep__reference=str(path))
        assert words in user_error(sweep.run, config, workdir, name='tiny')


def test_no_checkpoint(tmp_path):
    config = make_tiny_config()
    assert 'not a work directory' in user_error(sweep.run, config, tmp_path)
    files.write_json(tmp_path / 'config.json', config_lib.to_json(config))
    assert 'no complete checkpoint' in user_error(sweep.run, config, tmp_path)
    assert not (tmp_path / 'sweep').exists()


def test_unknown_features(swept_toy_workdir):
    config = make_tiny_config()
    config.sweep.features = 'inceptoin'
    message = user_error(sweep.run, config, swept_toy_workdir, name='other')
    assert 'inceptoin' in message
    assert 'classifier' in message
    assert not (swept_toy_workdir / 'sweep' / 'other').exists()
