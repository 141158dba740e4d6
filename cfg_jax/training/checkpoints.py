"""Checkpoints: a thin wrapper of Orbax's CheckpointManager."""

import contextlib
import errno
import functools
import gc
import json
import logging as python_logging
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.sharding import SingleDeviceSharding

from cfg_jax.distributed import devices, multihost
from cfg_jax.errors import UserError

# The storage is away, not the checkpoint damaged: nothing may be judged by these.
_STORAGE = {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EACCES, errno.EPERM}


class Checkpoints:
    """The checkpoints of one work directory, by step; use as a context manager.

    A checkpoint holds the train state and the state of the input iterator. Saving is asynchronous
    and ends in a rename, so a killed process leaves only complete checkpoints behind. With many
    processes all of them save and restore together; process 0 writes.
    """

    def __init__(self, workdir: epath.PathLike, *, keep: int = 3, keep_period: int = 0):
        self.directory = epath.Path(workdir) / 'checkpoints'
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_period or None,
            create=True,
            cleanup_tmp_directories=True,  # what a killed process left of a save
        )
        self._manager = ocp.CheckpointManager(
            self.directory.resolve(), options=options, item_names=('state', 'data')
        )
        self._saving: int | None = None

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, *error: object) -> None:
        self.wait()
        self._manager.close()

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, or None."""
        self._manager.reload()
        return max(self._manager.all_steps(), default=None)

    def save(self, step: int, state: Any, data_state: dict[str, int]) -> str | None:
        """Starts saving; the arrays may be donated as soon as this returns.

        Returns None, or in a clause why this save, or the one before it, came to nothing: a full
        disk must not end a training that could still be saved later.
        """
        problem = self.wait()
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(devices.to_global(state)),
            data=ocp.args.JsonSave(data_state),
        )
        self._saving = step
        try:
            self._manager.save(step, args=items)
        except (OSError, ValueError) as error:
            self._saving = None
            self._remove_remains()
            return _failure(step, error)
        return problem

    def wait(self) -> str | None:
        """Blocks until the save that was started has ended; returns as `save`."""
        step, self._saving = self._saving, None
        if step is None:
            return None
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            self._remove_remains()
            return _failure(step, error)
        return None

    def _remove_remains(self) -> None:
        """Half a checkpoint would keep a full disk full."""
        if not multihost.is_process_zero():
            return
        for path in self.directory.glob('*.orbax-checkpoint-tmp'):
            # Other threads may still be writing into it, which ends by itself.
            for pause in (0.0, 0.1, 1.0):
                time.sleep(pause)
                with contextlib.suppress(OSError):
                    path.rmtree(missing_ok=True)
                    break

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, int]]:
        """State and input-iterator state of a step; `like` is a state of the same structure."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, devices.to_global(like))
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=items)
        return devices.to_local(restored['state']), restored['data']

    def restore_newest(self, like: Any) -> tuple[int, Any, dict[str, int]] | None:
        """Step, state and input-iterator state of the newest checkpoint that can be read, or None.

        One that cannot be read is set aside with a warning, and the one before is tried.

        Raises:
          UserError: there were checkpoints, and none can be read.
        """
        self._manager.reload()
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            restored, reason = self._try(step, like)
            if multihost.all_agree('restored', restored is not None):
                return step, *restored
            set_aside = functools.partial(self._set_aside, step, reason)
            multihost.run_on_process_zero('setting aside', set_aside)
            self._manager.reload()
        if steps:
            raise UserError(
                f'no checkpoint in {self.directory} can be read; they are kept beside it as'
                ' damaged_checkpoints; run again to begin anew'
            )
        return None

    def _try(self, step: int, like: Any) -> tuple[tuple[Any, dict[str, int]] | None, str]:
        try:
            with _without_orbax_story():
                return self.restore(step, like), ''
        except Exception as error:
            if not _is_damage(error):
                raise
            return None, _clause(error)

    def _set_aside(self, step: int, reason: str) -> None:
        aside = self.directory.parent / 'damaged_checkpoints'
        aside.mkdir(parents=True, exist_ok=True)
        name = next(
            name
            for name in (str(step), *(f'{step}_{n}' for n in range(1, 1000)))
            if not (aside / name).exists()
        )
        (self.directory / str(step)).rename(aside / name)
        logging.warning(
            f'the checkpoint of step {step} cannot be read ({reason}); it is set aside as'
            f' {aside / name}'
        )


@contextlib.contextmanager
def _without_orbax_story() -> Iterator[None]:
    """Orbax tells of a failure at length, and of every coroutine that it leaves behind; ours is
    one line."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    python_logging.disable(python_logging.ERROR)
    try:
        yield
    finally:
        gc.collect()
        python_logging.disable(python_logging.NOTSET)
        sys.unraisablehook = hook


def _is_damage(error: Exception) -> bool:
    """Whether a restoration failed for what is on the disk; else another network was asked for."""
    if isinstance(error, OSError):
        return error.errno not in _STORAGE
    # TensorStore's own errors are of no class, or begin with a status such as DATA_LOSS.
    status = isinstance(error, ValueError) and re.match(r'[A-Z]+_[A-Z_]+: ', str(error))
    return (
        bool(status)
        or isinstance(error, KeyError | json.JSONDecodeError)
        or type(error) is Exception
    )


def _failure(step: int, error: Exception) -> str:
    return f'the checkpoint of step {step} could not be saved ({_clause(error)})'


def _clause(error: Exception) -> str:
    """The first line of an error, short enough to stand in a sentence."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said_by_system = re.search(r'\[OS error \d+: ([^]]*?)\]', str(error))
    if said_by_system:
        return said_by_system[1].partition(' ')[2] or said_by_system[1]
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    line = line.partition(' See full TensorStore details')[0].strip(' ."')
    return line if len(line) <= 160 else f'{line[:157]}...'


def restore_ema(workdir: epath.PathLike, like: Any, step: int | None = None) -> tuple[Any, int]:
    """The EMA parameters of a checkpoint of a work directory, and its step; by default the newest.

    `like` is a pytree of arrays or `jax.ShapeDtypeStruct`s; nothing else of the state is read.

    Raises:
      UserError: there is no complete checkpoint, or the newest cannot be read.
    """
    directory = epath.Path(workdir) / 'checkpoints'
    steps = ocp.utils.checkpoint_steps(directory) if directory.exists() else []
    if not steps:
        raise UserError(f'{workdir} holds no complete checkpoint yet; let training reach one')
    if step is None:
        step = max(steps)
    elif step not in steps:
        known = ', '.join(map(str, sorted(steps)))
        raise UserError(f'{workdir} holds no checkpoint of step {step}; it has: {known}')
    device = SingleDeviceSharding(jax.local_devices()[0])
    item = {
        'ema_params': jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), like
        )
    }
    args = ocp.args.PyTreeRestore(
        item=item,
        restore_args=ocp.checkpoint_utils.construct_restore_args(item),
        partial_restore=True,
    )
    try:
        path = directory.resolve() / str(step) / 'state'
        restored = ocp.PyTreeCheckpointer().restore(path, args)
    except Exception as error:
        if not _is_damage(error):
            raise
        raise UserError(
            f'{directory / str(step)} cannot be read ({_clause(error)}); run the training command'
            ' again: it sets a damaged checkpoint aside and goes on from the one before'
        ) from error
    return restored['ema_params'], step
