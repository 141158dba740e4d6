"""What training reports: means of steps to metrics.jsonl and the terminal; when to stop."""

import collections
import itertools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from cfg_jax import progress
from cfg_jax.distributed import devices
from cfg_jax.errors import UserError
from cfg_jax.training import writers
from cfg_jax.training.step import logsnr_bin_edges

_NORMS = ('grad_norm', 'param_norm', 'update_norm', 'learning_rate')
_SPIKE = 5.0  # times the median of the recent gradient norms
_RECENT = 200  # steps

Row = dict[str, np.ndarray]


class TrainLog:
    """Collects the metrics of steps, which stay on the devices until they are asked for.

    Args:
      config: of the run.
      writer: takes the rows; None where another process writes.
      first: the step that the run continues from.
      examples_of: step -> names of the examples of its batch, for a report of what went wrong.
    """

    def __init__(
        self,
        config: ConfigDict,
        writer: writers.MetricWriter | None,
        first: int,
        examples_of: Callable[[int], str],
    ):
        self._config = config
        self._writer = writer
        self._examples_of = examples_of
        # The lines of `flush` take the place of the bar where there is no terminal.
        self._bar = progress.bar(config.train.steps, 'steps', done=first, lines=False)
        self._last_step, self._last_time = first, time.monotonic()
        self._compiled = math.nan  # when the first step, which compiles, was done
        self._pending: list[Any] = []
        self._norms: collections.deque[float] = collections.deque(maxlen=_RECENT)
        self._skipped = 0

    def add(self, metrics: Any) -> None:
        """Takes a step's metrics; blocks until all but the last few steps are done."""
        self._pending.append(metrics)
        devices.wait_for_all_but_a_few(self._pending)
        if math.isnan(self._compiled):
            self._compiled = time.monotonic()
        self._bar.update()

    def close(self) -> None:
        """Ends the progress bar."""
        self._bar.close()

    def flush(self, step: int, extra: dict[str, float], kept: Callable[[], str]) -> None:
        """Writes the means since the last call, if there were steps.

        Args:
          step: the last one that was added.
          extra: values of this moment.
          kept: says in a clause what is safe if the run ends here.

        Raises:
          UserError: more updates were skipped, for a loss or gradient that is not finite, than
            `train.max_skipped` allows.
        """
        if not self._pending:
            return
        rows = [devices.first_replica(metrics) for metrics in self._pending]
        self._pending = []
        good = [row for row in rows if row['applied']]
        self._stop_if_diverged(step - len(rows) + 1, rows, kept)
        values = {} if not good else self._means(good)
        values |= {'updates_skipped': self._skipped, 'grad_norm_spikes': self._spikes(good)}
        steps_per_second = self._rate(step)
        rate = steps_per_second * self._config.train.batch_size
        values |= {'images_per_second': rate, 'images_seen': step * self._config.train.batch_size}
        if self._writer is not None:
            self._writer.write(step, values | extra)
        means = [name for name in ('loss', 'accuracy') if name in values]
        left = (self._config.train.steps - step) / steps_per_second
        logging.info(
            f'step {step}/{self._config.train.steps}'
            + ''.join(f'  {name} {values[name]:.4f}' for name in means)
            + f'  {rate:,.0f} images/s  {progress.format_seconds(left)} left',
        )

    def _rate(self, step: int) -> float:
        """Steps per second since the last call; the first step, which compiles, does not count
        where others followed."""
        now = time.monotonic()
        if self._last_time < self._compiled and step - self._last_step > 1:
            self._last_step, self._last_time = self._last_step + 1, self._compiled
        rate = (step - self._last_step) / max(now - self._last_time, 1e-9)
        self._last_step, self._last_time = step, now
        return rate

    def _means(self, rows: list[Row]) -> dict[str, float]:
        binned = ['loss', *(name for name in ('accuracy',) if name in rows[0])]
        values = {name: float(np.mean([row[name] for row in rows])) for name in (*binned, *_NORMS)}
        for name in binned:
            values |= self._per_bin(name, rows)
        return values

    def _per_bin(self, name: str, rows: list[Row]) -> dict[str, float]:
        """The mean of the loss or the accuracy over each bin of log-SNR."""
        total = np.sum([row[f'bin_{name}'] for row in rows], axis=0)
        count = np.sum([row['bin_count'] for row in rows], axis=0)
        return {
            f'{name}_logsnr_{self._bin(i)}': float(total[i] / count[i])
            for i in range(len(count))
            if count[i]
        }

    def _bin(self, number: int) -> str:
        low, high = list(itertools.pairwise(logsnr_bin_edges(self._config)))[number]
        return f'{low:+.1f}_{high:+.1f}'

    def _spikes(self, rows: list[Row]) -> int:
        """Gradient norms far above the recent ones."""
        count = 0
        for row in rows:
            norm = float(row['grad_norm'])
            enough = len(self._norms) >= _RECENT // 10
            if enough and norm > _SPIKE * statistics.median(self._norms):
                count += 1
            self._norms.append(norm)
        return count

    def _stop_if_diverged(self, first: int, rows: list[Row], kept: Callable[[], str]) -> None:
        for step, row in enumerate(rows, first):
            if row['applied']:
                continue
            self._skipped += 1
            what = f'loss {float(row["loss"])}, gradient norm {float(row["grad_norm"])}'
            bins = [
                self._bin(i) for i, loss in enumerate(row['bin_loss']) if not math.isfinite(loss)
            ]
            where = f'log-SNR bins {", ".join(bins)}' if bins else 'in the gradient alone'
            reason = f'{what}; {where}; examples {self._examples_of(step)}'
            if self._skipped > self._config.train.max_skipped:
                raise UserError(
                    f'training stopped at step {step}: {reason}; {kept()}; try a lower'
                    ' train.learning_rate or model.dtype=float32 in a new --workdir, or allow more'
                    f' skipped updates than train.max_skipped={self._config.train.max_skipped}'
                )
            if self._writer is not None:
                logging.warning('step %d is skipped and changes nothing: %s', step, reason)
