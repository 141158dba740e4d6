import importlib.util
import json
import shutil

import pytest
from support import user_error

from cfg_jax.data import sources


def source(config, **changes):
    """data_source of the tiny config with some fields of `data` changed."""
    for name, value in changes.items():
        config.data[name] = value
    return sources.data_source(config.data, config.data.split)


def as_tfrecord(prepared, directory):
    """A copy of a prepared set whose dataset_info.json says TFRecord."""
    shutil.copytree(prepared, directory)
    path = directory / 'dataset_info.json'
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {'fileFormat': 'tfrecord'}))
    return directory


def without_tensorflow(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        'find_spec',
        lambda name, *rest: None if name == 'tensorflow' else find_spec(name, *rest),
    )


def test_examples_are_encoded_and_random_access(tiny_config, digits_dir):
    examples = source(tiny_config)
    assert len(examples) == 1797
    assert examples[5]['image'].startswith(b'\x89PNG')
    assert examples[5] == source(tiny_config, name=str(digits_dir))[5]


def test_class_names(tiny_config):
    assert sources.class_names(tiny_config.data) == [str(i) for i in range(10)]


def test_unknown_name_gets_a_suggestion(tiny_config):
    message = user_error(source, tiny_config, name='digit')
    assert "'digit'" in message
    assert "did you mean 'digits'?" in message


def test_unprepared_set(tiny_config, tmp_path):
    message = user_error(source, tiny_config, name='mnist', data_dir=str(tmp_path))
    assert str(tmp_path) in message
    assert f'scripts/prepare_data.py --name=mnist --data_dir={tmp_path}' in message


def test_missing_directory(tiny_config, tmp_path):
    missing = tmp_path / 'imagenet2012' / '5.1.0'
    message = user_error(source, tiny_config, name=str(missing))
    assert f'{missing} holds no prepared TFDS data set' in message


def test_directory_without_a_set(tiny_config, tmp_path):
    assert 'dataset_info.json' in user_error(source, tiny_config, name=str(tmp_path))


def test_tfrecord_names_the_conversion(tiny_config, digits_dir, tmp_path):
    directory = as_tfrecord(digits_dir, tmp_path / 'digits' / '1.0.0')
    by_name = user_error(source, tiny_config, data_dir=str(tmp_path))
    by_directory = user_error(source, tiny_config, name=str(directory))
    for message in (by_name, by_directory):
        assert 'tfrecord' in message
        assert 'tensorflow_datasets.scripts.convert_format' in message
        assert '--out_file_format=array_record' in message
        assert f'--dataset_version_dir={directory}' in message


def test_the_conversion_command_exists():
    assert importlib.util.find_spec('tensorflow_datasets.scripts.convert_format') is not None


def test_wrong_number_of_classes(tiny_config):
    message = user_error(source, tiny_config, num_classes=7)
    assert 'data.num_classes=7' in message
    assert '10 classes' in message


@pytest.mark.parametrize('split', ['test', 'train[:5', 'train[:10%][:10%]'])
def test_unknown_split(tiny_config, split):
    message = user_error(source, tiny_config, split=split)
    assert repr(split) in message
    assert 'train' in message


def test_set_without_labels(tiny_config, digits_dir, tmp_path):
    directory = tmp_path / 'digits' / '1.0.0'
    shutil.copytree(digits_dir, directory)
    path = directory / 'features.json'
    features = json.loads(path.read_text())
    fields = features['featuresDict']['features']
    fields['class'] = fields.pop('label')
    path.write_text(json.dumps(features))
    message = user_error(source, tiny_config, name=str(directory))
    assert "no feature 'label'" in message


def test_prepare_names_missing_imagenet_archives(tmp_path):
    archives = tmp_path / 'archives'
    archives.mkdir()
    (archives / 'ILSVRC2012_img_val.tar').touch()
    message = user_error(sources.prepare_by_name, 'imagenet2012', str(tmp_path), str(archives))
    assert f'ILSVRC2012_img_train.tar not found in {archives}' in message
    assert 'ILSVRC2012_img_val.tar' not in message
    by_default = user_error(sources.prepare_by_name, 'imagenet2012', str(tmp_path))
    assert 'ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar not found' in by_default
    assert str(tmp_path / 'downloads' / 'manual') in by_default


def test_prepare_names_missing_tensorflow(tmp_path, monkeypatch):
    without_tensorflow(monkeypatch)
    message = user_error(sources.prepare_by_name, 'cifar10', str(tmp_path))
    assert "pip install -e '.[prepare]'" in message


def test_prepare_digits_needs_no_tensorflow_and_happens_once(tmp_path, monkeypatch):
    without_tensorflow(monkeypatch)
    first = sources.prepare_by_name('digits', str(tmp_path))
    assert first == f'digits is prepared in {tmp_path}/digits/1.0.0'
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / 'digits').rglob('*')}
    assert 'already prepared' in sources.prepare_by_name('digits', str(tmp_path))
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / 'digits').rglob('*')}


def test_another_process_may_finish_preparing_after_we_looked(tiny_config, tmp_path, monkeypatch):
    find_builder = sources.find_builder

    def find_and_be_overtaken(name, data_dir):
        builder = find_builder(name, data_dir)
        find_builder(name, data_dir).download_and_prepare(file_format='array_record')
        return builder

    monkeypatch.setattr(sources, 'find_builder', find_and_be_overtaken)
    assert len(source(tiny_config, data_dir=str(tmp_path))) == 1797


def test_another_process_may_finish_preparing_before_us(tiny_config, tmp_path, monkeypatch):
    builder = sources.find_builder('digits', str(tmp_path))
    generate = builder._generate_examples

    def generate_and_be_overtaken():
        yield from generate()
        sources.prepare(sources.find_builder('digits', str(tmp_path)))

    monkeypatch.setattr(builder, '_generate_examples', generate_and_be_overtaken)
    sources.prepare(builder)
    assert builder.is_prepared()
    assert len(source(tiny_config, data_dir=str(tmp_path))) == 1797
