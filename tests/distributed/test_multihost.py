"""Two processes with two devices each against one with four: the same training, the same table."""

import contextlib
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from support import (
    ROOT,
    checkpoint_arrays,
    script_environment,
    toy_instead_of_networks,
    user_error,
)

from cfg_jax import files, loading
from cfg_jax.distributed import multihost
from cfg_jax.errors import Disconnected
from cfg_jax.training import starting, writers


def free_port():
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return found.getsockname()[1]


def start(workdir, count):
    """Starts `count` processes of two_processes.py on four devices in all."""
    coordinator = f'127.0.0.1:{free_port()}' if count > 1 else ''
    environment = script_environment(
        XLA_FLAGS=f'--xla_force_host_platform_device_count={4 // count}', JAX_PLATFORMS='cpu'
    )
    return [
        subprocess.Popen(
            [sys.executable, 'two_processes.py', coordinator, *numbers, workdir],
            cwd=ROOT / 'tests',
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for numbers in ([str(count), str(i)] if count > 1 else ['0', '-1'] for i in range(count))
    ]


def finish(running):
    """Output of each process; all must have ended well."""
    outputs = []
    for process in running:
        outputs.append(process.communicate(timeout=400))
    for process in running:
        assert process.returncode == 0, '\n'.join(errors[-2000:] for _, errors in outputs)
    return [stdout for stdout, _ in outputs]


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Work directories of one process and of two, with what the two said.

    Of a small network; CFG_JAX_SLOW=1 takes the U-Net, and kills and resumes the two on the way.
    """
    root = tmp_path_factory.mktemp('processes')
    finish(start(root / 'one', 1))
    if os.environ.get('CFG_JAX_SLOW'):
        killed = start(root / 'two', 2)
        for line in killed[0].stdout:
            if line.startswith('step 12'):  # the save of step 10 may be under way
                break
        for process in killed:
            process.kill()
            process.communicate()
    outputs = finish(start(root / 'two', 2))
    return root / 'one', root / 'two', outputs


def test_the_same_parameters(runs):
    one, two, _ = runs
    ours, theirs = checkpoint_arrays(two, 20), checkpoint_arrays(one, 20)
    assert ours.keys() == theirs.keys()
    start = checkpoint_arrays(one, 10)
    moved = 0.0
    for name, array in theirs.items():
        if 'params' in name:
            np.testing.assert_allclose(ours[name], array, rtol=0, atol=1e-5, err_msg=name)
            moved = max(moved, np.abs(array - start[name]).max())
    assert moved > 1e-3  # 1e-5 is small beside what ten steps do


def test_the_same_start_of_another_training(runs):
    one, two, _ = runs
    slow = os.environ.get('CFG_JAX_SLOW')
    with contextlib.nullcontext() if slow else toy_instead_of_networks():
        for run in (one, two):
            record = files.read_json(run / 'branch' / starting.RECORD)
            assert record['weights_sha256'] == loading.load_params(run)[2]['weights_sha256']
    before, ours, theirs = (
        checkpoint_arrays(run, step)
        for run, step in ((one, 20), (two / 'branch', 5), (one / 'branch', 5))
    )
    for name, array in theirs.items():
        if 'params' in name:
            np.testing.assert_allclose(ours[name], array, rtol=0, atol=2e-5, err_msg=name)
        # Five steps of warm-up move little: these are the weights of before, not random ones.
        if name.startswith(("['params']", "['ema_params']")):
            average = before["['ema_params']" + name.partition(']')[2]]
            np.testing.assert_allclose(array, average, rtol=0, atol=0.02, err_msg=name)


def test_the_same_losses_in_the_same_order(runs):
    one, two, _ = runs
    ours, theirs = writers.read_metrics(two), writers.read_metrics(one)
    assert [row['step'] for row in ours] == [row['step'] for row in theirs]
    np.testing.assert_allclose(
        [row['loss'] for row in ours], [row['loss'] for row in theirs], rtol=1e-5
    )


def test_the_same_table_within_rounding(runs):
    one, two, _ = runs
    ours, theirs = (
        json.loads((run / 'sweep' / 'tiny' / 'results.json').read_text()) for run in (two, one)
    )
    assert ours['device']['count'] == theirs['device']['count'] == 4
    for row, expected in zip(ours['rows'], theirs['rows'], strict=True):
        for key in ('fid', 'is', 'class_agreement'):
            assert row[key] == pytest.approx(expected[key], rel=2e-2), key
    for path in (one / 'sweep' / 'tiny' / 'shards').iterdir():
        a, b = files.read_npz(path), files.read_npz(two / 'sweep' / 'tiny' / 'shards' / path.name)
        np.testing.assert_array_equal(a['condition'], b['condition'])


def test_only_the_first_talks(runs):
    first, second = runs[2]
    assert ('resuming from step' in first) == bool(os.environ.get('CFG_JAX_SLOW'))
    assert 'in 2 processes' in first
    assert not [line for line in second.splitlines() if line.startswith(('step', 'w='))]


def test_one_process_needs_no_start(monkeypatch):
    for name in (*multihost._SLURM, 'OMPI_MCA_orte_hnp_uri'):
        monkeypatch.delenv(name, raising=False)
    multihost.start()
    assert multihost.is_process_zero()
    multihost.barrier('anything')
    assert multihost.all_agree('anything', True)
    assert not multihost.all_agree('anything', False)
    assert multihost.run_on_process_zero('anything', lambda: 7) == 7


@pytest.mark.parametrize(
    'arguments',
    [
        ('host:1', 2, 2),
        ('host', 2, 0),
        ('host:abc', 2, 0),
        ('host:99999', 2, 0),
        (':1', 2, 0),
        ('', 2, 0),
        ('host:1', 0, 0),
        ('host:1', 2, -1),
    ],
)
def test_half_an_explicit_start(arguments):
    message = user_error(multihost.start, *arguments)
    assert '--coordinator=HOST:PORT, --num_processes=N and --process_id=I' in message


class Store:
    """A stand-in for the key-value store of JAX's distributed runtime."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value):
        assert key not in self.values
        self.values[key] = value

    def blocking_key_value_get(self, key, milliseconds):
        if key not in self.values:
            import jax

            raise jax.errors.JaxRuntimeError(f'DEADLINE_EXCEEDED: {key}')
        return self.values[key]


@pytest.fixture
def three(monkeypatch):
    """Makes this the second of three processes; returns the store they speak through."""
    store = Store()
    monkeypatch.setattr(multihost, '_client', lambda: store)
    monkeypatch.setattr(multihost.jax, 'process_count', lambda: 3)
    monkeypatch.setattr(multihost.jax, 'process_index', lambda: 1)
    monkeypatch.setattr(multihost, '_barriers', {})
    return store


def test_a_barrier_names_who_is_missing(three):
    three.values['cfg_jax/here/1/0'] = ''
    with pytest.raises(Disconnected, match="at 'here' for process 2 of 3"):
        multihost.barrier('here', 0.01)
    three.values |= {'cfg_jax/here/2/0': '', 'cfg_jax/here/2/2': ''}
    multihost.barrier('here')  # the second barrier of that name


def test_agreement_takes_all(three):
    three.values |= {'cfg_jax/a/1/0': '1', 'cfg_jax/a/1/2': '0'}
    assert not multihost.all_agree('a', True)
    three.values |= {'cfg_jax/a/2/0': '1', 'cfg_jax/a/2/2': '1'}
    assert multihost.all_agree('a', True)


def test_a_mistake_that_the_first_finds_is_everyones(three):
    three.values |= {'cfg_jax/work/1/0': 'no such directory', 'cfg_jax/work/2/0': ''}
    assert user_error(multihost.run_on_process_zero, 'work', None) == 'no such directory'
    assert multihost.run_on_process_zero('work', None) is None


def test_what_jax_finds_under_slurm(monkeypatch):
    """The second of four processes, on the first of two nodes."""
    values = dict.fromkeys(multihost._SLURM, '1')
    values |= {'SLURM_JOB_ID': '7', 'SLURM_STEP_NODELIST': 'node[3-4]', 'SLURM_NTASKS': '4'}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    address, count, process, devices = multihost._found_by_jax()
    assert address.rpartition(':')[0] == 'node3'
    assert multihost._is_address(address)
    assert (count, process, list(devices)) == (4, 1, [1])


def test_recognises_clusters(monkeypatch):
    for name in multihost._SLURM:
        monkeypatch.setenv(name, '2')
    assert multihost._in_cluster()
    monkeypatch.setenv('SLURM_NTASKS', '1')
    assert not multihost._in_cluster()
    monkeypatch.delenv('SLURM_PROCID')  # a batch script, not srun
    monkeypatch.setenv('OMPI_MCA_orte_hnp_uri', 'uri')
    monkeypatch.setenv('OMPI_COMM_WORLD_SIZE', '4')
    assert multihost._in_cluster()
