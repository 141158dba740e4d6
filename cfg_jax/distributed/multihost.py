"""Many processes of one run: starting them, barriers, and work that process 0 does for all.

Processes find each other through JAX's distributed runtime; its key-value store carries what is
said here, so that nothing of it waits for a device.
"""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from absl import logging

from cfg_jax.distributed import lifeline, relay
from cfg_jax.errors import (
    Disconnected,
    UserError,
)

BARRIER_SECONDS = 600.0
LONGEST = 7 * 24 * 3600.0  # for work of process 0 that the others wait out; a dead one is noticed
_START_SECONDS = 300
_END_SECONDS = 120  # that a process waits at its end for the others before it ends them too
_HEARTBEAT_SECONDS = 100  # JAX's own watch, which ends in a C++ stack: `lifeline` comes first

# What `srun` gives its processes; a batch script outside of it has only some of them.
_SLURM = ('SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_LOCALID')

_T = TypeVar('_T')
_barriers: dict[str, int] = {}
_kept_open: list[subprocess.Popen[bytes]] = []  # they end when their pipes are collected


def start(
    coordinator: str = '',
    num_processes: int = 0,
    process_id: int = -1,
    lost_after: float = lifeline.LOST_AFTER,
) -> None:
    """Joins this process to the others of its run. Call it before anything touches a device.

    Without arguments TPU pods, Slurm (`srun`) and Open MPI are recognised; elsewhere this is the
    only process. From then on the end of one process ends all, see `lifeline`.

    Args:
      coordinator: HOST:PORT of process 0.
      num_processes: of the run.
      process_id: of this one, from 0.
      lost_after: seconds without a sign of a process after which the others end.

    Raises:
      UserError: some of the arguments without the others.
      Disconnected: processes that do not come.
    """
    if coordinator or num_processes or process_id >= 0:
        if not (_is_address(coordinator) and 0 <= process_id < num_processes):
            raise UserError(
                'give all of --coordinator=HOST:PORT, --num_processes=N and --process_id=I with'
                f' I in 0..N-1; got {coordinator!r}, {num_processes} and {process_id}'
            )
        _initialize(coordinator, num_processes, process_id, None, lost_after=lost_after)
    elif _in_cluster():
        found = _found_by_jax()
        if found is not None:
            _initialize(*found, lost_after=lost_after)


def _is_address(text: str) -> bool:
    """Whether `text` is HOST:PORT; JAX crashes the process over another port than a number."""
    host, _, port = text.rpartition(':')
    return bool(host) and port.isascii() and port.isdecimal() and 0 < int(port) < 2**16


def _found_by_jax() -> tuple[Any, ...] | None:
    """Coordinator, number of processes, this one and its devices, as JAX recognises the cluster."""
    from jax._src import clusters  # jax.distributed.initialize finds the same, and keeps it

    try:
        found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, _START_SECONDS
        )
    except (ValueError, TypeError, IndexError, LookupError) as error:
        raise UserError(
            f'the processes of this run cannot be started: {lifeline.first_line(error)}'
        ) from error
    return None if found[0] is None else found


def _initialize(
    coordinator: str, count: int, process: int, local_devices: Any, *, lost_after: float
) -> None:
    address = coordinator if process == 0 else f'127.0.0.1:{_relayed(coordinator)}'
    try:
        jax.distributed.initialize(
            coordinator_address=address,
            num_processes=count,
            process_id=process,
            local_device_ids=local_devices,
            cluster_detection_method='deactivate',
            initialization_timeout=_START_SECONDS,
            heartbeat_timeout_seconds=max(_HEARTBEAT_SECONDS, round(4 * lost_after)),
            shutdown_timeout_seconds=_END_SECONDS,
        )
    except (ValueError, TypeError, IndexError) as error:
        raise UserError(
            f'the processes of this run cannot be started: {lifeline.first_line(error)}'
        ) from error
    except RuntimeError as error:
        raise Disconnected(
            f'the processes of this run did not come together in {_START_SECONDS} s:'
            f' {lifeline.first_line(error)}; look at the output of the others'
        ) from error
    if count > 1:
        lifeline.start(
            process,
            count,
            lost_after,
            coordinator.rpartition(':')[0].strip('[]'),
            lambda text: _client().key_value_set('cfg_jax/lifeline', text),
            lambda: _client().blocking_key_value_get('cfg_jax/lifeline', 1000 * _START_SECONDS),
        )
    if process:
        logging.set_verbosity(logging.WARNING)  # process 0 reports progress for all


