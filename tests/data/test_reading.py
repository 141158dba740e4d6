"""Examples that cannot be decoded: named, replaced the same way everywhere, counted, limited."""

import logging
from pathlib import Path

import numpy as np
import pytest
from pictures import class_folder
from support import make_tiny_config, user_error

from cfg_jax.data import pipeline, reading, sources

COUNT = 30  # of 3 classes


@pytest.fixture
def data(tmp_path):
    """The data group of a folder of 30 pictures."""
    class_folder(tmp_path / 'set', {'a': 10, 'b': 10, 'c': 10})
    return make_tiny_config(data__name=f'folder:{tmp_path / "set"}', data__num_classes=3).data


def files(data):
    """Files by example number."""
    examples = sources.data_source(data, data.split)
    return [examples[i]['file'] for i in range(len(examples))]


def spoil(data, *numbers, content=b''):
    """Overwrites the files of these examples; returns their names."""
    names = [files(data)[number] for number in numbers]
    for name in names:
        (Path(data.name.removeprefix('folder:')) / name).write_bytes(content)
    return names


def take(count, data, **kwargs):
    batches = pipeline.TrainingBatches(data, **({'batch_size': 6, 'seed': 0} | kwargs))
    try:
        return [next(batches) for _ in range(count)]
    finally:
        batches.close()


def rows(batches):
    return np.concatenate([batch['image'] for batch in batches])


def test_none_are_allowed_by_zero(data):
    data.max_bad_examples = 0
    (name,) = spoil(data, 7)
    for read in (lambda: take(5, data), lambda: list(pipeline.one_epoch(data, 'train', 8))):
        message = user_error(read)
        assert f'{data.name!r}' in message
        assert "split 'train'" in message
        assert f'example 7 ({name}) cannot be decoded: it is empty' in message
        assert '--config.data.max_bad_examples=' in message


@pytest.mark.parametrize('content', [b'', b'no picture', b'\x89PNG\r\n\x1a\n' + bytes(40)])
def test_the_next_good_example_takes_the_place(data, content):
    whole = rows(pipeline.one_epoch(data, 'train', 7))
    spoil(data, 7, 8, COUNT - 1, content=content)
    mended = rows(pipeline.one_epoch(data, 'train', 7))
    expected = whole.copy()
    expected[[7, 8, COUNT - 1]] = whole[[9, 9, 0]]  # after the last comes the first
    np.testing.assert_array_equal(mended, expected)


def test_batches_do_not_depend_on_workers_processes_or_restarts(data):
    data.flip = True
    spoil(data, 3, 4, 20)
    straight = take(8, data)
    parts = [take(8, data, process_index=p, process_count=2) for p in range(2)]
    data.num_workers = 2
    in_workers = take(8, data)
    data.num_workers = 0
    batches = pipeline.TrainingBatches(data, batch_size=6, seed=0)
    batches.set_state({'next_batch': 5})
    later = [next(batches) for _ in range(3)]
    batches.close()
    for key in ('image', 'condition'):
        for step, batch in enumerate(straight):
            np.testing.assert_array_equal(in_workers[step][key], batch[key])
            for p in range(2):
                np.testing.assert_array_equal(parts[p][step][key], batch[key][p::2])
        for after, before in zip(later, straight[5:], strict=True):
            np.testing.assert_array_equal(after[key], before[key])


def test_only_the_bad_rows_of_an_epoch_change(data):
    """The others are where they were: what follows from the seed stays."""
    whole = take(5, data)  # an epoch
    names = spoil(data, 3, 20)
    mended = take(5, data)
    assert len(names) == 2
    same = [
        (a == b).all(axis=(1, 2, 3))
        for a, b in zip((w['image'] for w in whole), (m['image'] for m in mended), strict=True)
    ]
    assert np.sum(~np.concatenate(same)) == 2


def test_counted_once_and_reported(data, caplog):
    names = spoil(data, 3, 4, 20)
    batches = pipeline.TrainingBatches(data, batch_size=6, seed=0)
    with caplog.at_level(logging.WARNING, 'absl'):
        for _ in range(15):  # three epochs
            next(batches)
    batches.close()
    assert batches.bad_examples() == 3
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    for name in names:
        (line,) = [line for line in lines if name in line]
        assert 'it is empty' in line
        assert 'of at most 10 bad examples' in line


def test_many_are_reported_in_few_lines(data, caplog):
    data.max_bad_examples = 20
    spoil(data, *range(20))
    with caplog.at_level(logging.WARNING, 'absl'):
        list(pipeline.one_epoch(data, 'train', 8))
    assert len(caplog.records) <= 8
    assert '20 bad examples' in caplog.records[-1].getMessage()


@pytest.mark.parametrize('num_workers', [0, 1])
def test_one_more_than_allowed(data, num_workers):
    data.max_bad_examples, data.num_workers = 2, num_workers
    names = spoil(data, 2, 11, 25)
    message = user_error(lambda: list(pipeline.one_epoch(data, 'train', 4)))
    assert '3 examples cannot be decoded' in message
    assert 'data.max_bad_examples=2' in message
    assert f'25 ({names[2]})' in message


def test_each_process_counts_what_it_meets_since_its_start(data):
    data.max_bad_examples = 2
    for first in (0, 2, 4):  # of one process, of another one, and of the first started again
        found = reading.BadExamples(data, 'train')
        found.add(reading.BadExample(first + n, '', 'it is empty') for n in range(2))
        assert len(found) == 2


def test_a_set_of_bad_examples_ends_at_once(data):
    spoil(data, *range(COUNT))
    data.max_bad_examples = 1000
    assert 'cannot be decoded' in user_error(take, 1, data)


def test_files_that_may_not_be_read_are_bad_examples(data, monkeypatch):
    """Root may read all files, so the refusal is played."""
    (name,) = spoil(data, 7)
    read_bytes = Path.read_bytes

    def refuse(self):
        if str(self).endswith(name):
            raise PermissionError(13, 'Permission denied', str(self))
        return read_bytes(self)

    monkeypatch.setattr(Path, 'read_bytes', refuse)
    data.max_bad_examples = 0
    assert f'{name} may not be read' in user_error(
        lambda: list(pipeline.one_epoch(data, 'train', 8))
    )


def test_storage_that_is_away_is_not_a_bad_example(data, monkeypatch):
    """Replacing what is there again tomorrow would make another run of it."""

    def fail(self):
        raise OSError(5, 'Input/output error', str(self))

    monkeypatch.setattr(Path, 'read_bytes', fail)
    assert 'Input/output error' in user_error(take, 1, data)


@pytest.mark.parametrize(
    ('example', 'file'),
    [
        ({'file': 'a/1.png'}, 'a/1.png'),
        ({'file_name': b'n01440764_10026.JPEG'}, 'n01440764_10026.JPEG'),
        ({'filename': b'\xff.png'}, '\\xff.png'),
        ({}, ''),
    ],
)
def test_names_of_files(example, file):
    assert reading.file_of(example | {'image': b'', 'label': 0}) == file
