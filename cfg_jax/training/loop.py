"""The training loop: train(config, workdir), from scratch or from the newest checkpoint."""

import contextlib
import functools
import time
from typing import Any

import jax
from absl import logging
from clu import parameter_overview
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import config as config_lib, files, locks
from cfg_jax.data import pipeline
from cfg_jax.distributed import devices, multihost
from cfg_jax.distributed.preemption import Preemption
from cfg_jax.errors import Interrupted, UserError, WorkerDied
from cfg_jax.perf import memory
from cfg_jax.training import checkpoints, posthoc_ema, starting, tracing, workdirs, writers
from cfg_jax.training.logging import TrainLog
from cfg_jax.training.pictures import Pictures
from cfg_jax.training.step import AveragedState, TrainState, create_state, make_train_step
from cfg_jax.training.watchdog import StallWatchdog

_LOCK = '.training'  # in the work directory


def train(config: ConfigDict, workdir: epath.PathLike, profile: range = range(0)) -> TrainState:
    """Trains to `config.train.steps`, resuming from the newest checkpoint of `workdir`.

    A new run has random weights, or those of `train.start_from`.

    Writes WORKDIR/config.json, classes.json, parameters.txt, checkpoints/, metrics.jsonl and
    samples/. A run that is killed anywhere and started again ends with the same parameters, bit for
    bit. With many processes each calls this; process 0 writes and logs.

    Args:
      config: see `configs/`; validated here.
      workdir: a local path or gs://.
      profile: steps of which JAX's profiler writes a trace to WORKDIR/profile; see `Trace`.

    Returns:
      The final state.

    Raises:
      UserError: a mistake in the config, the data or the work directory; or losses that are not
        finite, with the last good checkpoint kept; or a last checkpoint that cannot be saved; or
        another process took the work directory over while this one stood still.
      Preempted: SIGTERM came; the step is finished and saved, if one was begun.
      Interrupted: Ctrl-C came once: alike; twice: at once.
      WorkerDied: a data worker was killed; the steps so far are saved, with one process.
    """
    config_lib.validate(config)
    config_lib.check_devices(config, jax.device_count())
    memory.check_training(config)
    needs, advice = f'train.batch_size={config.train.batch_size}', memory.advice(config)
    with memory.shortage_reported(needs, advice), contextlib.ExitStack() as stack:
        preemption = stack.enter_context(Preemption(together=True))
        batches = stack.enter_context(contextlib.closing(_training_batches(config)))
        claim = functools.partial(_claim, config, workdir, stack)
        held = multihost.run_on_process_zero('work directory', lambda: claim(unless_trained=True))
        workdir = files.as_path(workdir)
        saved = stack.enter_context(_open_checkpoints(config, workdir))
        first, state = _newest_state(config, workdir, saved, batches)
        if first >= config.train.steps:
            logging.info(f'{workdir} is already trained to step {first}')
            _stop_if_asked(preemption, first)
            return state
        # Its last checkpoint cannot be read, if it seemed to be trained.
        held = multihost.run_on_process_zero('its claim', lambda: held or claim())
        logging.info(_headline(config, state, workdir, first))
        writer = _open_writer(workdir, state, first, stack) if multihost.is_process_zero() else None
        watchdog = stack.enter_context(contextlib.closing(StallWatchdog()))
        log = stack.enter_context(
            contextlib.closing(TrainLog(config, writer, first, batches.examples_of))
        )
        trace = stack.enter_context(contextlib.closing(tracing.Trace(profile, workdir, first)))
        loop = _Loop(config, workdir, held, batches, saved, log, preemption, watchdog, trace)
        try:
            state = loop.run(state, first)
        except KeyboardInterrupt:
            saved.wait()  # what is under way counts
            raise Interrupted(f'stopped at once; {loop.kept()}') from None
        return state


def _stop_if_asked(preemption: Preemption, step: int) -> None:
    """After the last step: what follows a training does not know of requests that came in it."""
    if preemption.asked_between_steps():
        raise preemption.stopped(f'stopped after step {step} on request; it is saved')


def _open_writer(
    workdir: epath.Path, state: TrainState, first: int, stack: contextlib.ExitStack
) -> writers.MetricWriter:
    """Writes parameters.txt; returns the writer of metrics, open until `stack` is left."""
    overview = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    files.write_bytes(workdir / 'parameters.txt', f'{overview}\n'.encode())
    return stack.enter_context(contextlib.closing(writers.MetricWriter(workdir, first)))


