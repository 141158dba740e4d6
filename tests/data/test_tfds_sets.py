"""TFDS data sets: finding them, preparing them, and every way in which their files are damaged."""

import contextlib
import importlib.util
import json
import shutil
import tarfile

import pytest
from etils import epath
from support import user_error

from cfg_jax.data import pipeline, sources, tfds_sets


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
    message = user_error(tfds_sets.prepare_by_name, 'imagenet2012', str(tmp_path), str(archives))
    assert f'ILSVRC2012_img_train.tar not found in {archives}' in message
    assert 'ILSVRC2012_img_val.tar' not in message
    by_default = user_error(tfds_sets.prepare_by_name, 'imagenet2012', str(tmp_path))
    assert 'ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar not found' in by_default
    assert str(tmp_path / 'downloads' / 'manual') in by_default


def test_prepare_names_missing_tensorflow(tmp_path, monkeypatch):
    without_tensorflow(monkeypatch)
    message = user_error(tfds_sets.prepare_by_name, 'cifar10', str(tmp_path))
    assert "pip install -e '.[prepare]'" in message


def test_prepare_digits_needs_no_tensorflow_and_happens_once(tmp_path, monkeypatch):
    without_tensorflow(monkeypatch)
    first = tfds_sets.prepare_by_name('digits', str(tmp_path))
    assert first == f'digits is prepared in {tmp_path}/digits/1.0.0'
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / 'digits').rglob('*')}
    assert 'already prepared' in tfds_sets.prepare_by_name('digits', str(tmp_path))
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / 'digits').rglob('*')}


def test_another_process_may_finish_preparing_after_we_looked(tiny_config, tmp_path, monkeypatch):
    find_builder = tfds_sets.find_builder

    def find_and_be_overtaken(name, data_dir):
        builder = find_builder(name, data_dir)
        find_builder(name, data_dir).download_and_prepare(file_format='array_record')
        return builder

    monkeypatch.setattr(tfds_sets, 'find_builder', find_and_be_overtaken)
    assert len(source(tiny_config, data_dir=str(tmp_path))) == 1797


def test_another_process_may_finish_preparing_before_us(tiny_config, tmp_path, monkeypatch):
    builder = tfds_sets.find_builder('digits', str(tmp_path))
    generate = builder._generate_examples

    def generate_and_be_overtaken():
        yield from generate()
        tfds_sets.prepare(tfds_sets.find_builder('digits', str(tmp_path)))

    monkeypatch.setattr(builder, '_generate_examples', generate_and_be_overtaken)
    tfds_sets.prepare(builder)
    assert builder.is_prepared()
    assert len(source(tiny_config, data_dir=str(tmp_path))) == 1797


RECORDS = 'digits-train.array_record-00000-of-00001'


def spoilt(content, place):
    return content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


DAMAGE = {
    'records empty': lambda d: (d / RECORDS).write_bytes(b''),
    'records cut': lambda d: cut(d / RECORDS, 0.5),
    'records end early': lambda d: (d / RECORDS).write_bytes((d / RECORDS).read_bytes()[:-1]),
    'records missing': lambda d: (d / RECORDS).unlink(),
    'records flipped': lambda d: (d / RECORDS).write_bytes(
        spoilt((d / RECORDS).read_bytes(), 262_150)
    ),
    'records text': lambda d: (d / RECORDS).write_bytes(b'no records' * 10_000),
    'records a directory': lambda d: ((d / RECORDS).unlink(), (d / RECORDS).mkdir()),
    'dataset_info.json empty': lambda d: (d / 'dataset_info.json').write_bytes(b''),
    'dataset_info.json cut': lambda d: cut(d / 'dataset_info.json', 0.5),
    'dataset_info.json a list': lambda d: (d / 'dataset_info.json').write_bytes(b'[]'),
    'dataset_info.json binary': lambda d: (d / 'dataset_info.json').write_bytes(b'\xff\xfe\0'),
    'dataset_info.json of something else': lambda d: (d / 'dataset_info.json').write_bytes(b'{}'),
    'features.json missing': lambda d: (d / 'features.json').unlink(),
    'features.json empty': lambda d: (d / 'features.json').write_bytes(b''),
    'features.json a list': lambda d: (d / 'features.json').write_bytes(b'[]'),
    'features.json of something else': lambda d: (d / 'features.json').write_bytes(b'{"a": 1}'),
}