def _relayed(coordinator: str) -> int:
    """The port of this machine behind which the coordinator is, see `relay`."""
    command = [sys.executable, '-I', relay.__file__, coordinator]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    _kept_open.append(process)
    return int(process.stdout.readline())


def _in_cluster() -> bool:
    """Whether a launcher that JAX knows may have started several processes."""
    environment = os.environ
    if all(name in environment for name in _SLURM):
        return _count_from('SLURM_NTASKS') > 1
    if 'OMPI_MCA_orte_hnp_uri' in environment:
        return _count_from('OMPI_COMM_WORLD_SIZE') > 1
    # On a machine with TPUs JAX itself looks for the other hosts.
    on_cpu = environment.get('JAX_PLATFORMS', '') == 'cpu'
    return importlib.util.find_spec('libtpu') is not None and not on_cpu


def _count_from(variable: str) -> int:
    """A number of processes from the environment; 1 where it is not set."""
    text = os.environ.get(variable, '1')
    if not (text.isascii() and text.isdecimal()):
        raise UserError(
            f'the environment variable {variable} must be a number of processes; got {text!r}'
        )
    return int(text)


def is_process_zero() -> bool:
    """Whether this process writes files and logs: process 0. Starts no device."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def barrier(name: str, seconds: float = BARRIER_SECONDS) -> None:
    """Returns when every process has called this as often as this one.

    Raises:
      Disconnected: some processes did not come in time; it names them.
    """
    if jax.process_count() == 1:
        return
    key = _next_key(name)
    _say(key, '')
    _hear(name, key, seconds)


def all_agree(name: str, agreed: bool) -> bool:
    """Whether every process calls this with True.

    Raises:
      Disconnected: as `barrier`.
    """
    if jax.process_count() == 1:
        return agreed
    key = _next_key(name)
    _say(key, str(int(agreed)))
    return all(answer == '1' for answer in _hear(name, key, BARRIER_SECONDS))


def run_on_process_zero(name: str, work: Callable[[], _T]) -> _T | None:
    """Process 0 does `work`, however long it takes, while the others wait.

    Nothing in it may wait for them, as Orbax does to save and to restore.

    Returns what `work` returns, on process 0; None on the others.

    Raises:
      UserError: what `work` raised on process 0, on every process.
      Disconnected: process 0 has died.
    """
    if jax.process_count() == 1:
        return work()
    key = f'{_next_key(name)}/0'
    if jax.process_index():
        outcome = _get(key, LONGEST)
        if outcome is None:
            raise Disconnected(f'process 0 was not done with {name!r} in a week')
        if outcome:
            raise UserError(outcome)
        return None
    try:
        result = work()
    except (UserError, OSError) as error:
        _client().key_value_set(key, str(error) or type(error).__name__)
        raise
    _client().key_value_set(key, '')
    return result


def _next_key(name: str) -> str:
    """The key of the next barrier of this name: a key is written once and stays."""
    _barriers[name] = _barriers.get(name, 0) + 1
    return f'cfg_jax/{name}/{_barriers[name]}'


def _say(key: str, answer: str) -> None:
    _client().key_value_set(f'{key}/{jax.process_index()}', answer)


def _hear(name: str, key: str, seconds: float) -> list[str]:
    """The answer of every process at the barrier of this key."""
    deadline = time.monotonic() + seconds
    answers = [
        _get(f'{key}/{process}', max(deadline - time.monotonic(), 0.01))
        for process in range(jax.process_count())
    ]
    missing = [str(process) for process, answer in enumerate(answers) if answer is None]
    if missing:
        raise Disconnected(
            f'waited {seconds:g} s at {name!r} for process {", ".join(missing)} of'
            f' {jax.process_count()}; look at its output, then start all of them again'
        )
    return [answer for answer in answers if answer is not None]


def _get(key: str, seconds: float) -> str | None:
    """A value that another process sets, or None after `seconds`."""
    try:
        return _client().blocking_key_value_get(key, max(1, round(1000 * seconds)))
    except jax.errors.JaxRuntimeError as error:
        if 'DEADLINE_EXCEEDED' not in str(error):
            raise Disconnected(
                f'lost the other processes ({lifeline.first_line(error)}); start all of them again'
            ) from error
        return None


def _client() -> Any:
    """The key-value store of JAX's distributed runtime, which has no public name up to JAX 0.12.

    The public collectives of `jax.experimental.multihost_utils` would wait for the devices.
    """
    from jax._src import distributed

    return distributed.global_state.client
