"""The first SIGTERM asks, the second kills; what was there before comes back."""

import signal
import subprocess
import sys
import threading
import time

import pytest
from support import ROOT, script_environment

from cfg_jax.distributed.preemption import Preemption
from cfg_jax.errors import Interrupted, Preempted


def test_asked_after_a_signal():
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption:
        assert not preemption.asked()
        signal.raise_signal(signal.SIGTERM)
        assert preemption.asked()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # the second one kills
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture
def heeds_ctrl_c():
    """What a shell starts in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('heeds_ctrl_c')
def test_ctrl_c_asks_where_a_step_is_worth_finishing():
    before = signal.getsignal(signal.SIGINT)
    with Preemption(together=True) as preemption:
        signal.raise_signal(signal.SIGINT)
        assert preemption.asked(1)
        assert type(preemption.stopped('x')) is Interrupted
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before
    with Preemption(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_are_no_interruption(number):
    before = signal.getsignal(number)
    if before is signal.SIG_IGN:
        pytest.skip('the tests were started by nohup')
    with Preemption(together=True) as preemption:
        signal.raise_signal(number)
        assert preemption.asked(1)
        assert type(preemption.stopped('x')) is Preempted
    assert signal.getsignal(number) == before


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Preemption() as preemption:
            signal.raise_signal(signal.SIGHUP)
            assert not preemption.asked()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_do_not_listen():
    found = []

    def watch():
        with Preemption() as preemption:
            found.append(preemption.asked())

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert found == [False]


def test_a_request_sent_twice_is_one():
    """As `timeout` sends it: to the process, then to its group."""
    process = listening(
        '    while not p.asked(): time.sleep(0.001)\n'
        '    time.sleep(0.3)\n'
        '    print("saved", flush=True)\n'
    )
    for _ in range(2):
        process.terminate()
        time.sleep(0.1)
    assert process.communicate(timeout=30)[0].strip() == 'saved'
    assert process.returncode == 0


def test_repeats_do_not_put_off_the_end():
    """The half second is of the first signal; what comes later kills, however often it came."""
    process = listening('    for _ in range(600): time.sleep(0.1)\n')
    for _ in range(8):
        process.terminate()
        time.sleep(0.3)
    assert process.wait(timeout=10) == -signal.SIGTERM


def listening(lines):
    """A process that runs `lines` where `p` watches for signals, once it does."""
    program = (
        'import time; from cfg_jax.distributed.preemption import Preemption\n'
        'with Preemption() as p:\n'
        '    print("ready", flush=True)\n'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', program + lines],
        cwd=ROOT,
        env=script_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().strip() == 'ready'
    return process


def test_the_second_signal_kills():
    process = listening(
        '    while not p.asked(): time.sleep(0.01)\n'
        '    print("asked", flush=True)\n'
        '    time.sleep(60)\n'
    )
    process.terminate()
    assert process.stdout.readline().strip() == 'asked'
    process.terminate()
    start = time.monotonic()
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
    assert time.monotonic() - start < 10
