"""Checkpoints: a thin wrapper of Orbax's CheckpointManager."""

from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import SingleDeviceSharding

from cfg_jax.errors import UserError


class Checkpoints:
    """The checkpoints of one work directory, by step; use as a context manager.

    A checkpoint holds the train state and the state of the input iterator. Saving is asynchronous
    and ends in a rename, so a killed process leaves only complete checkpoints behind.
    """

    def __init__(self, workdir: epath.PathLike, *, keep: int = 3, keep_period: int = 0):
        self.directory = epath.Path(workdir) / 'checkpoints'
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, keep_period=keep_period or None, create=True
        )
        self._manager = ocp.CheckpointManager(
            self.directory.resolve(), options=options, item_names=('state', 'data')
        )

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, *error: object) -> None:
        self._manager.close()

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, data_state: dict[str, int]) -> None:
        """Starts saving; the arrays may be donated as soon as this returns."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data_state)
        )
        self._manager.save(step, args=items)

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, int]]:
        """State and input-iterator state of a step; `like` is a state of the same structure."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=items)
        return restored['state'], restored['data']

    def wait(self) -> None:
        """Blocks until every started save is on disk."""
        self._manager.wait_until_finished()


def restore_ema(workdir: epath.PathLike, like: Any) -> tuple[Any, int]:
    """The EMA parameters of the newest checkpoint of a work directory, and its step.

    `like` is a pytree of arrays or `jax.ShapeDtypeStruct`s; nothing else of the state is read.

    Raises:
      UserError: there is no complete checkpoint.
    """
    directory = epath.Path(workdir) / 'checkpoints'
    steps = ocp.utils.checkpoint_steps(directory) if directory.exists() else []
    if not steps:
        raise UserError(f'{workdir} holds no complete checkpoint yet; let training reach one')
    step = max(steps)
    device = SingleDeviceSharding(jax.devices()[0])
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
    restored = ocp.PyTreeCheckpointer().restore(directory.resolve() / str(step) / 'state', args)
    return restored['ema_params'], step