def _claim(
    config: ConfigDict,
    workdir: epath.PathLike,
    stack: contextlib.ExitStack,
    unless_trained: bool = False,
) -> locks.Held | None:
    """Prepares the work directory, which this process holds until `stack` is left.

    With `unless_trained` one that is trained to its end is left as it is: many may ask for it, as
    long as nobody trains on.
    """
    workdir = workdirs.validate_workdir(config, workdir)
    left = unless_trained and workdirs.is_trained(config, workdir)
    if left and not (workdir / _LOCK).exists():
        return None
    if not left:
        _check_learning_rate(config)
    if config.train.start_from and not workdirs.is_workdir(workdir):
        starting.check(config)
    held = stack.enter_context(locks.hold(workdir / _LOCK, f'{workdir} is being trained'))
    if not left:
        workdirs.create_or_validate_workdir(config, workdir)
    return held


def _check_learning_rate(config: ConfigDict) -> None:
    """Not of `config.validate`: what was trained so before must open."""
    annealed, steps = config.train.anneal_steps, config.train.steps
    if 0 < annealed < steps:
        raise UserError(
            f'train.steps={steps} goes on beyond train.anneal_steps={annealed}, where the learning'
            f' rate is 0 and nothing is learnt; give --config.train.anneal_steps={steps} too, or'
            f' to a training that has begun --config.train.steps={annealed}'
        )


def _newest_state(
    config: ConfigDict,
    workdir: epath.Path,
    saved: checkpoints.Checkpoints,
    batches: pipeline.TrainingBatches,
) -> tuple[int, TrainState]:
    """The step to continue from and its state, with `batches` at that place; 0 for a new run."""
    # Where the mapped step leaves it: another sharding would compile the step twice.
    state = jax.device_put(create_state(config), devices.replicated())
    found = saved.restore_newest(state)
    if found is None:
        return 0, _started(config, workdir, state) if config.train.start_from else state
    first, state, data_state = found
    batches.set_state(data_state)
    _report_topology(data_state)
    return first, state


def _started(config: ConfigDict, workdir: epath.Path, state: TrainState) -> TrainState:
    """`state` with the weights of `train.start_from`, the same ones in every process."""
    multihost.run_on_process_zero('weights', lambda: starting.note(config, workdir))
    state = starting.with_start(config, workdir, state)
    logging.info(f'the weights are those of {config.train.start_from}')
    return jax.device_put(state, devices.replicated())


def _report_topology(data_state: dict[str, int]) -> None:
    """Says so if the checkpoint comes from another number of devices or processes."""
    now = _topology()
    before = {key: data_state.get(key, now[key]) for key in now}
    if before != now:
        logging.info(
            f'the checkpoint comes from {before["devices"]} devices in {before["processes"]}'
            f' processes, this run has {now["devices"]} in {now["processes"]}: the same global'
            ' batches continue in the same order; sums round differently'
        )


