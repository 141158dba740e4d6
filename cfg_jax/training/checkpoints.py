"""Checkpoints: a thin wrapper of Orbax's CheckpointManager."""

import contextlib
import errno
import functools
import gc
import json
import logging as python_logging
import os
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

from cfg_jax import files
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
        self.directory = _directory(workdir)
        if self.directory.exists() and not self.directory.is_dir():
            raise UserError(f'{self.directory} must be a directory; move it away and run again')
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_period or None,
            create=True,
            cleanup_tmp_directories=True,  # what a killed process left of a save
        )
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_names=('state', 'data')
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
        except Exception as error:
            if not _is_of_storage(error):
                raise
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
        except Exception as error:
            if not _is_of_storage(error):
                raise
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
        """State and input-iterator state of a step; `like` is a state of the same structure.

        Raises:
          UserError: the checkpoint holds a state of another structure.
          Damaged: its input-iterator state is not one.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, devices.to_global(like))
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
        )
        with _orbax_silenced():
            _check_shapes(self.directory / str(step), like)
            restored = self._manager.restore(step, args=items)
        _check_data(restored['data'], self.directory / str(step) / 'data')
        return devices.to_local(restored['state']), restored['data']

    def restore_newest(self, like: Any) -> tuple[int, Any, dict[str, int]] | None:
        """Step, state and input-iterator state of the newest checkpoint that can be read, or None.

        One that cannot be read is set aside with a warning, and the one before is tried.

        Raises:
          UserError: there were checkpoints, and none can be read; or as `restore`.
        """
        multihost.run_on_process_zero('files set aside', self._set_files_aside)
        self._manager.reload()
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            restored, reason = self._try(step, like)
            if multihost.all_agree('restored', restored is not None) and restored is not None:
                return step, *restored
            set_aside = functools.partial(self._set_aside, step, reason)
            multihost.run_on_process_zero('setting aside', set_aside)
            self._manager.reload()
        if steps:
            raise UserError(
                f'no checkpoint in {self.directory} can be read; they are kept next to it as'
                ' damaged_checkpoints; run again to start from scratch'
            )
        return None

    def _try(self, step: int, like: Any) -> tuple[tuple[Any, dict[str, int]] | None, str]:
        try:
            return self.restore(step, like), ''
        except Exception as error:
            if not _is_damage(error):
                raise
            return None, _clause(error)

    def _set_files_aside(self) -> None:
        """Orbax overlooks a file in the place of a checkpoint, and could never save that step."""
        for path in () if files.is_remote(self.directory) else self.directory.iterdir():
            if path.name.isdecimal() and not path.is_dir():
                self._set_aside(int(path.name), 'it is a file')

    def _set_aside(self, step: int, reason: str) -> None:
        aside = self.directory.parent / 'damaged_checkpoints'
        aside.mkdir(parents=True, exist_ok=True)
        names = (str(step), *(f'{step}_{n}' for n in range(1, 1000)))
        name = next(name for name in names if not (aside / name).exists())
        try:
            files.rename(self.directory / str(step), aside / name)
        except FileNotFoundError:  # another command with this model, which holds no lock, was first
            return
        logging.warning(
            f'the checkpoint of step {step} cannot be read ({reason}); it is set aside as'
            f' {aside / name}'
        )


@contextlib.contextmanager
def _orbax_silenced() -> Iterator[None]:
    """Keeps off the terminal what Orbax logs of a failure, and the coroutines it leaves behind.

    The exception that it raises says the same in one line.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    python_logging.disable(python_logging.ERROR)
    try:
        yield
    except BaseException:
        gc.collect()  # while the hook is off
        raise
    finally:
        python_logging.disable(python_logging.NOTSET)
        sys.unraisablehook = hook


def _check_shapes(path: epath.Path, like: Any) -> None:
    """Raises UserError where arrays of the checkpoint at `path` are not shaped as those of `like`.

    `like` may hold a part of the state. Orbax would say so at a length of hundreds of lines.
    """
    stored = ocp.PyTreeCheckpointer().metadata(path / 'state').item_metadata
    if stored is None:
        return  # damaged: restoring will say how
    shapes = {_name(p): tuple(leaf.shape) for p, leaf in jax.tree.leaves_with_path(stored.tree)}
    for key_path, leaf in jax.tree.leaves_with_path(like):
        name, wanted = _name(key_path), tuple(leaf.shape)
        if shapes.get(name) != wanted:
            there = f'shape {shapes[name]}' if name in shapes else 'no such array'
            raise UserError(
                f'{path} does not fit the config: {name} has shape {wanted} by the config, {there}'
                ' in the checkpoint; give back the config that it was trained with'
            )


