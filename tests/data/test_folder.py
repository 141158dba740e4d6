"""A folder of pictures: which files are examples, their classes, order, splits; every mistake."""

import errno
import logging
import os
import pickle
from collections import Counter
from pathlib import Path

import pytest
from pictures import class_folder, encoded, png, random_pixels
from support import (
    checkpoint_hash,
    checkpoint_steps,
    make_tiny_config,
    run_here,
    tiny_arguments,
    user_error,
)

from cfg_jax.data import listing, pipeline, sources
from cfg_jax.training import loop


def examples(path, split='train', data_dir=''):
    found = sources.open_source(f'folder:{path}', data_dir).examples(split)
    return [found[i] for i in range(len(found))]


def files(path, split='train'):
    return {example['file'] for example in examples(path, split)}


@pytest.fixture
def pets(tmp_path):
    """Cats and dogs, as people keep them."""
    root = class_folder(tmp_path / 'pets', {'cat': 3, 'dog': 2})
    pixels = random_pixels(3)
    (root / 'dog' / 'LARGE.JPG').write_bytes(encoded(pixels[0], 'JPEG'))
    (root / 'dog' / 'photo.Jpeg').write_bytes(encoded(pixels[1], 'JPEG'))
    (root / 'cat' / 'deeper' / 'still').mkdir(parents=True)
    (root / 'cat' / 'deeper' / 'still' / 'one.WebP').write_bytes(encoded(pixels[2], 'WEBP'))
    return root


PETS = {
    'cat/000.png', 'cat/001.png', 'cat/002.png', 'cat/deeper/still/one.WebP',
    'dog/000.png', 'dog/001.png', 'dog/LARGE.JPG', 'dog/photo.Jpeg',
}  # fmt: skip


def test_examples_are_files_with_their_class(pets):
    found = examples(pets)
    assert {example['file'] for example in found} == PETS
    for example in found:
        assert example['image'] == (pets / example['file']).read_bytes()
        assert example['label'] == ['cat', 'dog'].index(example['file'].partition('/')[0])


def test_classes_are_sorted_by_name(tmp_path):
    """As torchvision's ImageFolder numbers them: capitals first, 10 before 2."""
    class_folder(tmp_path, dict.fromkeys(('b', 'a', '10', '2', 'Z'), 1))
    assert sources.label_names(f'folder:{tmp_path}') == ['10', '2', 'Z', 'a', 'b']
    labels = {e['file'].partition('/')[0]: e['label'] for e in examples(tmp_path)}
    assert labels == {'10': 0, '2': 1, 'Z': 2, 'a': 3, 'b': 4}


def test_links_are_followed_and_circles_end(pets, tmp_path):
    elsewhere = class_folder(tmp_path / 'elsewhere', {'bird': 2})
    (pets / 'bird').symlink_to(elsewhere / 'bird')  # a class
    (pets / 'dog' / 'link.png').symlink_to(elsewhere / 'bird' / '000.png')  # a file
    (pets / 'cat' / 'round').symlink_to(pets)
    (pets / 'cat' / 'again').symlink_to('.')
    more = {'bird/000.png', 'bird/001.png', 'dog/link.png'}
    assert files(pets) == PETS | more
    assert sources.label_names(f'folder:{pets}') == ['bird', 'cat', 'dog']
    (tmp_path / 'link').symlink_to(pets)
    assert files(tmp_path / 'link') == PETS | more


def test_foreign_files_are_counted_in_one_line(pets, caplog):
    for name in ('.DS_Store', 'cat/Thumbs.db', 'cat/._000.png', 'dog/.hidden.png'):
        (pets / name).write_bytes(b'of a system')
    for name in ('labels.csv', 'dog/notes.TXT', 'dog/README', 'loose.png'):
        (pets / name).write_bytes(b'of a person')
    for name in ('.ipynb_checkpoints', '__MACOSX'):
        (pets / name).mkdir()
        (pets / name / 'x.png').write_bytes(b'of a program')
    (pets / 'cat' / 'lost.png').symlink_to('nowhere.png')
    (pets / 'cat' / 'loop').symlink_to('loop')
    (pets / 'loop').symlink_to('loop')  # where a class would be
    with caplog.at_level(logging.INFO, 'absl'):
        assert files(pets) == PETS
    (record,) = caplog.records
    line = record.getMessage()
    assert line.startswith(f'{pets}: 8 images of 2 classes; skipped: 6 hidden')
    assert '3 of other kinds (.csv, .txt, README)' in line
    assert '3 unreadable (cat/loop, cat/lost.png, loop)' in line
    assert '1 images outside of the classes' in line
    assert sources.label_names(f'folder:{pets}') == ['cat', 'dog']