class _Loop:
    """Steps, and what happens between them: logging, sampling, saving."""

    def __init__(self, config, workdir, held, batches, saved, log, preemption, watchdog, trace):
        self._config = config
        self._workdir = workdir
        self._held = held  # by process 0
        self._batches = batches
        self._saved = saved
        self._log = log
        self._preemption = preemption
        self._watchdog = watchdog
        self._trace = trace
        self._input_seconds = 0.0

    def run(self, state: TrainState, first: int) -> TrainState:
        train, problem = self._config.train, None
        step_fn = devices.map_step(make_train_step(self._config))
        # A classifier has nothing to draw.
        draws = self._config.model.kind != 'classifier' and multihost.is_process_zero()
        pictures = Pictures(self._config, self._workdir) if draws else None
        # Also at `first`: JAX's service has to know from which number on it is asked.
        if self._preemption.asked_between_steps() or self._preemption.asked(first):
            early = f'stopped before step {first + 1} on request; {self.kept()}'
            raise self._preemption.stopped(early)
        for step in range(first + 1, train.steps + 1):
            self._trace.before(step)
            try:
                batch = self._next_batch(step)
            except (UserError, WorkerDied) as error:
                raise self._save_without_input(error, step - 1, first, state) from error
            state, metrics = self._step(step_fn, state, batch, compiles=step == first + 1)
            self._check_held()
            self._log.add(metrics)
            asked = self._preemption.asked(step)
            last = step == train.steps
            save = last or asked or self._is_due(step)
            if save or step % train.log_every == 0:
                self._log.flush(step, self._moment(), self.kept)
            self._write_averages(step, state, last)
            problem = self._save(step, state) if save else None
            if pictures is not None and (last or step % train.sample_every == 0):
                with files.warned_of(f'the pictures of step {step}', 'training continues'):
                    pictures.draw(step, state.ema_params)
            if asked and not last:
                unsaved = self._unsaved(step, problem)
                safe = f'{unsaved}; {self.kept()}' if unsaved else 'it is saved'
                raise self._preemption.stopped(f'stopped after step {step} on request; {safe}')
        unsaved = self._unsaved(train.steps, problem)
        if unsaved:
            raise UserError(f'{unsaved}; {self.kept()}; make room and run the same command again')
        multihost.barrier('trained', multihost.LONGEST)
        _stop_if_asked(self._preemption, train.steps)
        return state

    def _check_held(self) -> None:
        """Before anything is written: the work directory may have become another training's."""
        if self._held is not None:
            self._held.check()

    def _is_due(self, step: int) -> bool:
        """Whether a checkpoint of this step was asked for, as one of many or for good."""
        train = self._config.train
        periods = (train.checkpoint_every, train.keep_period)
        return any(period and step % period == 0 for period in periods)

    def _next_batch(self, step: int) -> Any:
        start = time.monotonic()
        with self._watchdog.waiting(f'the input pipeline to give the batch of step {step}'):
            batch = devices.split_batch(next(self._batches))
        self._input_seconds += time.monotonic() - start
        return batch

    def _step(self, step_fn, state: TrainState, batch: Any, compiles: bool) -> tuple[Any, Any]:
        if not compiles:
            return step_fn(state, batch)
        start = time.monotonic()
        with self._watchdog.waiting('the first step to compile'):
            state, metrics = jax.block_until_ready(step_fn(state, batch))
        logging.info(f'the first step took {time.monotonic() - start:.0f} s, compiling included')
        return state, metrics

    def _moment(self) -> dict[str, float]:
        """What the machine says: seconds waited for input since the last time, memory in use."""
        values = {'input_seconds': self._input_seconds}
        self._input_seconds = 0.0
        if self._batches.bad_examples():
            values['bad_examples'] = self._batches.bad_examples()
        stats = jax.local_devices()[0].memory_stats() or {}  # None on CPU
        if 'peak_bytes_in_use' in stats:
            values['device_memory_peak_gib'] = stats['peak_bytes_in_use'] / 2**30
        return values

    def _write_averages(self, step: int, state: TrainState, last: bool) -> None:
        """Before the checkpoint of this step: a run that continues from it lacks none."""
        every = self._config.train.averages_every
        if isinstance(state, AveragedState) and (last or step % every == 0):
            with files.warned_of(f'the averages of step {step}', 'training continues'):
                if multihost.is_process_zero():
                    posthoc_ema.write(self._workdir, step, state.averages)

    def _save(self, step: int, state: TrainState) -> str | None:
        problem = self._saved.save(step, state, self._batches.get_state() | _topology())
        if problem:
            logging.warning(f'{problem}; {self.kept()}; training continues')
        return problem

    def _unsaved(self, step: int, problem: str | None) -> str | None:
        """Why `step` is not saved, once that has ended, or None; `problem` is what `_save` gave.

        That may be of the checkpoint before.
        """
        problem = self._saved.wait() or problem
        return problem if problem and self._saved.latest_step() != step else None

    def _save_without_input(
        self, error: UserError | WorkerDied, step: int, first: int, state: TrainState
    ) -> UserError | WorkerDied:
        """Saves the steps since `first`; of many processes none can, the others wait in a step."""
        self._check_held()
        self._saved.wait()
        if step > first and step != self._saved.latest_step() and jax.process_count() == 1:
            if step % self._config.train.log_every:
                self._log.flush(step, self._moment(), self.kept)
            self._save(step, state)
            self._saved.wait()
        message = f'{error}; {self.kept()}'
        if isinstance(error, UserError):
            return UserError(message)
        return WorkerDied(message, saved=(self._saved.latest_step() or 0) > first)

    def kept(self) -> str:
        step = self._saved.latest_step()
        return f'the checkpoint of step {step} is kept' if step else 'there was no checkpoint yet'


def _topology() -> dict[str, int]:
    return {'devices': jax.device_count(), 'processes': jax.process_count()}


def _training_batches(config: ConfigDict) -> pipeline.TrainingBatches:
    return pipeline.TrainingBatches(
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
    many = jax.process_count()
    where = f' in {many} processes' if many > 1 else ''
    return (
        f'{start}: {parameters:,} parameters, {config.train.steps} steps of'
        f' {config.train.batch_size} images of {config.data.name} on {jax.device_count()} x'
        f' {jax.devices()[0].device_kind}{where}, work directory {workdir}'
    )
