"""The training loop: train(config, workdir), from scratch or on from the newest checkpoint."""

import contextlib
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import (
    checkpoints,
    config as config_lib,
    data,
    generation,
    images,
    parallel,
    workdir as workdir_lib,
    writers,
)
from cfg_jax.errors import UserError
from cfg_jax.train_step import TrainState, create_state, logsnr_bin_edges, make_train_step

_STEPS_IN_FLIGHT = 3
_SAMPLE_W = (0.0, 1.0, 3.0)
_SAMPLE_CLASSES = 10

Report = Callable[[str], None]


def train(config: ConfigDict, workdir: epath.PathLike, report: Report = print) -> TrainState:
    """Trains to `config.train.steps`, resuming from the newest checkpoint of `workdir`.

    Writes WORKDIR/config.json, checkpoints/, metrics.jsonl and samples/. A run that is killed
    anywhere and started again ends with the same parameters, bit for bit.

    Args:
      config: see `configs/`; validated here.
      workdir: a local path or gs://.
      report: receives one line of progress at a time.

    Returns:
      The final state.

    Raises:
      UserError: a mistake in the config, the data or the work directory; or a loss that is not
        finite, with the last good checkpoint kept.
    """
    config_lib.validate(config)
    config_lib.check_devices(config, jax.device_count())
    with contextlib.ExitStack() as stack:
        batches = stack.enter_context(contextlib.closing(_training_batches(config)))
        workdir = workdir_lib.claim(config, workdir)
        saved = stack.enter_context(_open_checkpoints(config, workdir))
        state = create_state(config)
        first = saved.latest_step() or 0
        if first:
            state, data_state = saved.restore(first, state)
            batches.set_state(data_state)
        if first >= config.train.steps:
            report(f'{workdir} is already trained to step {first}')
            return state
        # Where the mapped step leaves it: another sharding would compile the step twice.
        state = jax.device_put(state, parallel.replicated())
        report(_headline(config, state, workdir, first))
        writer = stack.enter_context(contextlib.closing(writers.MetricWriter(workdir, first)))
        return _Loop(config, workdir, batches, saved, writer, report).run(state, first)


class _Loop:
    """Steps, and what happens between them: logging, sampling, saving."""

    def __init__(self, config, workdir, batches, saved, writer, report):
        self._config = config
        self._workdir = workdir
        self._batches = batches
        self._saved = saved
        self._writer = writer
        self._report = report
        self._pending: list[Any] = []  # metrics since the last log, still on the devices
        self._last_good = saved.latest_step()

    def run(self, state: TrainState, first: int) -> TrainState:
        train = self._config.train
        step_fn = parallel.map_step(make_train_step(self._config))
        # A classifier has nothing to sample.
        samples = self._config.model.kind == 'unet'
        generator = generation.make_generator(self._config) if samples else None
        progress = writers.Progress(train.steps, first)
        for step in range(first + 1, train.steps + 1):
            state, metrics = step_fn(state, parallel.split_batch(next(self._batches)))
            self._pending.append(metrics)
            # A bounded queue of steps keeps the devices busy, and keeps the collectives of many
            # devices on few cores from starving each other.
            jax.block_until_ready(self._pending[-_STEPS_IN_FLIGHT:][0])
            last = step == train.steps
            save = last or step % train.checkpoint_every == 0
            if save or step % train.log_every == 0:
                self._log(step, progress)
            if save:
                self._saved.save(step, state, self._batches.get_state())
                self._last_good = step
            if samples and (last or step % train.sample_every == 0):
                self._sample(step, state, generator)
        self._saved.wait()
        return state

    def _log(self, step: int, progress: writers.Progress) -> None:
        """Writes the means since the last log; stops the run if the loss is not finite."""
        rows = [parallel.first_replica(metrics) for metrics in self._pending]
        self._pending = []
        first_step = step - len(rows) + 1
        for offset, row in enumerate(rows):
            if not math.isfinite(row['loss']) or not math.isfinite(row['grad_norm']):
                raise UserError(self._divergence(first_step + offset, row))
        scores = ['loss', *(name for name in ('accuracy',) if name in rows[0])]
        values = {
            name: float(np.mean([row[name] for row in rows]))
            for name in (*scores, 'grad_norm', 'param_norm', 'update_norm', 'learning_rate')
        }
        for name in scores:
            values |= self._per_bin(name, rows)
        steps_per_second = progress.update(step)
        values['images_per_second'] = steps_per_second * self._config.train.batch_size
        values['images_seen'] = step * self._config.train.batch_size
        self._writer.write(step, values)
        self._report(
            f'step {step}/{self._config.train.steps}'
            + ''.join(f'  {name} {values[name]:.4f}' for name in scores)
            + f'  {values["images_per_second"]:,.0f} images/s'
            f'  {writers.format_duration(progress.seconds_left())} left'
        )

    def _per_bin(self, name: str, rows: list[dict[str, np.ndarray]]) -> dict[str, float]:
        """The mean of a score over each bin of log-SNR."""
        edges = logsnr_bin_edges(self._config)
        score = np.sum([row[f'bin_{name}'] for row in rows], axis=0)
        count = np.sum([row['bin_count'] for row in rows], axis=0)
        return {
            f'{name}_logsnr_{low:+.1f}_{high:+.1f}': float(score[i] / count[i])
            for i, (low, high) in enumerate(itertools.pairwise(edges))
            if count[i]
        }

    def _divergence(self, step: int, row: dict[str, np.ndarray]) -> str:
        kept = (
            f'the checkpoint of step {self._last_good} is kept'
            if self._last_good
            else 'there was no checkpoint yet'
        )
        return (
            f'training stopped at step {step}: loss {float(row["loss"])}, gradient norm'
            f' {float(row["grad_norm"])}; {kept}; try a lower train.learning_rate or'
            f' model.dtype=float32 in a new --workdir'
        )

    def _sample(self, step: int, state: TrainState, generator: generation.Generator) -> None:
        """WORKDIR/samples/step_N.png: a row per class, a column per w, the same seeds always."""
        classes = np.arange(min(_SAMPLE_CLASSES, self._config.data.num_classes))
        labels = np.repeat(classes, len(_SAMPLE_W))
        w = np.tile(np.asarray(_SAMPLE_W, np.float32), len(classes))
        ema_params = jax.device_put(state.ema_params, parallel.replicated())
        x = generator(ema_params, self._config.seed, labels, labels, w)
        picture = images.grid(np.asarray(images.to_uint8(x)), len(_SAMPLE_W))
        path = self._workdir / 'samples' / f'step_{step:08d}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        images.save_png(path, picture, min_side=256)


def _training_batches(config: ConfigDict) -> data.TrainingBatches:
    return data.TrainingBatches(
        config.data,
        batch_size=config.train.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _open_checkpoints(config: ConfigDict, workdir: epath.Path) -> checkpoints.Checkpoints:
    train = config.train
    return checkpoints.Checkpoints(
        workdir, keep=train.keep_checkpoints, keep_period=train.keep_period
    )


def _headline(config: ConfigDict, state: TrainState, workdir: epath.Path, first: int) -> str:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    start = f'resuming from step {first}' if first else 'starting'
    return (
        f'{start}: {parameters:,} parameters, {config.train.steps} steps of'
        f' {config.train.batch_size} images of {config.data.name} on {jax.device_count()} x'
        f' {jax.devices()[0].device_kind}, work directory {workdir}'
    )
