"""Paths as users write them, whole files or none, and damage of every kind in one sentence."""

import errno
import json
import random
from pathlib import Path

import numpy as np
import pytest
from support import logged, user_error

from cfg_jax import files


def test_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert str(files.as_path('~/run')) == f'{tmp_path}/run'
    assert str(files.as_path('run')) == 'run'


@pytest.mark.parametrize('place', ['gs://bucket/run', 's3://bucket/run', 'az://bucket/run'])
def test_object_stores_stay_as_they_are(monkeypatch, place):
    monkeypatch.setattr(files.importlib.util, 'find_spec', lambda name: True)
    for path in (files.as_path(place), files.absolute(place)):
        assert str(path) == place
        assert files.is_remote(path)
    assert str(files.absolute('run')) == str(Path.cwd() / 'run')


@pytest.mark.parametrize(
    ('place', 'package'), [('gs://b/x', 'gcsfs'), ('s3://b/x', 's3fs'), ('az://b/x', 'adlfs')]
)
def test_a_missing_package_is_named(monkeypatch, place, package):
    monkeypatch.setattr(files.importlib.util, 'find_spec', lambda name: None)
    assert f'pip install {package}' in user_error(files.as_path, place)


@pytest.mark.parametrize('place', ['gcs://b/x', 'http://host/x', 'file:///x', 'gs:/b/x'])
def test_other_kinds_of_storage_are_refused(place):
    """They would be directories 'gcs:' and 'gs:' below the current one."""
    assert 'gs://' in user_error(files.as_path, place)


def test_writing_makes_the_directories_above(tmp_path):
    files.write_json(tmp_path / 'a' / 'b' / 'c.json', {'x': 1})
    assert files.read_json(tmp_path / 'a' / 'b' / 'c.json') == {'x': 1}


def test_a_directory_is_not_replaced(tmp_path):
    (tmp_path / 'kept').write_text('this')
    message = user_error(files.write_bytes, tmp_path, b'')
    assert message == f'{tmp_path} is a directory; name a file'
    assert (tmp_path / 'kept').read_text() == 'this'


@pytest.mark.parametrize('step', ['open', 'replace'])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, step):
    """Half of the content is written when the disk is full, or all of it when renaming fails."""
    path = tmp_path / 'results.json'
    files.write_json(path, {'old': 1})
    open_file = type(files.as_path(path)).open

    def fail(self, mode):
        if step == 'open':
            with open_file(self, mode) as file:
                file.write(b'{"ne')
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(type(files.as_path(path)), step, fail)
        with pytest.raises(OSError, match='No space'):
            files.write_json(path, {'new': 2})
    assert [entry.name for entry in tmp_path.iterdir()] == ['results.json']
    assert files.read_json(path) == {'old': 1}


@pytest.mark.parametrize(
    'content', [b'', b'{"a": ', b'[1, 2]', b'7', b'null', b'\xff\xfe\x00', b'[' * 100_000, b'{}']
)
def test_damaged_json(tmp_path, content):
    path = tmp_path / 'results.json'
    path.write_bytes(content)
    message = user_error(files.read_json, path, keys=('rows',), advice='run it again')
    assert message == f'{path} is damaged or of another kind; run it again'


def test_a_directory_is_no_json(tmp_path):
    assert str(tmp_path) in user_error(files.read_json, tmp_path)


def test_json_of_another_kind(tmp_path):
    (tmp_path / 'x.json').write_text('[1, 2]')
    assert files.read_json(tmp_path / 'x.json', list) == [1, 2]
    with pytest.raises(FileNotFoundError):
        files.read_json(tmp_path / 'y.json')


def damaged(content, rng):
    """Some bytes flipped, cut off, overwritten or taken out."""
    content, at = bytearray(content), rng.randrange(len(content))
    kind = rng.choice(('flip', 'cut', 'overwrite', 'remove'))
    if kind == 'flip':
        content[at] ^= 1 << rng.randrange(8)
    elif kind == 'cut':
        del content[at:]
    elif kind == 'overwrite':
        content[at : at + 20] = rng.randbytes(20)
    else:
        del content[at : at + 1 + rng.randrange(100)]
    return bytes(content)


def test_damaged_npz(tmp_path):
    """Whatever is done to the bytes: the arrays, or one sentence."""
    path, rng = tmp_path / 'shard.npz', random.Random(0)
    arrays = {'logits': np.arange(30.0), 'labels': np.zeros(4, np.int32)}
    files.write_npz(path, arrays)
    content, refused = path.read_bytes(), 0
    for _ in range(2000):
        path.write_bytes(damaged(content, rng))
        try:
            found = files.read_npz(path)
        except files.Damaged:
            refused += 1
        else:  # zipfile checks the arrays' bytes; what it does not check is not in them
            for name in arrays.keys() & found.keys():
                np.testing.assert_array_equal(found[name], arrays[name])
    assert refused > 1000


def test_npz_without_an_array(tmp_path):
    files.write_npz(tmp_path / 'x.npz', {'a': np.ones(2)})
    assert 'x.npz' in user_error(files.read_npz, tmp_path / 'x.npz', keys=('a', 'b'))
    assert files.read_npz(tmp_path / 'x.npz', keys=('a',)).keys() == {'a'}


def test_pickles_are_refused(tmp_path):
    np.savez(tmp_path / 'x.npz', a=np.array([{'code': 1}], dtype=object))
    assert 'x.npz' in user_error(files.read_npz, tmp_path / 'x.npz')


def test_lost_storage_is_no_damage(tmp_path):
    def read(path):
        with files.damage_reported(path, 'advice'):
            raise OSError(errno.EIO, 'Input/output error')

    with pytest.raises(OSError, match='Input/output'):
        read(tmp_path)


def test_what_can_be_made_again_is_set_aside(tmp_path):
    path = tmp_path / 'shard.npz'
    assert files.read_or_set_aside(path, files.read_npz) is None  # there is none yet
    for name in ('shard.npz.damaged', 'shard.npz.damaged_1'):
        path.write_bytes(b'half')
        with logged() as lines:
            assert files.read_or_set_aside(path, files.read_npz) is None
        assert lines == [f'warning: {path} is damaged; it is kept as {name} and made again']
        assert not path.exists()
        assert (tmp_path / name).read_bytes() == b'half'
    path.mkdir()
    assert files.read_or_set_aside(path, files.read_npz) is None
    files.write_json(path, [1])
    assert files.read_or_set_aside(path, lambda p: files.read_json(p, list)) == [1]
    assert json.loads(path.read_text()) == [1]
