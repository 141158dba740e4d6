"""Copies as ArrayRecord: what training on the original would see, and nothing that is damaged."""

import os
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from pictures import class_folder, encoded, random_pixels
from support import logged, make_tiny_config, run_here, user_error
from tensorflow_datasets.core import shuffle

from cfg_jax.data import copies, copy_builders, imagenet, parts, pipeline, reading, sources

COMMAND = 'scripts/prepare_data.py'


@pytest.fixture(scope='module')
def copy(tmp_path_factory, digits_dir):
    """A copy of the digits at 4 pixels."""
    out = tmp_path_factory.mktemp('resized')
    told = copies.resize(str(digits_dir), '', 4, str(out))
    directory = out / 'resized' / 'digits_4' / '1.0.0'
    assert f'--config.data.name={directory}' in told
    assert '--config.data.num_classes=10' in told
    return directory


def test_the_copy_is_what_training_sees(copy):
    original = make_tiny_config(data__image_size=4).data
    copied = make_tiny_config(data__image_size=4, data__name=str(copy)).data
    (seen,) = pipeline.one_epoch(original, 'train', 2000)
    (read,) = pipeline.one_epoch(copied, 'train', 2000)
    np.testing.assert_array_equal(read['condition'], seen['condition'])
    difference = np.abs(read['image'] - seen['image']).max()
    assert 0 < difference <= 0.5 / 127.5 + 1e-6  # half a level of 255


def test_again_is_at_once(copy, digits_dir):
    before = [path.stat().st_mtime_ns for path in sorted(copy.iterdir())]
    told = copies.resize(str(digits_dir), '', 4, str(copy.parents[2]))
    assert 'already in' in told
    assert [path.stat().st_mtime_ns for path in sorted(copy.iterdir())] == before


def noting(make, made, stop=10**9):
    """`make` of a copy's examples, which notes their numbers and is killed at `stop`."""

    def noted(reader, number):
        made.append(number)
        if number >= stop:
            raise KeyboardInterrupt
        return make(reader, number)

    return noted


