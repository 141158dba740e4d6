"""The loop: asked to stop, out of room, without its lock or a checkpoint; and what it traces."""

import contextlib
import errno
import json
import os
import shutil
import signal
import time
from unittest import mock

import pytest
from support import (
    checkpoint_hash,
    checkpoint_steps,
    logged,
    make_tiny_config,
    user_error,
)
from toy_runs import copy_at_step_3, metric_rows

from cfg_jax import config as config_lib, files, locks
from cfg_jax.data import pipeline
from cfg_jax.distributed import preemption as preemption_lib
from cfg_jax.distributed.preemption import Preemption
from cfg_jax.errors import Interrupted, Preempted
from cfg_jax.training import (
    checkpoints,
    loop,
)


def signal_after(monkeypatch, batch, number, times=1):
    """Sends this process a signal when batch number `batch` is taken."""
    take = pipeline.TrainingBatches.__next__

    def take_and_signal(self):
        if self.get_state()['next_batch'] == batch - 1:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return take(self)

    monkeypatch.setattr(pipeline.TrainingBatches, '__next__', take_and_signal)


@pytest.mark.parametrize(
    ('number', 'stop'), [(signal.SIGTERM, Preempted), (signal.SIGINT, Interrupted)]
)
def test_a_signal_finishes_the_step_saves_and_says_so(
    toy_run, toy_networks, tmp_path, monkeypatch, number, stop
):
    """SIGTERM, and Ctrl-C."""
    workdir = tmp_path / 'run'
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        signal_after(patch, 4, number)
        with pytest.raises(stop, match='stopped after step 4 on request; it is saved'):
            loop.train(make_tiny_config(), workdir)
    assert signal.getsignal(number) == before
    assert checkpoint_steps(workdir) == [3, 4]
    loop.train(make_tiny_config(), workdir)
    assert checkpoint_hash(workdir, 6) == checkpoint_hash(toy_run, 6)


@pytest.fixture
def at_once(monkeypatch):
    """No signal is waited for that belongs to the one before."""
    monkeypatch.setattr(preemption_lib, '_SAME_REQUEST_SECONDS', 0.0)


@pytest.fixture
def stub_loop(at_once, monkeypatch):
    """config, Preemption -> a loop without a network, whose steps and pictures do nothing."""
    monkeypatch.setattr(loop, 'make_train_step', lambda config: None)
    monkeypatch.setattr(loop, 'devices', mock.MagicMock())
    monkeypatch.setattr(loop, 'Pictures', mock.MagicMock())

    def make(config, preemption):
        saved, batches = mock.MagicMock(), mock.MagicMock()
        saved.save.return_value = saved.wait.return_value = None
        saved.latest_step.return_value = config.train.steps
        batches.get_state.return_value, batches.bad_examples.return_value = {}, 0
        others = mock.MagicMock(), preemption, mock.MagicMock(), mock.MagicMock()
        made = loop._Loop(config, None, None, batches, saved, *others)
        monkeypatch.setattr(made, '_step', lambda *_, **__: (mock.MagicMock(), {}))
        return made

    return make


@pytest.mark.parametrize(
    ('number', 'stop'), [(signal.SIGTERM, Preempted), (signal.SIGINT, Interrupted)]
)
@pytest.mark.parametrize('asked', ['batch', 'picture'])
def test_a_signal_in_the_last_step_stops_what_would_follow(
    stub_loop, monkeypatch, number, stop, asked
):
    """Such as a sweep, whose handlers know nothing of it."""
    config = make_tiny_config()
    with Preemption(together=True) as preemption:
        made = stub_loop(config, preemption)
        call = loop.Pictures.return_value.draw if asked == 'picture' else made._batches.__next__
        call.side_effect = lambda *_: signal.raise_signal(number)
        with pytest.raises(stop, match='stopped after step 6 on request; it is saved'):
            made.run(None, 5)


