"""Worker processes: deaf to the group's signals, missed when they die, gone with their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pictures import class_folder
from support import (
    ROOT,
    TOY_TRAINING,
    checkpoint_steps,
    run_here,
    script_environment,
    tiny_arguments,
)

from cfg_jax.data import pipeline
from cfg_jax.errors import WorkerDied

WORKERS = 2


def children(pid):
    """Process ids of Grain's workers of a process: those that spawn started."""
    found = []
    for path in Path('/proc').iterdir():
        if not path.name.isdecimal():
            continue
        try:
            parent = int((path / 'stat').read_text().rpartition(')')[2].split()[1])
            command = (path / 'cmdline').read_bytes()
        except OSError:
            continue
        if parent == pid and b'spawn_main' in command:
            found.append(int(path.name))
    return sorted(found)


def running(pid):
    try:
        return 'Z' not in Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except OSError:
        return False


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def only_line(errors):
    lines = errors.splitlines()
    assert len(lines) == 1, errors
    return lines[0]


def train(workdir):
    """A training that would take an hour, and its arguments; its input is read by workers."""
    settings = {
        'train__steps': 200_000,
        'train__log_every': 1,
        'train__checkpoint_every': 100_000,
        'train__sample_every': 100_000,
        'data__num_workers': WORKERS,
    }
    arguments = tiny_arguments(**settings)
    return [TOY_TRAINING, '--config=configs/digits.py', f'--workdir={workdir}', *arguments]


def start(command):
    """A script as the leader of its own process group."""
    return subprocess.Popen(
        [sys.executable, f'scripts/{command[0]}', *command[1:]],
        cwd=ROOT,
        env=script_environment(XLA_FLAGS=''),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(process, text):
    for line in process.stdout:
        if line.startswith(text):
            return
    raise AssertionError(process.stderr.read())


def test_signals_to_the_group_end_in_a_checkpoint(tmp_path):
    """Also while the workers start: they are deaf before they can run anything of ours."""
    process = start(train(tmp_path / 'run'))
    assert wait_until(lambda: children(process.pid))
    for _ in range(20):
        for worker in children(process.pid):
            os.kill(worker, signal.SIGTERM)
            os.kill(worker, signal.SIGINT)
        time.sleep(0.1)
    wait_for(process, 'step 3/')
    assert len(children(process.pid)) == WORKERS
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    only_line(errors)
    assert len(checkpoint_steps(tmp_path / 'run')) == 1


def test_a_killed_worker_ends_in_a_line_with_the_state_saved(tmp_path):
    process = start(train(tmp_path / 'run'))
    wait_for(process, 'step 3/')
    os.kill(children(process.pid)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    line = only_line(errors)
    (step,) = checkpoint_steps(tmp_path / 'run')
    for words in ('SIGKILL', 'memory', 'data.num_workers', f'checkpoint of step {step} is kept'):
        assert words in line


def test_a_worker_that_dies_at_once_is_not_started_for_ever(
    tmp_path, toy_networks, capsys, monkeypatch
):
    """No step is done, nothing to save: status 1, of which launchers allow a few."""
    take = pipeline.TrainingBatches.__next__

    def take_from_the_dead(self):
        take(self)  # starts them
        for worker in children(os.getpid()):  # either may be the one that is waited for
            os.kill(worker, signal.SIGKILL)
        while True:  # what they had read ahead
            take(self)

    monkeypatch.setattr(pipeline.TrainingBatches, '__next__', take_from_the_dead)
    status, _, errors = run_here(capsys, 'scripts/train.py', *train(tmp_path / 'run')[1:])
    assert status == 1, errors
    (line,) = errors
    assert 'SIGKILL' in line
    assert 'there was no checkpoint yet' in line


READING = """
import sys
from support import make_tiny_config
from cfg_jax.data import pipeline
if __name__ == '__main__':
    data = make_tiny_config(data__num_workers=2).data
    batches = pipeline.TrainingBatches(data, batch_size=16, seed=0)
    next(batches)
    print('ready', flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize('killed', [True, False])
def test_workers_end_with_their_parent(tmp_path, killed):
    """Killed, or at its end with the batches still open."""
    (tmp_path / 'reading.py').write_text(READING)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / 'reading.py')],
        env=script_environment(PYTHONPATH=f'{ROOT}:{ROOT / "tests"}'),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().strip() == 'ready'
    workers = children(process.pid)
    assert len(workers) == WORKERS
    if killed:
        process.kill()
    process.communicate(timeout=20)
    assert wait_until(lambda: not any(map(running, workers)), 20)


def test_workers_end_with_close(tiny_config):
    tiny_config.data.num_workers = WORKERS
    batches = pipeline.TrainingBatches(tiny_config.data, batch_size=16, seed=0)
    next(batches)
    workers = children(os.getpid())
    assert len(workers) == WORKERS
    start_closing = time.monotonic()
    batches.close()
    assert time.monotonic() - start_closing < 10
    assert not any(map(running, workers))


def test_signals_reach_this_process_again(tiny_config):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    tiny_config.data.num_workers = 1
    batches = pipeline.TrainingBatches(tiny_config.data, batch_size=16, seed=0)
    next(batches)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    batches.close()


def test_an_evaluation_names_the_dead_worker_too(tmp_path):
    from support import make_tiny_config

    class_folder(tmp_path, {'a': 600})
    data = make_tiny_config(
        data__name=f'folder:{tmp_path}', data__num_classes=1, data__num_workers=1
    ).data
    epoch = pipeline.one_epoch(data, 'train', 2)
    next(epoch)
    os.kill(children(os.getpid())[0], signal.SIGBUS)
    with pytest.raises(WorkerDied, match=r'SIGBUS.*/dev/shm') as caught:
        list(epoch)
    assert not caught.value.saved
