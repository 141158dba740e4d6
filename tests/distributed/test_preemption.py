"""The first SIGTERM asks, the second kills; what was there before comes back."""

import os
import signal
import subprocess
import sys
import threading
import time

from support import ROOT, script_environment

from cfg_jax.distributed.preemption import Preemption


def test_asked_after_a_signal():
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption:
        assert not preemption.asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.asked()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # the second one kills
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_threads_do_not_listen():
    found = []

    def watch():
        with Preemption() as preemption:
            found.append(preemption.asked())

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert found == [False]


def test_the_second_signal_kills():
    program = (
        'import time; from cfg_jax.distributed.preemption import Preemption\n'
        'with Preemption() as p:\n'
        '    print("ready", flush=True)\n'
        '    while not p.asked(): time.sleep(0.01)\n'
        '    print("asked", flush=True)\n'
        '    time.sleep(60)\n'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', program],
        cwd=ROOT,
        env=script_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    for word in ('ready', 'asked'):
        assert process.stdout.readline().strip() == word
        process.terminate()
    start = time.monotonic()
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
    assert time.monotonic() - start < 10