def test_a_signal_before_the_first_step_stops_before_it(stub_loop):
    with Preemption(together=True) as preemption:
        signal.raise_signal(signal.SIGTERM)
        made = stub_loop(make_tiny_config(), preemption)
        words = 'stopped before step 4 on request; the checkpoint of step 6 is kept'
        with pytest.raises(Preempted, match=words):
            made.run(None, 3)
        made._batches.__next__.assert_not_called()


def test_a_signal_while_a_finished_run_is_opened_counts(toy_run, at_once, monkeypatch):
    def opened(*_):
        signal.raise_signal(signal.SIGTERM)
        return 6, None

    monkeypatch.setattr(loop, '_newest_state', opened)
    with pytest.raises(Preempted, match='stopped after step 6 on request; it is saved'):
        loop.train(make_tiny_config(), toy_run)


@pytest.mark.parametrize(
    ('batch', 'words'),
    [(5, 'the checkpoint of step 3 is kept'), (2, 'there was no checkpoint yet')],
)
def test_ctrl_c_twice_stops_at_once(toy_networks, tmp_path, monkeypatch, batch, words):
    signal_after(monkeypatch, batch, signal.SIGINT, times=2)
    with pytest.raises(Interrupted, match=f'stopped at once; {words}'):
        loop.train(make_tiny_config(), tmp_path / 'run')


def test_steps_at_which_nothing_is_learnt_are_refused(tmp_path):
    """But what was trained so before opens."""
    config, run = make_tiny_config(train__anneal_steps=4), tmp_path / 'run'
    with contextlib.ExitStack() as stack:
        message = user_error(loop._claim, config, run, stack, unless_trained=True)
        assert '--config.train.anneal_steps=6' in message
        assert not run.exists()
        (run / 'checkpoints' / '6').mkdir(parents=True)
        files.write_json(run / 'config.json', config_lib.to_json(config))
        assert loop._claim(config, run, stack, unless_trained=True) is None


def test_a_failed_last_save_says_what_is_kept(toy_networks, tmp_path, monkeypatch):
    save = checkpoints.Checkpoints.save

    def fail_at_4(self, step, state, data_state):
        if step == 4:
            return 'the checkpoint of step 4 could not be saved (No space left on device)'
        return save(self, step, state, data_state)

    monkeypatch.setattr(checkpoints.Checkpoints, 'save', fail_at_4)
    signal_after(monkeypatch, 4, signal.SIGTERM)
    with pytest.raises(
        Preempted, match=r'step 4 could not be .*; the checkpoint of step 3 is kept'
    ):
        loop.train(make_tiny_config(), tmp_path / 'run')


def test_a_second_training_is_refused(toy_run, tmp_path):
    workdir = shutil.copytree(toy_run, tmp_path / 'run')
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob('*') if path.is_file()}
    with locks.hold(workdir / '.training', f'{workdir} is being trained'):
        message = user_error(loop.train, make_tiny_config(train__steps=9), workdir)
    assert f'{workdir} is being trained by process {os.getpid()} on ' in message
    after = {path: path.stat().st_mtime_ns for path in workdir.rglob('*') if path.is_file()}
    assert after == before  # the lock is gone, and nothing else was touched


def test_a_training_whose_directory_was_taken_over_writes_nothing_more(
    toy_networks, tmp_path, monkeypatch
):
    """It stood still for longer than others wait, at the fourth batch."""
    lock, now = tmp_path / 'run' / '.training', time.time
    take = pipeline.TrainingBatches.__next__

    def stand_still(self):
        if self.get_state()['next_batch'] == 3:
            lock.write_text(json.dumps(json.loads(lock.read_text()) | {'machine': 'other'}))
            monkeypatch.setattr(locks.time, 'time', lambda: now() + 100.0)
        return take(self)

    monkeypatch.setattr(pipeline.TrainingBatches, '__next__', stand_still)
    message = user_error(loop.train, make_tiny_config(), tmp_path / 'run')
    assert 'which took over while this process stood still' in message
    assert checkpoint_steps(tmp_path / 'run') == [3]
    assert [row['step'] for row in metric_rows(tmp_path / 'run')] == [2, 3]
    assert json.loads(lock.read_text())['machine'] == 'other'


