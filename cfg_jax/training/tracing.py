"""JAX's profiler over some steps of a training."""

import jax
from absl import logging
from etils import epath

from cfg_jax import files
from cfg_jax.distributed import multihost


class Trace:
    """A trace of the steps that were asked for, in WORKDIR/profile.

    A run that is resumed among them, or ends there, has a trace of its part; one that meets none
    of them says so.

    Args:
      steps: without any, and on other processes than 0, nothing is traced or said.
      workdir: of the run.
      first: the step that the run continues from.
    """

    def __init__(self, steps: range, workdir: epath.Path, first: int):
        if not multihost.is_process_zero():
            steps = range(0)
        self._steps = range(max(steps.start, first + 1), steps.stop)
        self._directory = workdir / 'profile'
        self._last = first
        self._tracing = False
        if steps and not self._steps:
            logging.info(
                f'no trace is written: this run continues after step {first}, beyond --profile'
            )

    def before(self, step: int) -> None:
        """To be called before every step."""
        if self._tracing and step == self._steps.stop:
            self._stop()
        elif self._steps and step == self._steps.start:
            jax.profiler.start_trace(str(self._directory))
            self._tracing = True
        self._last = step

    def close(self) -> None:
        """Writes the trace of a run that ends among the steps."""
        if self._tracing:
            self._stop()
        elif self._last < self._steps.start < self._steps.stop:
            logging.warning(
                f'no trace is written: the run ended after step {self._last}, before step'
                f' {self._steps.start}'
            )

    def _stop(self) -> None:
        self._tracing = False
        with files.warned_of('the trace'):
            jax.profiler.stop_trace()
            steps = f'{self._steps.start} to {self._last}'
            logging.info(f'a trace of steps {steps} is in {self._directory}')
