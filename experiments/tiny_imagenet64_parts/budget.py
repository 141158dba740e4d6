"""Training within minutes: on a machine that is lent for a while, to be continued later."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from cfg_jax.errors import Preempted
from cfg_jax.training import loop, workdirs

_AGAIN_SECONDS = 1.0


class Budget:
    """Minutes of training, all models of a command together; measuring takes nothing of them."""

    def __init__(self, minutes: float):
        self._left = 60.0 * minutes

    def seconds_left(self) -> float:
        """Never below 0."""
        return max(0.0, self._left)

    @contextlib.contextmanager
    def spent(self) -> Iterator[None]:
        """Takes off what passes inside."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._left -= time.monotonic() - begin


class _Alarm:
    """Asks training to stop, as a preempted machine would: with SIGTERM, when the time is up.

    So a stop is the loop's own, with everything saved after the step in flight, and a later call
    continues exactly. No step is timed beforehand and nothing is compiled twice.
    """

    def __init__(self, seconds: float):
        self.rang = False
        self._timer = threading.Timer(seconds, self._ring)
        self._before = None

    def __enter__(self) -> '_Alarm':
        # Where the loop does not listen yet, or no longer, SIGTERM must not end the process.
        self._before = signal.signal(signal.SIGTERM, self._outside_of_the_loop)
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        signal.signal(signal.SIGTERM, self._before)

    def _ring(self) -> None:
        self.rang = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _outside_of_the_loop(self, *_: object) -> None:
        if not self.rang:
            raise Preempted('stopped on request; what is finished is kept')
        self._timer = threading.Timer(_AGAIN_SECONDS, self._ring)
        self._timer.start()


def train(config: ConfigDict, workdir: epath.Path, budget: Budget) -> bool:
    """Trains, or continues, until `config.train.steps` or until the budget is spent.

    What is trained to its end needs no budget.

    Returns:
      Whether the training is complete.
    """
    if workdirs.is_trained(config, workdir):
        loop.train(config, workdir)  # which checks that it is this very training
        return True
    seconds = budget.seconds_left()
    if not seconds:
        logging.info('no minutes left to train %s', workdir)
        return False
    with budget.spent(), _Alarm(seconds) as alarm:
        try:
            loop.train(config, workdir)
        except Preempted as stop:
            if not alarm.rang:
                raise
            logging.info('the minutes are spent: %s; the same command trains on', stop)
            return False
    return True