def test_nothing_is_left_of_the_lock(toy_run):
    assert not (toy_run / '.training').exists()


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(toy_run, toy_networks, tmp_path):
    workdir = tmp_path / 'run'
    shutil.copytree(toy_run, workdir)
    arrays = (workdir / 'checkpoints' / '6' / 'state' / 'd').iterdir()
    largest = max(arrays, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    with logged() as lines:
        loop.train(make_tiny_config(), workdir)
    assert f'set aside as {workdir}/damaged_checkpoints/6' in lines[0]
    assert 'resuming from step 3' in lines[1]
    assert checkpoint_hash(workdir, 6) == checkpoint_hash(toy_run, 6)


def test_a_full_disk_does_not_end_training_that_can_still_be_saved(
    toy_run, toy_networks, tmp_path, monkeypatch
):
    """The save of step 3 fails, that of step 6 does not."""
    save = checkpoints.Checkpoints.save

    def fail_once(self, step, state, data_state):
        if step == 3:
            return 'the checkpoint of step 3 could not be saved (No space left on device)'
        return save(self, step, state, data_state)

    monkeypatch.setattr(checkpoints.Checkpoints, 'save', fail_once)
    with logged() as lines:
        loop.train(make_tiny_config(), tmp_path / 'run')
    assert [line for line in lines if line.startswith('warning: the checkpoint of step 3')]
    assert checkpoint_hash(tmp_path / 'run', 6) == checkpoint_hash(toy_run, 6)


def test_a_picture_that_finds_no_room_costs_a_warning(toy_run, toy_networks, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('cfg_jax.data.images.save_png', lambda *_, **__: full())
    with logged() as lines:
        loop.train(make_tiny_config(train__sample_every=3), tmp_path / 'run')
    assert [line for line in lines if line.startswith('warning: ')] == [
        f'warning: the pictures of step {step} could not be written (No space left on device);'
        ' training continues'
        for step in (3, 6)
    ]
    assert checkpoint_hash(tmp_path / 'run', 6) == checkpoint_hash(toy_run, 6)


def fail_to_save(monkeypatch, bad_step, later=False):
    """Orbax finds no room for one step: when it starts saving, or `later` while it does."""
    manager = checkpoints.ocp.CheckpointManager
    save, wait = manager.save, manager.wait_until_finished
    failing = []

    def full():
        raise OSError(errno.ENOSPC, 'No space left on device')

    def save_or_fail(self, step, **options):
        if step == bad_step and not later:
            full()
        saved = save(self, step, **options)
        failing.extend([step] if step == bad_step else [])  # not before: it waits itself
        return saved

    def wait_or_fail(self):
        wait(self)
        if failing:
            failing.clear()
            full()

    monkeypatch.setattr(manager, 'save', save_or_fail)
    monkeypatch.setattr(manager, 'wait_until_finished', wait_or_fail)


def test_a_last_save_that_does_not_even_begin_is_no_success(
    toy_run, toy_networks, tmp_path, monkeypatch
):
    workdir = tmp_path / 'run'
    with monkeypatch.context() as patch:
        fail_to_save(patch, 6)
        message = user_error(loop.train, make_tiny_config(), workdir)
    assert message == (
        'the checkpoint of step 6 could not be saved (No space left on device); the checkpoint of'
        ' step 3 is kept; make room and run the same command again'
    )
    loop.train(make_tiny_config(), workdir)
    assert checkpoint_hash(workdir, 6) == checkpoint_hash(toy_run, 6)


def test_an_earlier_save_that_failed_is_no_failure_of_the_last(toy_networks, tmp_path, monkeypatch):
    fail_to_save(monkeypatch, 3, later=True)
    with logged() as lines:
        loop.train(make_tiny_config(), tmp_path / 'run')
    assert [line for line in lines if line.startswith('warning: the checkpoint of step 3')]
    assert 6 in checkpoint_steps(tmp_path / 'run')


def test_a_stop_on_request_says_of_its_own_step_whether_it_is_saved(
    toy_networks, tmp_path, monkeypatch
):
    fail_to_save(monkeypatch, 3, later=True)
    signal_after(monkeypatch, 4, signal.SIGTERM)
    with pytest.raises(Preempted, match='stopped after step 4 on request; it is saved'):
        loop.train(make_tiny_config(), tmp_path / 'run')


@pytest.mark.parametrize('first', [0, 3])
def test_every_step_of_keep_period_is_kept(toy_run, toy_networks, tmp_path, first):
    """Also where `checkpoint_every` would pass it by."""
    workdir = copy_at_step_3(toy_run, tmp_path / 'run') if first else tmp_path / 'run'
    config = make_tiny_config(train__keep_period=2, train__keep_checkpoints=1)
    loop.train(config, workdir)
    assert checkpoint_steps(workdir) == ([4, 6] if first else [2, 4, 6])


def test_other_topologies_are_told(toy_run, toy_networks, tmp_path):
    workdir = copy_at_step_3(toy_run, tmp_path / 'run')
    path = workdir / 'checkpoints' / '3' / 'data' / 'metadata'
    state = json.loads(path.read_text())
    assert (state['devices'], state['processes']) == (1, 1)
    path.write_text(json.dumps(state | {'devices': 8, 'processes': 2}))
    with logged() as lines:
        loop.train(make_tiny_config(), workdir)
    assert 'comes from 8 devices in 2 processes, this run has 1 in 1' in lines[0]


def traces(workdir):
    return list((workdir / 'profile').rglob('*.xplane.pb'))


def test_profile_and_parameters(toy_networks, tmp_path):
    workdir = tmp_path / 'run'
    with logged() as lines:
        loop.train(make_tiny_config(), workdir, profile=range(3, 5))
    assert len(traces(workdir)) == 1
    assert f'a trace of steps 3 to 4 is in {workdir}/profile' in lines
    overview = (workdir / 'parameters.txt').read_text()
    assert 'params/label/embedding' in overview


@pytest.mark.parametrize(
    ('steps', 'line'),
    [
        (range(3, 6), 'a trace of steps 4 to 5 is in {}/profile'),
        (range(5, 9), 'a trace of steps 5 to 6 is in {}/profile'),
        (range(1, 4), 'no trace is written: this run continues after step 3, beyond --profile'),
        (range(7, 9), 'warning: no trace is written: the run ended after step 6, before step 7'),
    ],
)
def test_a_profile_that_the_run_meets_in_part_or_not(toy_run, toy_networks, tmp_path, steps, line):
    """The run continues from step 3 and ends with step 6."""
    workdir = copy_at_step_3(toy_run, tmp_path / 'run')
    with logged() as lines:
        loop.train(make_tiny_config(), workdir, profile=steps)
    assert [text for text in lines if ' trace ' in text] == [line.format(workdir)]
    assert len(traces(workdir)) == ('a trace' in line)
    assert checkpoint_hash(workdir, 6) == checkpoint_hash(toy_run, 6)


def test_a_run_that_is_stopped_writes_the_trace_so_far(toy_networks, tmp_path, monkeypatch):
    signal_after(monkeypatch, 4, signal.SIGTERM)
    with logged() as lines, pytest.raises(Preempted):
        loop.train(make_tiny_config(), tmp_path / 'run', profile=range(3, 6))
    assert f'a trace of steps 3 to 4 is in {tmp_path}/run/profile' in lines
    assert len(traces(tmp_path / 'run')) == 1