def test_a_class_on_storage_that_is_away_is_no_class_less(pets, monkeypatch):
    """The ids of those behind it would be others."""

    is_of = listing._is

    def away(kind, entry):
        raise OSError(errno.ESTALE, 'Stale file handle', entry.name)

    monkeypatch.setattr(listing, '_is', lambda kind, entry: is_of(lambda e: away(kind, e), entry))
    assert 'Stale file handle' in user_error(sources.label_names, f'folder:{pets}')


def test_unreadable_files_take_one_line(tmp_path, caplog):
    class_folder(tmp_path, {'a': 1})
    for number in range(100):
        (tmp_path / 'a' / f'lost{number:02d}.png').symlink_to('nowhere.png')
    with caplog.at_level(logging.INFO, 'absl'):
        examples(tmp_path)
    (record,) = caplog.records
    line = record.getMessage()
    assert '100 unreadable (a/lost00.png, a/lost01.png, a/lost02.png, ...)' in line


def test_names_that_are_not_text(tmp_path, caplog):
    class_folder(tmp_path, {'a': 1})
    bad = os.fsencode(tmp_path) + b'/a/\xff.png'
    Path(os.fsdecode(bad)).write_bytes(b'')
    data = make_tiny_config(data__name=f'folder:{tmp_path}', data__num_classes=1).data
    with caplog.at_level(logging.WARNING, 'absl'):
        list(pipeline.one_epoch(data, 'train', 1))
    assert '\\udcff.png' in caplog.records[-1].getMessage()


def test_the_order_depends_on_names_alone(tmp_path):
    one = class_folder(tmp_path / 'one', {'a': 9, 'b': 7}, seed=0)
    other = tmp_path / 'other'
    for name in ('b', 'a'):  # written in another order, with other content
        class_folder(other, {name: 9 if name == 'a' else 7}, seed=5)
    assert [e['file'] for e in examples(one)] == [e['file'] for e in examples(other)]
    assert [e['file'] for e in examples(one)] != sorted(files(one))


@pytest.mark.parametrize('counts', [{'a': 50, 'b': 50}, {'a': 90, 'b': 9, 'c': 1}])
def test_every_part_from_the_front_has_each_class_in_its_share(tmp_path, counts):
    class_folder(tmp_path, counts, size=1)
    labels = [example['label'] for example in examples(tmp_path)]
    total = sum(counts.values())
    for size in range(1, total + 1):
        seen = Counter(labels[:size])
        for label, count in enumerate(counts.values()):
            assert abs(seen[label] - count * size / total) <= 1.0


def test_slices(tmp_path):
    class_folder(tmp_path, {'a': 25, 'b': 26}, size=1)  # 51
    whole = [e['file'] for e in examples(tmp_path)]

    def part(split):
        return [e['file'] for e in examples(tmp_path, split)]

    assert part('train[:80%]') == whole[:41]  # 40.8
    assert part('train[80%:]') == whole[41:]
    assert part('train[:10]') == whole[:10]
    assert part('train[10:20]') == whole[10:20]
    assert part('train[-10:]') == whole[-10:]
    assert part('train[:-10]') == whole[:-10]
    assert part('train[-20%:]') == whole[-10:]
    assert part('train[:]') == whole
    for split in ('train[:52]', 'train[:101%]', 'train[-52:]'):
        message = user_error(examples, tmp_path, split)
        assert split in message
        assert '51 images' in message


def test_slices_are_those_of_tfds(digits_dir, tmp_path):
    """The same number of examples as TFDS takes of its own set of as many."""
    class_folder(tmp_path, {'a': 1000, 'b': 797}, size=1)
    folder = sources.open_source(f'folder:{tmp_path}')
    tfds = sources.open_source(str(digits_dir))
    for split in ('train[:33%]', 'train[33%:]', 'train[:7]', 'train[-5:]', 'train[1%:2%]'):
        assert len(folder.examples(split)) == len(tfds.examples(split)), split


@pytest.mark.parametrize('split', ['test', 'train[:5', 'train[5]', 'train[a:]', 'train+train', ''])
def test_unknown_splits(pets, split):
    message = user_error(examples, pets, split)
    assert f'has no split {split!r}; it has: train' in message


def test_splits_as_sub_directories(tmp_path):
    class_folder(tmp_path / 'train', {'a': 4, 'b': 3})
    class_folder(tmp_path / 'val', {'b': 2})
    (tmp_path / 'notes').mkdir()
    source = sources.open_source(f'folder:{tmp_path}')
    assert source.splits == ['train', 'val']
    assert source.class_names == ['a', 'b']
    assert files(tmp_path) == {f'train/a/00{i}.png' for i in range(4)} | {
        f'train/b/00{i}.png' for i in range(3)
    }
    assert [e['label'] for e in examples(tmp_path, 'val')] == [1, 1]
    assert files(tmp_path, 'val') == {'val/b/000.png', 'val/b/001.png'}
    class_folder(tmp_path / 'val', {'c': 1})
    assert "the class 'c'" in user_error(examples, tmp_path, 'val')