@pytest.mark.parametrize(
    ('damage', 'by'),
    [(damage, 'directory') for damage in DAMAGE]
    + [(damage, 'name') for damage in DAMAGE if damage.endswith(('missing', 'empty', 'else'))],
)
def test_damaged_files_are_named(tiny_config, digits_dir, tmp_path, damage, by):
    directory = tmp_path / 'digits' / '1.0.0'
    shutil.copytree(digits_dir, directory)
    DAMAGE[damage](directory)
    data = tiny_config.data
    data.data_dir, data.name = (str(tmp_path), 'digits') if by == 'name' else ('', str(directory))

    def read_all():
        for _ in pipeline.one_epoch(data, 'train', 100):
            pass

    message = user_error(read_all)
    assert str(directory) in message
    assert (RECORDS if damage.startswith('records') else damage.partition(' ')[0]) in message
    assert 'copy or prepare the data set again' in message


@pytest.mark.parametrize('num_workers', [0, 1])
def test_damage_is_one_sentence_from_workers_too(tiny_config, digits_dir, tmp_path, num_workers):
    directory = tmp_path / 'digits' / '1.0.0'
    shutil.copytree(digits_dir, directory)
    DAMAGE['records flipped'](directory)
    data = tiny_config.data
    data.name, data.num_workers = str(directory), num_workers

    def train():
        batches = pipeline.TrainingBatches(data, batch_size=599, seed=0)
        with contextlib.closing(batches):
            for _ in range(3):
                next(batches)

    message = user_error(train)
    assert f'cannot be read from {directory / RECORDS}' in message
    assert repr(str(directory)) in message


def test_one_of_many_files_is_missing(tmp_path):
    files = [epath.Path(tmp_path) / f'set-train.array_record-0000{i}-of-00003' for i in range(3)]
    for file in files[:2]:
        file.write_text('records')
    message = user_error(tfds_sets._check_files, 'set', files)
    assert message.startswith(f"'set' lacks 1 of 3 files, such as {files[2]}")


def test_labels_of_another_kind(tiny_config, digits_dir, tmp_path):
    directory = tmp_path / 'digits' / '1.0.0'
    shutil.copytree(digits_dir, directory)
    path = directory / 'features.json'
    features = json.loads(path.read_text())
    fields = features['featuresDict']['features']
    fields['label'] = {
        'pythonClassName': 'tensorflow_datasets.core.features.tensor_feature.Tensor',
        'tensor': {'shape': {}, 'dtype': 'int64', 'encoding': 'none'},
    }
    path.write_text(json.dumps(features))
    assert 'not a class label' in user_error(source, tiny_config, name=str(directory))


def test_empty_slice(tiny_config):
    assert "'train[:0]'" in user_error(source, tiny_config, split='train[:0]')


@pytest.mark.parametrize('error', [tarfile.ReadError('unexpected end of data'), Exception('404')])
def test_what_goes_wrong_in_preparing_is_one_sentence(tmp_path, monkeypatch, error):
    """A cut archive, a download that is gone: of types of their own."""

    def prepare(builder, manual_dir):
        raise error

    monkeypatch.setattr(tfds_sets, 'prepare', prepare)
    message = user_error(tfds_sets.prepare_by_name, 'digits', str(tmp_path))
    assert message == f"'digits' could not be prepared: {error}"


def test_a_directory_of_a_sets_name_does_not_hide_it(tmp_path, monkeypatch):
    """Such as the work directory of a training on it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'digits').mkdir()
    assert tfds_sets.open_set('digits', '').splits == ['train']
    (tmp_path / 'pets').mkdir()
    assert 'no prepared TFDS data set' in user_error(tfds_sets.find_builder, 'pets', '')
