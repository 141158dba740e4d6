import json

import pytest
from pictures import class_folder
from support import user_error

from cfg_jax import config as config_lib
from cfg_jax.training import workdirs


def test_claims_a_new_directory(tiny_config, tmp_path):
    workdir = workdirs.create_or_validate_workdir(tiny_config, tmp_path / 'deep' / 'run')
    written = json.loads((tmp_path / 'deep' / 'run' / 'config.json').read_text())
    assert written == json.loads(json.dumps(config_lib.to_json(tiny_config)))
    assert workdirs.read_config(workdir).to_dict() == tiny_config.to_dict()


def test_claims_an_empty_directory(tiny_config, tmp_path):
    (tmp_path / '.hidden').touch()
    workdirs.create_or_validate_workdir(tiny_config, tmp_path)
    assert (tmp_path / 'config.json').exists()


def test_claims_its_own_again_with_fields_that_may_change(tiny_config, tmp_path):
    workdirs.create_or_validate_workdir(tiny_config, tmp_path)
    tiny_config.train.steps = 99
    tiny_config.sampler.name = 'ddim'
    workdirs.create_or_validate_workdir(tiny_config, tmp_path)
    config = workdirs.read_config(tmp_path)
    assert config.train.steps == 99
    assert config.sampler.name == 'ddim'


def test_an_older_work_directory_goes_on(tiny_config, tmp_path):
    """Fields that came later mean there what was done then."""
    workdirs.create_or_validate_workdir(tiny_config, tmp_path)
    older = config_lib.to_json(tiny_config)
    for name in ('data.random_crop', 'model.kind', 'train.weight_decay', 'sweep.repeats'):
        group, _, field = name.partition('.')
        del older[group][field]
    (tmp_path / 'config.json').write_text(json.dumps(older))
    assert workdirs.read_config(tmp_path).model.kind == 'unet'
    tiny_config.train.weight_decay = 0.1
    message = user_error(workdirs.create_or_validate_workdir, tiny_config, tmp_path)
    assert 'train.weight_decay: 0.0 -> 0.1' in message
    tiny_config.train.weight_decay = 0.0
    workdirs.create_or_validate_workdir(tiny_config, tmp_path)


def test_refuses_another_config(tiny_config, tmp_path):
    workdirs.create_or_validate_workdir(tiny_config, tmp_path)
    before = (tmp_path / 'config.json').read_bytes()
    tiny_config.p_uncond = 0.2
    tiny_config.model.channel_mult = (2,)
    message = user_error(workdirs.create_or_validate_workdir, tiny_config, tmp_path)
    assert str(tmp_path) in message
    assert 'p_uncond: 0.1 -> 0.2' in message
    assert 'model.channel_mult' in message
    assert 'train.steps' not in message
    assert (tmp_path / 'config.json').read_bytes() == before


def test_refuses_a_foreign_directory(tiny_config, tmp_path):
    (tmp_path / 'thesis.tex').touch()
    message = user_error(workdirs.create_or_validate_workdir, tiny_config, tmp_path)
    assert f'{tmp_path} is not empty' in message
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


def test_refuses_a_file(tiny_config, tmp_path):
    (tmp_path / 'file').write_text('mine')
    message = user_error(workdirs.create_or_validate_workdir, tiny_config, tmp_path / 'file')
    assert 'is a file' in message
    assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.parametrize('name', ['empty', 'missing'])
def test_read_config_of_no_work_directory(tmp_path, name):
    (tmp_path / 'empty').mkdir()
    message = user_error(workdirs.read_config, tmp_path / name)
    assert str(tmp_path / name) in message
    assert 'scripts/train.py' in message


def test_a_directory_with_an_exported_file_in_it(tmp_path):
    (tmp_path / 'model.safetensors').touch()
    message = user_error(workdirs.read_config, tmp_path)
    assert message.endswith(f'give the file in it: {tmp_path}/model.safetensors')


def test_read_config_written_by_another_program(tmp_path):
    (tmp_path / 'config.json').write_text('{"learning_rate": 0.1}')
    assert 'learning_rate' in user_error(workdirs.read_config, tmp_path)


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'[1, 2]',
        b'{"p_uncond": 0.',
        b'\xff\xfe\x00',
        b'7',
        b'{"seed": {"x": 1}}',
        b'{"model": 3}',
        b'{"model": {"width": "wide"}}',
        b'{"model": {"kind": ["unet"]}}',
        b'{"data": null, "train": []}',
    ],
)
def test_config_that_is_damaged(tiny_config, tmp_path, content):
    (tmp_path / 'config.json').write_bytes(content)
    assert str(tmp_path) in user_error(workdirs.read_config, tmp_path)
    assert str(tmp_path) in user_error(workdirs.create_or_validate_workdir, tiny_config, tmp_path)
    assert (tmp_path / 'config.json').read_bytes() == content


def test_a_directory_in_the_place_of_the_config(tiny_config, tmp_path):
    (tmp_path / 'config.json').mkdir()
    assert str(tmp_path) in user_error(workdirs.read_config, tmp_path)
    assert str(tmp_path) in user_error(workdirs.create_or_validate_workdir, tiny_config, tmp_path)


def test_killed_between_its_first_files_a_directory_is_its_own(tiny_config, tmp_path, monkeypatch):
    written = []
    write_json = workdirs.files.write_json

    def write_one(path, content):
        if written:
            raise KeyboardInterrupt
        written.append(path.name)
        write_json(path, content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(workdirs.files, 'write_json', write_one)
        workdirs.create_or_validate_workdir(tiny_config, tmp_path)
    workdirs.create_or_validate_workdir(tiny_config, tmp_path)


def test_classes_of_other_names_are_refused(tiny_config, tmp_path):
    """A renamed directory of a folder would give every image the label of another class."""
    root = class_folder(tmp_path / 'pets', {'cat': 4, 'dog': 4, 'fox': 4})
    tiny_config.data.update(name=f'folder:{root}', num_classes=3, channels=3)
    run = tmp_path / 'run'
    workdirs.create_or_validate_workdir(tiny_config, run)
    assert workdirs.read_class_names(run) == ['cat', 'dog', 'fox']
    workdirs.create_or_validate_workdir(tiny_config, run)
    (root / 'cat').rename(root / 'kitten')
    message = user_error(workdirs.create_or_validate_workdir, tiny_config, run)
    assert "class 0 was 'cat', where it is 'dog' now" in message
    (run / 'classes.json').unlink()  # as of an earlier edition
    assert workdirs.read_class_names(run) == []
    workdirs.create_or_validate_workdir(tiny_config, run)
    assert workdirs.read_class_names(run) == ['dog', 'fox', 'kitten']