def test_a_class_called_train(tmp_path):
    """A folder of vehicles: train/ holds images, so it is a class and no split."""
    class_folder(tmp_path, {'car': 2, 'train': 2})
    assert sources.label_names(f'folder:{tmp_path}') == ['car', 'train']
    assert len(examples(tmp_path)) == 4


def test_mistakes(tmp_path):
    missing = tmp_path / 'missing'
    assert str(missing) in user_error(examples, missing)
    (tmp_path / 'file').write_text('')
    assert str(tmp_path / 'file') in user_error(examples, tmp_path / 'file')
    flat = tmp_path / 'flat'
    flat.mkdir()
    (flat / '1.png').write_bytes(png(random_pixels(1)[0]))
    message = user_error(examples, flat)
    assert 'no sub-directories' in message
    assert f'{flat}/CLASS' in message
    empty = class_folder(tmp_path / 'empty', {'a': 1, 'b': 0, 'c': 0})
    assert '2 of the 3 sub-directories' in user_error(examples, empty)
    assert 'b, c' in user_error(examples, empty)
    assert 'local' in user_error(examples, 'gs://bucket/pets')


def test_wrong_number_of_classes(pets):
    data = make_tiny_config(data__name=f'folder:{pets}').data
    message = user_error(sources.data_source, data, 'train')
    assert 'data.num_classes=10' in message
    assert '--config.data.num_classes=2' in message


def test_empty_slice(pets):
    data = make_tiny_config(data__name=f'folder:{pets}', data__num_classes=2).data
    assert "no examples in 'train[:0]'" in user_error(sources.data_source, data, 'train[:0]')


def test_paths_below_data_dir_and_home(pets, monkeypatch):
    assert len(examples('pets', data_dir=str(pets.parent))) == 8
    assert len(examples(pets, data_dir='/somewhere/else')) == 8
    monkeypatch.setenv('HOME', str(pets.parent))
    assert len(examples('~/pets')) == 8
    assert len(examples('pets', data_dir='~')) == 8


def test_it_travels_to_workers_small(pets):
    found = pickle.loads(pickle.dumps(sources.open_source(f'folder:{pets}').examples('train')))
    assert {found[i]['file'] for i in range(len(found))} == PETS


def test_trains_and_resumes_with_the_command(tmp_path, capsys, toy_networks):
    """From the folder to a checkpoint, bit-equal with worker processes and after a restart."""
    class_folder(tmp_path / 'set', {'a': 20, 'b': 20, 'c': 20})
    (tmp_path / 'set' / 'b' / '003.png').write_bytes(b'')

    def train(name, **changes):
        arguments = tiny_arguments(
            data__name=f'folder:{tmp_path / "set"}', data__num_classes=3, **changes
        )
        workdir = tmp_path / name
        command = ['scripts/train.py', '--config=configs/digits.py', f'--workdir={workdir}']
        status, out, errors = run_here(capsys, *command, *arguments)
        assert status == 0, errors
        return out, errors

    out, errors = train('straight')
    assert any('60 images of 3 classes' in line for line in out)
    assert sum('b/003.png' in line for line in errors) == 1
    assert checkpoint_steps(tmp_path / 'straight') == [3, 6]
    train('halves', train__steps=3)
    train('halves', data__num_workers=1)
    hashes = [checkpoint_hash(tmp_path / name, 6) for name in ('straight', 'halves')]
    assert hashes[0] == hashes[1]
    rows = (tmp_path / 'straight' / 'metrics.jsonl').read_text()
    assert '"bad_examples": 1' in rows


def test_too_many_bad_examples_save_what_was_done(tmp_path, toy_networks):
    """The run ends with a checkpoint of its last step; with a higher limit it continues exactly."""
    root = class_folder(tmp_path / 'set', {'a': 32, 'b': 32})
    config = make_tiny_config(
        data__name=f'folder:{root}',
        data__num_classes=2,
        data__max_bad_examples=0,
        train__log_every=4,
        train__checkpoint_every=100,
    )
    stream = pipeline.TrainingBatches(config.data, batch_size=16, seed=config.seed)
    fourth = int(stream.examples_of(4).split(',')[0])
    stream.close()
    file = sources.data_source(config.data, 'train')[fourth]['file']
    (root / file).write_bytes(b'')
    message = user_error(loop.train, config, tmp_path / 'run')
    assert f'example {fourth} ' in message
    assert 'the checkpoint of step 3 is kept' in message
    assert checkpoint_steps(tmp_path / 'run') == [3]
    config.data.max_bad_examples = 1
    for name in ('run', 'straight'):
        loop.train(config, tmp_path / name)
    hashes = {checkpoint_hash(tmp_path / name, 6) for name in ('run', 'straight')}
    assert len(hashes) == 1
