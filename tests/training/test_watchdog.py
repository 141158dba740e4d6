"""A wait that lasts is told of while it lasts; a short one is not."""

import time

from support import logged

from cfg_jax.training.watchdog import StallWatchdog


def test_long_waits_are_told_again_and_again():
    watchdog = StallWatchdog(patience=0.2)
    with logged() as lines, watchdog.waiting('a batch'):
        deadline = time.monotonic() + 10
        while len(lines) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
    watchdog.close()
    assert len(lines) >= 2
    assert all(line.startswith('warning: still waiting for a batch, ') for line in lines)


def test_short_waits_and_pauses_are_not():
    watchdog = StallWatchdog(patience=1.0)
    with logged() as lines:
        for _ in range(20):
            with watchdog.waiting('a batch'):
                time.sleep(0.01)
        time.sleep(1.5)  # nobody waits
    watchdog.close()
    assert lines == []
