"""Copies of folders of images: every image in its class and split, or told why not."""

import os
from pathlib import Path

import numpy as np
import pytest
from pictures import class_folder, encoded, random_pixels
from rows_by_file import rows
from support import run_here, user_error

from cfg_jax.data import copies, sources

COMMAND = 'scripts/prepare_data.py'


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
