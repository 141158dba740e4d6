"""The one place that knows of devices: the pmapped training step and the sharded sampling batch.

With many processes the step runs over the devices of all of them. The state is the same everywhere,
and each process holds it on its own devices; so it samples on them too, alone. `processes` starts
and synchronises processes.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = 'devices'
_STEPS_IN_FLIGHT = 3


class Machine(NamedTuple):
    """What a program is compiled for, as its first process sees it.

    Attributes:
      platform: 'cpu', 'gpu' or 'tpu'.
      local_devices: of each process.
      processes: how many.
      devices: of all processes, described ones for a machine that is not here; None: JAX's own.
    """

    platform: str
    local_devices: int
    processes: int
    devices: tuple[Any, ...] | None = None


def here() -> Machine:
    """The devices and processes of this run."""
    return Machine(jax.default_backend(), jax.local_device_count(), jax.process_count())


def map_step(
    step: Callable[[Any, Any], tuple[Any, Any]], machine: Machine | None = None
) -> jax.stages.Wrapped:
    """Maps a per-device `step(state, batch) -> (state, metrics)` over all devices.

    The state is replicated and never stacked, and its buffers are donated; the batch comes from
    `split_batch`. `step` must give every device the same state (`mean` its gradients). `machine` is
    another one than this, to be compiled for.
    """
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=(None, 0),
        donate_argnums=0,
        devices=machine and machine.devices,
    )


def split_batch(batch: Any) -> Any:
    """[B, ...] -> [local devices, B / local devices, ...] for every array of the batch.

    Dealt like cards: row i goes to device i mod local devices. As processes share the batch in the
    same manner, a device's rows, and so its sums, do not depend on which process it belongs to.
    """
    devices = jax.local_device_count()

    def split(a: np.ndarray) -> np.ndarray:
        return np.moveaxis(a.reshape(a.shape[0] // devices, devices, *a.shape[1:]), 1, 0)

    return jax.tree.map(split, batch)


def mean(tree: Any) -> Any:
    """Mean over devices, inside a mapped step."""
    # Divided before they are sent, as part of what makes them: a pass over memory less.
    count = jax.lax.axis_size(AXIS)
    return jax.lax.psum(jax.tree.map(lambda a: a / count, tree), AXIS)


def total(tree: Any) -> Any:
    """Sum over devices, inside a mapped step."""
    return jax.lax.psum(tree, AXIS)


def global_rows(per_device: int, machine: Machine | None = None) -> jax.Array:
    """Rows of the global batch that this device holds, int32 [per_device], inside a mapped step.

    Row i of process p's share is row p + i * process_count of the global batch (`data`), so random
    numbers drawn by global row are the same on any number of devices and processes. `machine` is
    this one by default.
    """
    _, local_devices, processes, _ = machine or here()
    device = jax.lax.axis_index(AXIS)
    process, local_device = device // local_devices, device % local_devices
    local_rows = local_device + local_devices * jnp.arange(per_device)
    return process + processes * local_rows


def first_replica(tree: Any) -> Any:
    """Metrics of a mapped step that are equal on all devices, as host arrays."""
    return jax.tree.map(lambda a: np.asarray(a.addressable_shards[0].data)[0], tree)


def wait_for_all_but_a_few(steps: Sequence[Any]) -> None:
    """Blocks until the results of mapped steps are there, but for the last few.

    A bounded queue of steps keeps the devices busy, and keeps the collectives of many devices on
    few cores from starving each other.
    """
    jax.block_until_ready(steps[-_STEPS_IN_FLIGHT:][0])


def device_mesh(machine: Machine | None = None) -> Mesh:
    """This process's devices in a row, or those of a machine's first process."""
    if machine is None or machine.devices is None:
        return Mesh(np.asarray(jax.local_devices()), (AXIS,))
    return Mesh(np.asarray(machine.devices[: machine.local_devices]), (AXIS,))


def replicated() -> NamedSharding:
    """The sharding of something every device of this process holds whole."""
    return NamedSharding(device_mesh(), PartitionSpec())


def batch_sharding() -> NamedSharding:
    """The sharding of a batch that is split over this process's devices along its first axis."""
    return NamedSharding(device_mesh(), PartitionSpec(AXIS))


def map_rows(
    function: Callable[..., Any], whole: int, split: int, machine: Machine | None = None
) -> jax.stages.Wrapped:
    """Maps a function of rows over this process's devices, compiled, without communication.

    Args:
      function: of `whole` arguments that every device gets whole, then `split` arrays [B, ...] of
        which each gets its rows; its results are arrays of as many rows.
      whole, split: how many.
      machine: another one than this, to be compiled for.
    """
    mesh = device_mesh(machine)
    specs = (PartitionSpec(),) * whole + (PartitionSpec(AXIS),) * split
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False
    )
    return jax.jit(
        mapped,
        in_shardings=tuple(NamedSharding(mesh, spec) for spec in specs),
        out_shardings=NamedSharding(mesh, PartitionSpec(AXIS)),
    )


def to_global(tree: Any) -> Any:
    """Arrays that every process holds alike, as one array of all processes; nothing is copied.

    Checkpoints of many processes are made of those. With one process they are the same.
    """
    if jax.process_count() == 1:
        return tree
    sharding = NamedSharding(Mesh(np.asarray(jax.devices()), (AXIS,)), PartitionSpec())
    return jax.tree.map(
        lambda a: jax.make_array_from_single_device_arrays(
            a.shape, sharding, [shard.data for shard in a.addressable_shards]
        ),
        tree,
    )


def to_local(tree: Any) -> Any:
    """The inverse of `to_global`."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(
        lambda a: jax.make_array_from_single_device_arrays(
            a.shape, replicated(), [shard.data for shard in a.addressable_shards]
        ),
        tree,
    )
