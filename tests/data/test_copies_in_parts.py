"""Copies are made in parts: a killed one goes on, and memory does not grow with the set."""

import pytest
from etils import epath
from pictures import class_folder, encoded, random_pixels
from rows_by_file import rows
from support import logged, make_tiny_config
from tensorflow_datasets.core import shuffle

from cfg_jax.data import copies, copy_builders, parts, reading, sources


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