def test_a_killed_copy_goes_on(tmp_path, digits_dir, monkeypatch):
    """What was made is not made again, and the end is the same."""
    monkeypatch.setattr(parts, 'EXAMPLES', 128)
    copies.resize(str(digits_dir), '', 4, str(tmp_path / 'at once'))
    copy = tmp_path / 'at once' / 'resized' / 'digits_4' / '1.0.0'
    made, resized = [], copy_builders._resized
    monkeypatch.setattr(copy_builders, '_resized', noting(resized, made, stop=500))
    with pytest.raises(KeyboardInterrupt):
        copies.resize(str(digits_dir), '', 4, str(tmp_path))
    kept = sorted(path.name for path in (tmp_path / 'resized/digits_4/1.0.0.parts').iterdir())
    assert kept[:2] == ['made_from.json', 'train-000000.npz']
    made.clear()
    unfinished = tmp_path / 'resized' / 'digits_4' / 'incomplete.ABC_1.0.0'  # as SIGKILL leaves it
    unfinished.mkdir()
    monkeypatch.setattr(copy_builders, '_resized', noting(resized, made))
    with logged() as lines:
        copies.resize(str(digits_dir), '', 4, str(tmp_path))
    assert any('images were made before' in line for line in lines)
    assert any(f'{unfinished} was left by a run that was killed' in line for line in lines)
    assert len(made) < 1797
    again = tmp_path / 'resized' / 'digits_4' / '1.0.0'
    assert not again.with_name('1.0.0.parts').exists()
    files, whole = (
        {path.name: path.read_bytes() for path in directory.iterdir() if 'array' in path.name}
        for directory in (again, epath.Path(copy))
    )
    assert files == whole
    assert len(files) == -(-1797 // 128)  # a shard a part
    ours, theirs = (
        sources.data_source(make_tiny_config(data__name=str(directory)).data, 'train')
        for directory in (again, copy)
    )
    assert [ours[i] for i in range(len(ours))] == [theirs[i] for i in range(len(theirs))]


def test_memory_does_not_grow_with_the_set(tmp_path, monkeypatch):
    """Nothing goes through TFDS' shuffling, which above a gigabyte wants TensorFlow and memory for
    all; and a part ends where its images are large."""
    monkeypatch.setattr(shuffle, 'MAX_MEM_BUFFER_SIZE', 1000)
    monkeypatch.setattr(parts, '_BYTES', 1000)
    monkeypatch.setattr(copy_builders, '_CHUNK', 4)
    root = class_folder(tmp_path / 'animals', {'cat': 20, 'dog': 40})
    told = copies.copy_folder(str(root), str(tmp_path / 'out'))
    assert '(train 60)' in told
    directory = tmp_path / 'out' / 'folder' / 'animals' / '1.0.0'
    assert len(list(directory.glob('*array_record*'))) > 5
    found = rows(str(directory), 'train')
    original = rows(f'folder:{root}', 'train')
    assert list(found) == list(original)  # in that order
    assert {file: label for file, (label, _) in found.items()} == {
        file: label for file, (label, _) in original.items()
    }


def test_a_full_disk(tmp_path, monkeypatch, capsys):
    root = class_folder(tmp_path / 'animals', {'cat': 4})

    def prepare(builder):
        raise RuntimeError('Failed to finalize writing: write() failed: No space left on device')

    monkeypatch.setattr(copies.tfds_sets, 'prepare', prepare)
    command = [COMMAND, f'--folder={root}', f'--out={tmp_path / "out"}']
    status, _, errors = run_here(capsys, *command)
    assert status == 2
    place = tmp_path / 'out' / 'folder' / 'animals' / '1.0.0'
    assert errors[-1] == f'error: no space left on the disk of {place}; free some and run again'


def test_the_images_of_each_class_are_counted(tmp_path, digits_dir):
    with logged() as lines:
        copies.resize(str(digits_dir), '', 2, str(tmp_path))
    source = make_tiny_config(data__name=str(digits_dir)).data
    (batch,) = pipeline.one_epoch(source, 'train', 2000)
    counts = np.bincount(batch['condition'], minlength=10)
    line = f'train: {counts.sum():,} images, {counts.min()} to {counts.max()} of each of 10 classes'
    assert line in lines


def test_a_copy_of_less_than_imagenet_is_noticed(tmp_path, digits_dir):
    """The digits under ImageNet's name."""
    original = tmp_path / 'imagenet2012' / '1.0.0'
    original.mkdir(parents=True)
    for path in digits_dir.iterdir():
        content = path.read_bytes()
        if path.suffix == '.json':
            content = content.replace(b'"digits"', b'"imagenet2012"')
        (original / path.name.replace('digits', 'imagenet2012')).write_bytes(content)
    with logged() as lines:
        copies.resize(str(original), '', 2, str(tmp_path / 'out'))
    assert (tmp_path / 'out' / 'resized' / 'imagenet2012_2').is_dir()
    [line] = [line for line in lines if 'ImageNet' in line]
    assert line == (
        'warning: train is not the whole of ImageNet: 1,797 images, 174 to 183 of each of 10'
        ' classes; it has 1,281,167 images, 732 to 1,300 of each of 1000 classes'
    )


def imagenet_counts():
    """1,000 numbers from 732 to 1,300 with ImageNet's sum, which are not ImageNet's own."""
    counts = np.full(1000, 1300)
    counts[0] = 732
    counts[1:101] -= 182
    counts[101] -= 1_300_000 - 568 - 18_200 - 1_281_167
    return counts


def test_the_counts_of_imagenet():
    train, validation = imagenet_counts(), np.full(1000, 50)
    assert (train.sum(), train.min(), train.max()) == (1_281_167, 732, 1300)
    assert imagenet.difference('imagenet2012', 'train', train) == ''
    assert imagenet.difference('imagenet2012', 'validation', validation) == ''
    assert imagenet.difference('imagenet2012', 'test', train[:5]) == ''
    assert imagenet.difference('pets', 'train', train[:5]) == ''
    one, other = np.eye(1000, dtype=int)[[0, 500]]
    for wrong in (train[1:], train + one, train - other, train - one + other):
        assert imagenet.difference('imagenet2012', 'train', wrong)
    swapped = validation + one - other  # the sum is right
    assert '49 to 51 of each' in imagenet.difference('imagenet2012', 'validation', swapped)


def test_parts_of_another_copy_are_not_used(tmp_path):
    examples = [
        {'image': b'abc', 'label': 3, 'file': 'a.png'},
        reading.BadExample(7, 'b.png', 'cut off'),
        {'image': b'', 'label': 0, 'file': ''},
    ]
    folder = epath.Path(tmp_path) / 'parts'
    kept = parts.Parts(folder, 'a set')
    kept.save('train', 0, examples)
    assert list(parts.Parts(folder, 'a set').saved('train')) == [examples]
    (folder / 'train-000000.npz').write_bytes(b'half')
    assert list(parts.Parts(folder, 'a set').saved('train')) == []
    kept.save('train', 0, examples)
    assert list(parts.Parts(folder, 'another').saved('train')) == []


@pytest.mark.parametrize(
    'change', ['a class before the others', 'other images, as many', 'one image, mended', 'none']
)
def test_a_killed_copy_of_a_set_that_has_changed_begins_anew(tmp_path, monkeypatch, change):
    """What it had made would have the labels of before, and other places in the order."""
    monkeypatch.setattr(parts, 'EXAMPLES', 16)
    monkeypatch.setattr(copy_builders, '_CHUNK', 8)
    root = class_folder(tmp_path / 'animals', {'cat': 20, 'dog': 40})
    made, unchanged = [], copy_builders._unchanged
    monkeypatch.setattr(copy_builders, '_unchanged', noting(unchanged, made, stop=50))
    with pytest.raises(KeyboardInterrupt):
        copies.copy_folder(str(root), str(tmp_path / 'out'))
    if change == 'a class before the others':
        class_folder(root, {'ape': 20})
    elif change == 'other images, as many':
        for path in sorted((root / 'dog').iterdir()):
            path.rename(path.with_name(f'new_{path.name}'))
    elif change == 'one image, mended':
        path = sorted((root / 'dog').iterdir())[7]
        path.write_bytes(encoded(random_pixels(1, 8, 8, 3)[0], 'PNG'))
    made.clear()
    monkeypatch.setattr(copy_builders, '_unchanged', noting(unchanged, made))
    copies.copy_folder(str(root), str(tmp_path / 'out'))
    directory = str(tmp_path / 'out' / 'folder' / 'animals' / '1.0.0')
    names = sources.label_names(directory)
    found = rows(directory, 'train', len(names))
    assert {file: names[label] for file, (label, _) in found.items()} == {
        path.relative_to(root).as_posix(): path.parent.name for path in root.glob('*/*')
    }
    assert (made[0] == 0) == (change != 'none')


def test_a_split_whose_first_file_may_not_be_read(tmp_path, monkeypatch):
    root = class_folder(tmp_path / 'set' / 'train', {'cat': 4, 'dog': 4}).parent
    class_folder(root / 'val', {'cat': 2, 'dog': 2})
    first = sources.open_source(f'folder:{root}').examples('val')[0]['file']
    read_bytes = Path.read_bytes

    def refusing(path):
        if path == root / first:
            raise PermissionError(13, 'Permission denied')
        return read_bytes(path)

    monkeypatch.setattr(Path, 'read_bytes', refusing)
    told = copies.copy_folder(str(root), str(tmp_path / 'out'))
    assert '(train 8, val 3, 1 bad examples left out)' in told


@pytest.mark.parametrize('change', ['another class', 'another file', 'none'])
def test_a_copy_of_a_folder_that_has_changed_is_told(tmp_path, change):
    root = class_folder(tmp_path / 'animals', {'cat': 3, 'dog': 4})
    out = str(tmp_path / 'out')
    copies.copy_folder(str(root), out)
    if change == 'another class':
        class_folder(root, {'ape': 2})
    elif change == 'another file':
        (root / 'cat' / 'new.png').write_bytes((root / 'cat' / '000.png').read_bytes())
    if change == 'none':
        told = copies.copy_folder(str(root), out)
        assert 'already in' in told and '--config.data.num_classes=2' in told
    else:
        message = user_error(copies.copy_folder, str(root), out)
        assert 'was made before names, sizes or times of its files changed' in message


@pytest.mark.parametrize(
    ('split', 'class_name', 'words'),
    [
        ('test 2', 'cat', "the split 'test 2'"),
        ('all', 'cat', "the split 'all'"),
        ('val', 'cat ', "the class 'cat '"),
        ('val', os.fsdecode(b'caf\xe9'), "the class 'caf\\udce9'"),
    ],
)
def test_names_that_a_copy_cannot_hold(tmp_path, split, class_name, words):
    """They are told before any work."""
    for each in ('train', split):
        class_folder(tmp_path / 'set' / each, {class_name: 2, 'dog': 2})
    message = user_error(copies.copy_folder, str(tmp_path / 'set'), str(tmp_path / 'out'))
    assert message.startswith(words)
    assert not (tmp_path / 'out').exists()


@pytest.fixture
def pets(tmp_path):
    """20 cats and 40 dogs; a dog is cut off, another is a transparent WebP."""
    root = class_folder(tmp_path / 'pets', {'cat': 20, 'dog': 40})
    path = root / 'dog' / '003.png'
    path.write_bytes(path.read_bytes()[:50])
    (root / 'dog' / '004.png').unlink()
    webp = encoded(random_pixels(1, 8, 8, 3)[0], 'WEBP', lossless=True)
    (root / 'dog' / 'other.webp').write_bytes(webp)
    return root


def rows(name, split, num_classes=2):
    """{file: (label, image)} of a set, as training sees it."""
    data = make_tiny_config(data__name=name, data__num_classes=num_classes, data__channels=3).data
    (batch,) = pipeline.one_epoch(data, split, 1000)
    examples = sources.data_source(data, split)
    names = [examples[i]['file'] for i in range(len(examples))]
    names = [name.decode() if isinstance(name, bytes) else name for name in names]
    return dict(zip(names, zip(batch['condition'], batch['image'], strict=True), strict=True))


@pytest.mark.parametrize('workers', [0, 1])
def test_a_folder_becomes_a_set_with_a_validation_split(pets, tmp_path, capsys, workers):
    out = tmp_path / 'out'
    command = [COMMAND, f'--folder={pets}', f'--data_dir={out}', '--validation=0.1']
    status, lines, errors = run_here(capsys, *command, f'--workers={workers}')
    assert status == 0, errors
    directory = out / 'folder' / 'pets' / '1.0.0'
    told = lines[-1]
    assert f'--config.data.name={directory} --config.data.num_classes=2' in told
    assert '1 bad examples left out' in told
    (warning,) = [line for line in errors if 'dog/003.png' in line]
    assert 'left out' in warning
    assert sources.label_names(str(directory)) == ['cat', 'dog']
    original = rows(f'folder:{pets}', 'train')
    original.pop('dog/003.png')
    parts = [rows(str(directory), split) for split in ('train', 'validation')]
    assert len(parts[1]) == 6
    assert {label for label, _ in parts[1].values()} == {0, 1}
    assert not parts[0].keys() & parts[1].keys()
    copied = parts[0] | parts[1]
    assert copied.keys() == original.keys()
    for file, (label, image) in copied.items():
        assert label == original[file][0]
        np.testing.assert_array_equal(image, original[file][1], err_msg=file)


def test_the_validation_split_follows_from_the_names(pets, tmp_path):
    splits = []
    for name in ('one', 'two'):
        copies.copy_folder(str(pets), str(tmp_path / name), validation=0.2)
        splits.append(rows(str(tmp_path / name / 'folder' / 'pets' / '1.0.0'), 'validation'))
    assert splits[0].keys() == splits[1].keys()
    assert sum(label == 0 for label, _ in splits[0].values()) == 4  # 20 % of 20 cats


def test_a_folder_keeps_its_own_splits(tmp_path):
    root = tmp_path / 'set'
    class_folder(root / 'train', {'a': 4, 'b': 3})
    class_folder(root / 'test', {'a': 2, 'b': 1})
    copies.copy_folder(str(root), str(tmp_path / 'out'), validation=0.5)
    name = str(tmp_path / 'out' / 'folder' / 'set' / '1.0.0')
    assert len(rows(name, 'train')) == 7
    assert len(rows(name, 'test')) == 3
    assert 'test, train' in user_error(rows, name, 'validation')


@pytest.mark.parametrize('more', [[], ['--resize=8']])
def test_a_split_without_images_is_named(tmp_path, capsys, more):
    root = tmp_path / 'set'
    class_folder(root / 'train', {'a': 4, 'b': 3})
    for name in ('a', 'b'):
        (root / 'val' / name).mkdir(parents=True)
    command = [COMMAND, f'--folder={root}', f'--out={tmp_path / "out"}', *more]
    status, _, errors = run_here(capsys, *command)
    assert (status, len(errors)) == (2, 1)
    assert f"the split 'val' of {root} holds no JPEG, PNG or WebP images" in errors[0]
    assert not (tmp_path / 'out').exists()


def test_a_folder_resized(pets, tmp_path, capsys):
    command = [COMMAND, f'--folder={pets}', f'--out={tmp_path / "out"}', '--resize=8']
    status, lines, errors = run_here(capsys, *command)
    assert status == 0, errors
    name = str(tmp_path / 'out' / 'resized' / 'pets_8' / '1.0.0')
    assert name in lines[-1]
    copied = rows(name, 'train') | rows(name, 'validation')
    original = rows(f'folder:{pets}', 'train')
    assert copied.keys() == original.keys() - {'dog/003.png'}
    for file, (label, image) in copied.items():
        assert label == original[file][0]
        np.testing.assert_allclose(image, original[file][1], atol=1e-6)  # they had 8 pixels


def test_another_set_of_the_same_name_is_not_taken_for_this_one(tmp_path):
    for number, name in enumerate(('one', 'two')):
        class_folder(tmp_path / name / 'pets', {'a': 4 + number, 'b': 4})
    out = str(tmp_path / 'out')
    copies.copy_folder(str(tmp_path / 'one' / 'pets'), out)
    message = user_error(copies.copy_folder, str(tmp_path / 'two' / 'pets'), out)
    assert 'holds another copy' in message
    assert str(tmp_path / 'one' / 'pets') in message


def test_nothing_is_left_of_a_copy_that_fails(tmp_path):
    root = class_folder(tmp_path / 'set', {'a': 2})
    for file in (root / 'a').iterdir():
        file.write_bytes(b'')
    message = user_error(copies.copy_folder, str(root), str(tmp_path / 'out'))
    assert 'can be decoded' in message
    assert not (tmp_path / 'out' / 'folder' / 'set' / '1.0.0').exists()


def test_mistakes(capsys, tmp_path):
    assert '--resize' in user_error(copies.resize, 'digits', '', 0, str(tmp_path))
    class_folder(tmp_path / 'set', {'a': 2})
    for arguments, words in (
        (['--name=no_such_set', '--resize=4'], 'no_such_set'),
        ([f'--folder={tmp_path}/none'], f'{tmp_path}/none'),
        ([f'--folder={tmp_path}/set', '--validation=1'], '--validation'),
        ([f'--folder={tmp_path}/set', '--validation=0.9'], '--validation'),
        ([f'--folder={tmp_path}/set', '--validation=nan'], '--validation'),
        ([f'--folder={tmp_path}/set', '--name=digits'], 'one of --name and --folder'),
        (['--name=mnist', '--resize=4'], "'mnist' is not prepared in"),
        (['--name=some/set', '--resize=4'], 'there is no directory some/set either'),
        ([], 'one of --name and --folder'),
        (['--name=digits', '--validation=0.1'], '--folder'),
        # Without a copy to write they would be passed over.
        (['--name=digits', f'--out={tmp_path}/big'], '--out is for --resize or a --folder'),
        (['--name=digits', '--workers=2'], '--workers is for --resize or a --folder'),
        ([f'--folder={tmp_path}/set', f'--manual_dir={tmp_path}'], '--manual_dir is for'),
        (['--name=digits', '--resize=4', f'--manual_dir={tmp_path}'], '--manual_dir is for'),
    ):
        status, _, errors = run_here(capsys, COMMAND, f'--data_dir={tmp_path}/out', *arguments)
        assert status == 2
        assert words in errors[0]
        assert len(errors) == 1
