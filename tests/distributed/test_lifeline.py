"""The end of one process ends all, with one line that says which, and a status that fits."""

import json
import socket
import subprocess
import sys
import time

import pytest
from hosts import ADDRESSES, hosts as hosts
from support import ROOT

from cfg_jax.distributed import lifeline, relay

AGAIN = 'start all of them again: the same command continues'
CLOSED = '(its connection closed)'


def start(file, count, lost_after=20, before=((), (), ()), host='127.0.0.1'):
    """Starts `count` processes of tied.py; returns them when all are tied."""
    processes = [
        subprocess.Popen(
            [*before[i], sys.executable, 'tied.py', *map(str, (i, count, lost_after, host, file))],
            cwd=ROOT / 'tests' / 'distributed',
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]
    for process in processes:
        assert process.stdout.readline() == 'tied\n', process.stderr.read()
    time.sleep(0.2)  # for process 0 to take the connections
    return processes


def ends(processes, seconds=10):
    """(status, standard error) of each."""
    found = []
    for process in processes:
        process.wait(timeout=seconds)  # with standard input open, which would end it
        found.append((process.returncode, process.stderr.read()))
        process.communicate()
    return found


@pytest.mark.parametrize('victim', [0, 2])
def test_killed(tmp_path, victim):
    processes = start(tmp_path / 'said', 3)
    processes.pop(victim).kill()
    line = f'error: lost process {victim} of 3 {CLOSED}; {AGAIN}\n'
    assert ends(processes) == [(1, line), (1, line)]


def test_the_mistake_of_one_is_everyones(tmp_path):
    """No launcher may start it again, whichever process's status it looks at."""
    processes = start(tmp_path / 'said', 3)
    processes[1].stdin.write('mistake\n')
    processes[1].stdin.flush()
    line = 'process 1 of 3 ended with status 2: error: no such file\n'
    assert ends(processes) == [(2, line), (2, ''), (2, line)]


def test_those_that_end_because_of_it_are_not_lost(monkeypatch):
    """While process 0 waits with its line, process 2, which waited too, is gone already."""
    ended = []
    hub = lifeline._Lifeline(0, 3, lost_after=20)
    monkeypatch.setattr(lifeline, '_end', lambda status, line: ended.append((status, line)))
    monkeypatch.setattr(
        time, 'sleep', lambda seconds: hub._farewell(2, 1, 'its connection closed', lost=True)
    )
    hub._farewell(1, 2, 'error: no such file')
    assert ended == [(2, 'process 1 of 3 ended with status 2: error: no such file')]


def test_one_that_is_stopped_alone_ends_all(tmp_path):
    """By a second Ctrl-C in a training: the others would wait for it in the next step."""
    processes = start(tmp_path / 'said', 2)
    processes[1].stdin.write('stopped alone\n')
    processes[1].stdin.flush()
    line = 'stopped; the same command continues from here\n'
    said = f'process 1 of 2 ended with status 130: {line}'
    assert ends(processes, seconds=60) == [(130, said), (130, line)]


def test_those_that_stop_together_end_by_themselves(tmp_path):
    processes = start(tmp_path / 'said', 2)
    line = 'stopped; the same command continues from here\n'
    for process in processes:
        process.stdin.write('stopped together\n')
        process.stdin.flush()
        assert ends([process], seconds=60) == [(130, line)]


def test_the_defect_of_one(tmp_path):
    processes = start(tmp_path / 'said', 2)
    processes[0].stdin.write('defect\n')
    processes[0].stdin.flush()
    (first, trace), second = ends(processes)
    assert (first, trace) == (1, 'ZeroDivisionError: division by zero\n')
    assert second == (
        1,
        'process 0 of 2 ended with status 1: ZeroDivisionError: division by zero\n',
    )


def test_one_after_the_other(tmp_path):
    """Who ends well ends nobody."""
    processes = start(tmp_path / 'said', 3)
    for process in processes:
        process.stdin.close()
        assert process.wait(timeout=10) == 0
        assert process.stderr.read() == ''


def test_no_sign(hosts, tmp_path):
    before = [hosts.run(number) for number in range(2)]
    processes = start(tmp_path / 'said', 2, 2, before, ADDRESSES[0])
    hosts.unplug()
    moment = time.monotonic()
    found = ends(processes)
    hosts.plug_in()
    assert 1.0 < time.monotonic() - moment < 6.0
    for other, end in zip((1, 0), found, strict=True):
        assert end == (1, f'error: lost process {other} of 2 (no sign of it for 2 s); {AGAIN}\n')


def test_strangers_are_shown_the_door():
    """A port scanner, or a process of the run before, is no process of this one."""
    ours = lifeline._Lifeline(0, 2, 20.0)
    port = ours.listen('token')
    for hello in (b'GET / HTTP/1.0\n', b'\n', json.dumps({'token': 'x', 'process': 1}).encode()):
        with socket.create_connection(('127.0.0.1', port), timeout=5) as stranger:
            stranger.sendall(hello + b'\n')
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(1) == b''
    assert not ours._connections


def test_alone_nothing_ends():
    lifeline.end(2, 'error')
    lifeline.end_after(RuntimeError('error'))


def test_a_relay_keeps_the_near_end_open():
    server = socket.create_server(('127.0.0.1', 0))
    address = f'127.0.0.1:{server.getsockname()[1]}'
    process = subprocess.Popen(
        [sys.executable, '-I', relay.__file__, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    port = int(process.stdout.readline())
    near = socket.create_connection(('127.0.0.1', port), timeout=5)
    far, _ = server.accept()
    near.sendall(b'ping')
    assert far.recv(4) == b'ping'
    far.sendall(b'pong')
    assert near.recv(4) == b'pong'
    far.close()
    server.close()
    late = socket.create_connection(('127.0.0.1', port), timeout=5)
    for end in (near, late):
        end.settimeout(0.5)
        with pytest.raises(TimeoutError):
            end.recv(1)
    process.stdin.close()
    assert process.wait(timeout=5) == 0


def test_a_relay_to_nobody_refuses():
    """So that the client tries again until process 0 is there."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        address = server.getsockname()
    process = subprocess.Popen(
        [sys.executable, '-I', relay.__file__, f'127.0.0.1:{address[1]}'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    port = int(process.stdout.readline())
    with socket.create_connection(('127.0.0.1', port), timeout=5) as near:
        assert near.recv(1) == b''
    process.stdin.close()
    assert process.wait(timeout=5) == 0
