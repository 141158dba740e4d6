"""A wait that lasts is told of while it lasts; a short one is not."""

import time

from cfg_jax.training.watchdog import Heartbeat


def test_long_waits_are_told_again_and_again():
    lines = []
    heartbeat = Heartbeat(lines.append, patience=0.2)
    with heartbeat.waiting('a batch'):
        deadline = time.monotonic() + 10
        while len(lines) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
    heartbeat.close()
    assert len(lines) >= 2
    assert all(line.startswith('still waiting for a batch, ') for line in lines)


def test_short_waits_and_pauses_are_not():
    lines = []
    heartbeat = Heartbeat(lines.append, patience=1.0)
    for _ in range(20):
        with heartbeat.waiting('a batch'):
            time.sleep(0.01)
    time.sleep(1.5)  # nobody waits
    heartbeat.close()
    assert lines == []
