"""Two machines, which are network namespaces: the same bits as one, and an end within seconds.

CFG_JAX_SLOW=1 adds a link that is cut for 10 s and for good, with the limits that users have, each
of the two processes killed, and SIGTERM.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from hosts import ADDRESSES, hosts as hosts
from support import ROOT, checkpoint_hash, checkpoint_steps, script_environment, tiny_arguments

LAST = 180
EVERY = 30
CHANGES = {
    'model__attention_resolutions': (),
    'train__steps': LAST,
    'train__log_every': 10,
    'train__checkpoint_every': EVERY,
    'train__sample_every': LAST,
}
# The same convolutions with one device and with two, where the library's choice differs.
KERNELS = '--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION'
LOST = 'start all of them again: the same command continues'
slow = pytest.mark.skipif(not os.environ.get('CFG_JAX_SLOW'), reason='CFG_JAX_SLOW=1 runs it')


def start(workdir, before, devices, *arguments):
    """Starts one process of a training; `before` are the words before its command."""
    flags = f'--xla_force_host_platform_device_count={devices} {KERNELS}'
    command = ['distributed/train_toy.py', '--config=../configs/digits.py', f'--workdir={workdir}']
    return subprocess.Popen(
        [*before, sys.executable, *command, *tiny_arguments(**CHANGES), *arguments],
        cwd=ROOT / 'tests',
        env=script_environment(XLA_FLAGS=flags, PYTHONPATH=str(ROOT / 'tests')),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_both(hosts, workdir, *arguments):
    """The two processes of one training, with a device each."""
    pair = [f'--coordinator={ADDRESSES[0]}:4321', '--num_processes=2', *arguments]
    return [start(workdir, hosts.run(i), 1, *pair, f'--process_id={i}') for i in range(2)]


def read_until(process, step):
    """Waits for a line of this step or a later one."""
    for line in process.stdout:
        if line.startswith('step') and int(line.split()[1].partition('/')[0]) >= step:
            return
    pytest.fail(process.stderr.read())


def ended(process, since, seconds):
    """(status, the lines of standard error) of a process that ends in so many seconds."""
    _, stderr = process.communicate(timeout=400)
    assert time.monotonic() - since < seconds
    return process.returncode, stderr.splitlines()


def finish(*processes):
    for process in processes:
        _, stderr = process.communicate(timeout=400)
        assert process.returncode == 0, stderr


@pytest.fixture(scope='module')
def expected(tmp_path_factory):
    """Hash of the last checkpoint of one process with two devices."""
    workdir = tmp_path_factory.mktemp('one')
    finish(start(workdir, [], 2))
    return checkpoint_hash(workdir, LAST)


def test_killed_cut_for_a_moment_and_still_the_same_bits(hosts, tmp_path, expected):
    first, second = start_both(hosts, tmp_path)
    read_until(first, EVERY)
    wait_for_a_checkpoint(tmp_path)
    second.kill()
    moment = time.monotonic()
    reason = 'lost process 1 of 2 (its connection closed)'
    assert ended(first, moment, 10) == (1, [f'error: {reason}; {LOST}'])
    second.communicate()
    assert EVERY <= checkpoint_steps(tmp_path)[-1] < LAST

    both = start_both(hosts, tmp_path, '--lost_after=8')
    read_until(both[0], 2 * EVERY)
    hosts.unplug()
    time.sleep(2)
    hosts.plug_in()
    finish(*both)
    assert checkpoint_hash(tmp_path, LAST) == expected


@slow
def test_every_kind_of_loss(hosts, tmp_path, expected):
    for victim in (0, 1):
        both = start_both(hosts, tmp_path)
        read_until(both[0], checkpoint_steps_or_none(tmp_path) + 10)
        both[victim].kill()
        status, lines = ended(both[1 - victim], time.monotonic(), 10)
        assert status == 1
        assert lines == [f'error: lost process {victim} of 2 (its connection closed); {LOST}']
        both[victim].communicate()

    both = start_both(hosts, tmp_path)
    read_until(both[0], checkpoint_steps_or_none(tmp_path) + 10)
    hosts.unplug()
    moment = time.monotonic()
    for other, process in zip((1, 0), both, strict=True):
        status, lines = ended(process, moment, 30)
        assert status == 1
        assert lines == [f'error: lost process {other} of 2 (no sign of it for 20 s); {LOST}']
    hosts.plug_in()

    both = start_both(hosts, tmp_path)
    read_until(both[0], checkpoint_steps_or_none(tmp_path) + 10)
    both[1].send_signal(signal.SIGTERM)
    moment = time.monotonic()
    ends = [ended(process, moment, 30) for process in both]
    assert [status for status, _ in ends] == [75, 75]
    step = checkpoint_steps(tmp_path)[-1]
    assert all(f'stopped after step {step} on request' in lines[-1] for _, lines in ends)

    both = start_both(hosts, tmp_path)
    read_until(both[0], step + 1)
    hosts.unplug()
    time.sleep(10)
    hosts.plug_in()
    finish(*both)
    assert checkpoint_hash(tmp_path, LAST) == expected


def wait_for_a_checkpoint(workdir):
    """Steps go on while one is written: a fast machine makes many of them."""
    end = time.monotonic() + 60
    while not checkpoint_steps_or_none(workdir):
        assert time.monotonic() < end, 'no checkpoint within a minute'
        time.sleep(0.01)


def checkpoint_steps_or_none(workdir):
    """The newest step; 0 where there is none."""
    with contextlib.suppress(FileNotFoundError):
        return max(checkpoint_steps(workdir), default=0)
    return 0
