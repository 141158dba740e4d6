"""One holder at a time, and no lock outlives its holder."""

import json
import os
import subprocess
import sys
import time

import pytest
from support import logged, user_error

from cfg_jax import locks


class ClientError(Exception):
    """As the client of an object store raises it, which is no OSError."""


ClientError.__module__ = 'aiohttp.client_exceptions'


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'run' / '.training'


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(locks, '_BEAT_SECONDS', 0.2)
    monkeypatch.setattr(locks, '_PATIENCE', 1.0)
    monkeypatch.setattr(locks, '_SETTLE_SECONDS', 0.05)


def take(path):
    with locks.hold(path, 'runs/x is being trained'):
        assert json.loads(path.read_text())['pid'] == os.getpid()
    assert not path.exists()


def write(path, **changes):
    """A lock that names this process, but for some of what it says."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(locks._this_process() | changes))


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_second_holder_is_refused_in_one_line(path):
    with locks.hold(path, 'runs/x is being trained'):
        content = path.read_text()
        message = user_error(take, path)
        assert path.read_text() == content
    host = os.uname().nodename
    assert message.startswith(f'runs/x is being trained by process {os.getpid()} on {host} since ')
    take(path)


def test_a_failure_gives_it_back(path):
    with pytest.raises(RuntimeError), locks.hold(path, 'x'):
        raise RuntimeError
    take(path)


def test_a_killed_holder_does_not_block(path, quick):
    """Whether or not its parent has taken note of the end; between, it is a zombie."""
    program = (
        'import sys, time\nfrom cfg_jax import locks\n'
        'with locks.hold(sys.argv[1], "x"):\n    print("held", flush=True)\n    time.sleep(60)'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', program, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == 'held\n'
    assert f'process {process.pid} on' in user_error(take, path)
    process.kill()
    time.sleep(0.2)
    take(path)
    process.communicate()
    write(path, pid=process.pid)
    take(path)


def test_a_number_given_to_another_process_does_not_block(path, quick):
    write(path, began='7')
    take(path)


@pytest.mark.parametrize('content', ['', '{"pid": ', '[1]', '{}', '{"pid": "x", "machine": 3}'])
def test_a_lock_that_says_nothing_does_not_block(path, quick, content):
    path.parent.mkdir()
    path.write_text(content)
    take(path)


def test_another_host_that_is_silent_does_not_block(path, quick):
    write(path, machine='other', host='node7')
    with logged() as lines:
        take(path)
    assert lines == ['runs/x is being trained on node7; waiting up to 1 s for a sign of it']


def test_another_host_that_is_alive_does(path, quick, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(locks, '_machine', lambda: 'other')
        patch.setattr(locks.socket, 'gethostname', lambda: 'node7')
        holding = locks.hold(path, 'x')
        holding.__enter__()
    try:
        assert ' on node7 since ' in user_error(take, path)
    finally:
        holding.__exit__(None, None, None)


def test_the_last_of_two_that_take_it_over_has_it(path, quick, monkeypatch):
    write(path, began='7')
    settle = locks.time.sleep

    def overtaken(seconds):
        write(path, machine='other')
        settle(seconds)

    monkeypatch.setattr(locks.time, 'sleep', overtaken)
    assert 'at the same moment' in user_error(take, path)
    assert json.loads(path.read_text())['machine'] == 'other'


def test_one_that_has_made_it_and_not_yet_written_has_it(path, quick, monkeypatch):
    path.parent.mkdir()
    path.touch()
    monkeypatch.setattr(locks.time, 'sleep', lambda _: write(path))
    assert f'by process {os.getpid()} on' in user_error(take, path)


@pytest.fixture
def paused(monkeypatch):
    """Lets no beat come, and makes it seem a hundred seconds later, once it is called."""
    now = time.time
    monkeypatch.setattr(locks, '_BEAT_SECONDS', 60.0)
    return lambda: monkeypatch.setattr(locks.time, 'time', lambda: now() + 100.0)


def test_a_lock_that_another_has_taken_over_is_left_to_it(path, quick):
    with locks.hold(path, 'runs/x is being trained') as held:
        held.check()
        write(path, machine='other', host='node7')
        taken = path.read_text()
        time.sleep(0.7)  # several beats
        assert path.read_text() == taken
        message = user_error(held.check)
    assert message.startswith(f'runs/x is being trained by process {os.getpid()} on node7 since ')
    assert 'which took over while this process stood still' in message
    assert path.read_text() == taken


def test_a_holder_that_stood_still_looks_before_it_goes_on(path, paused):
    """Its own thread may wake later than the work."""
    with locks.hold(path, 'x') as held:
        write(path, machine='other', host='node7')
        paused()
        assert 'on node7' in user_error(held.check)
    assert json.loads(path.read_text())['machine'] == 'other'


def test_another_that_has_come_and_gone_is_noticed(path, paused):
    with locks.hold(path, 'x') as held:
        path.unlink()
        paused()
        assert 'took over while this process stood still' in user_error(held.check)
    assert not path.exists()


def test_a_holder_that_stood_still_and_was_not_missed_goes_on(path, paused):
    with locks.hold(path, 'x') as held:
        paused()
        held.check()
        assert json.loads(path.read_text())['beat'] == 1
    assert not path.exists()


def test_a_lock_that_was_removed_is_written_again(path, quick, monkeypatch):
    monkeypatch.setattr(locks, '_PATIENCE', 60.0)  # no beat is so late
    with locks.hold(path, 'x') as held:
        path.unlink()
        wait_until(path.exists)
        held.check()
        assert 'by process' in user_error(take, path)


@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), ClientError('away')])
def test_a_storage_that_fails_for_a_while_ends_no_beat(path, quick, monkeypatch, error):
    failed = []

    def fail(*_):
        failed.append(True)
        raise error

    with locks.hold(path, 'x') as held:
        with monkeypatch.context() as patch:
            patch.setattr(locks.files, 'write_json', fail)
            wait_until(lambda: len(failed) > 1)
        before = json.loads(path.read_text())['beat']
        wait_until(lambda: json.loads(path.read_text())['beat'] > before)
        held.check()
