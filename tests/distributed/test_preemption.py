"""The first SIGTERM asks, the second kills; what was there before comes back."""

import ctypes
import signal
import subprocess
import sys
import threading
import time

import pytest
from support import ROOT, script_environment

from cfg_jax.distributed import multihost, preemption as preemption_lib
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


@pytest.mark.parametrize('together', [False, True])
def test_a_handler_of_c_code_comes_back(together):
    """As JAX's of SIGTERM is, which `signal.getsignal` calls SIG_DFL."""
    before = ctypes.pythonapi.PyOS_getsig(signal.SIGTERM)
    handler = ctypes.cast(ctypes.CDLL(None).abs, ctypes.c_void_p).value  # takes a number
    ctypes.pythonapi.PyOS_setsig(signal.SIGTERM, handler)
    try:
        with Preemption(together):
            assert ctypes.pythonapi.PyOS_getsig(signal.SIGTERM) != handler
        assert ctypes.pythonapi.PyOS_getsig(signal.SIGTERM) == handler
    finally:
        ctypes.pythonapi.PyOS_setsig(signal.SIGTERM, before)


class Service:
    """JAX's of a run: yes at the number after that at which it was last asked, once requested."""

    def __init__(self):
        self._last, self._at = 0, None

    def reached(self, number):
        self._last = number
        return number == self._at

    def request(self):
        self._at = self._last + 1 if self._at is None else self._at


@pytest.fixture
def service(monkeypatch):
    """Makes this one of many processes that work in step."""
    service, utils = Service(), preemption_lib.multihost_utils
    monkeypatch.setattr(preemption_lib.jax.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(utils, 'reached_preemption_sync_point', service.reached)
    monkeypatch.setattr(Preemption, '_number', 0)
    return service


@pytest.mark.parametrize('steps_before', [0, 2000])
@pytest.mark.parametrize('first', [0, 5000])
def test_what_comes_before_the_first_step_is_not_forgotten(service, steps_before, first):
    """Of a run that is resumed, or after another training of this process."""
    with Preemption(together=True) as preemption:
        for step in range(1, steps_before + 1):
            assert not preemption.asked(step)
        service.request()
        assert preemption.asked_between_steps()
        assert type(preemption.stopped('x')) is Preempted


def test_what_comes_later_is_found_at_the_next_step_or_at_the_end(service):
    with Preemption(together=True) as preemption:
        assert not preemption.asked_between_steps()
        assert not preemption.asked(5000)
        service.request()
        assert preemption.asked(5001)
    service.__init__()
    with Preemption(together=True) as preemption:
        assert not preemption.asked(5000)
        service.request()  # while the picture of the last step is drawn
        assert preemption.asked_between_steps()


def test_what_comes_while_processes_wait_for_each_other_is_found(service, monkeypatch):
    """Some have asked by then, and some have not."""

    def agree(name, agreed):
        service.request()
        return agreed

    monkeypatch.setattr(multihost, 'all_agree', agree)
    with Preemption(together=True) as preemption:
        assert preemption.asked_between_steps()


def test_all_stop_where_one_was_asked(service, monkeypatch):
    monkeypatch.setattr(multihost, 'all_agree', lambda name, agreed: False)
    with Preemption(together=True) as preemption:
        assert preemption.asked_between_steps()


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