def _name(path: tuple[Any, ...]) -> str:
    """'opt_state.1.0.mu.kernel', whatever the containers are."""
    return jax.tree_util.keystr(path, simple=True, separator='.')


def _check_data(state: Any, path: epath.Path) -> None:
    """Raises Damaged unless `state` is what `pipeline.TrainingBatches.set_state` takes."""
    if not (isinstance(state, dict) and all(type(value) is int for value in state.values())):
        raise files.Damaged(f'{path} holds no state of the input')
    if state.get('next_batch', -1) < 0:
        raise files.Damaged(f'{path} lacks the number of the next batch')


def _is_of_storage(error: Exception) -> bool:
    """Whether a save failed for the disk or the object store: TensorStore raises ValueError, and
    JAX for processes that waited in vain for one whose disk is full."""
    known = isinstance(error, OSError | ValueError) or _is_late(error)
    return known or files.outage(error) is not None


def _is_late(error: Exception) -> bool:
    return isinstance(error, jax.errors.JaxRuntimeError) and 'DEADLINE_EXCEEDED' in str(error)


def _is_damage(error: Exception) -> bool:
    """Whether a restoration failed for what is on the disk, and not for what was asked."""
    if files.outage(error) or files.refusal(error):
        return False
    if isinstance(error, UserError):
        return isinstance(error, files.Damaged)
    if isinstance(error, OSError):
        return error.errno not in _STORAGE
    # TensorStore's own errors are of no class, or begin with a status such as DATA_LOSS.
    status = isinstance(error, ValueError) and re.match(r'[A-Z]+_[A-Z_]+: ', str(error))
    return (
        bool(status)
        or isinstance(error, KeyError | json.JSONDecodeError | UnicodeDecodeError)
        or type(error) is Exception
    )


def _failure(step: int, error: Exception) -> str:
    return f'the checkpoint of step {step} could not be saved ({_clause(error)})'


def _clause(error: Exception) -> str:
    """The first line of an error, short enough to stand in a sentence."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if _is_late(error) or isinstance(error, TimeoutError):
        return 'the processes waited in vain for each other; another one may know why'
    code = re.search(r"os_error_code='(\d+)'|\[OS error (\d+):", str(error))  # TensorStore's words
    if code:
        return os.strerror(int(code[1] or code[2]))
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    line = line.partition(' See full TensorStore details')[0].strip(' ."')
    return line if len(line) <= 160 else f'{line[:157]}...'


def restore_ema(workdir: epath.PathLike, like: Any, step: int | None = None) -> tuple[Any, int]:
    """The EMA parameters of a checkpoint of a work directory, and its step.

    Args:
      workdir: of the training.
      like: a pytree of arrays or `jax.ShapeDtypeStruct`s; nothing else of the state is read.
      step: of the checkpoint; by default the newest.

    Raises:
      UserError: there is no complete checkpoint, or none of this step; or it cannot be read, or is
        of another network.
    """
    step, path = find_checkpoint(workdir, step)
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
        with _orbax_silenced():
            _check_shapes(path, item)
            restored = ocp.PyTreeCheckpointer().restore(path / 'state', args)
    except Exception as error:
        if not _is_damage(error):
            raise
        raise UserError(
            f'{path} cannot be read ({_clause(error)}); run the training command again: it sets a'
            ' damaged checkpoint aside and continues from the one before'
        ) from error
    return restored['ema_params'], step


def find_checkpoint(workdir: epath.PathLike, step: int | None = None) -> tuple[int, epath.Path]:
    """Step and directory of a checkpoint of a work directory; by default of the newest.

    Raises:
      UserError: there is no complete checkpoint, or none of this step.
    """
    steps = kept_steps(workdir)
    if step is None:
        step = steps[-1]
    elif step not in steps:
        raise UserError(
            f'{workdir} has no checkpoint of step {step}; it has: {", ".join(map(str, steps))}'
        )
    return step, _directory(workdir) / str(step)


def kept_steps(workdir: epath.PathLike) -> list[int]:
    """The steps of a work directory's complete checkpoints, in order.

    Raises:
      UserError: there is none.
    """
    directory = _directory(workdir)
    steps = sorted(ocp.utils.checkpoint_steps(directory)) if directory.is_dir() else []
    if not steps:
        raise UserError(f'{workdir} holds no complete checkpoint yet; let training reach one')
    return steps


def _directory(workdir: epath.PathLike) -> epath.Path:
    return files.absolute(workdir) / 'checkpoints'
