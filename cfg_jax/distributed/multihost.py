"""Many processes of one run: starting them, meeting, and speaking with one voice.

Processes find each other through JAX's distributed runtime; its key-value store carries what is
said here, so that nothing of it waits for a device.
"""

import importlib.util
import os
import time
from collections.abc import Callable
from typing import TypeVar

import jax
from jax._src import distributed  # the client has no public name

from cfg_jax.errors import (
    Disconnected,
    UserError,
)

MEETING_SECONDS = 600.0
LONGEST = 7 * 24 * 3600.0  # for work of process 0 that the others wait out; a dead one is noticed
_START_SECONDS = 300
_END_SECONDS = 120  # that a process waits at its end for the others before it ends them too

# What `srun` gives its processes; a batch script outside of it has only some of them.
_SLURM = ('SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_LOCALID')

Report = Callable[[str], None]
_T = TypeVar('_T')
_meetings: dict[str, int] = {}


def start(coordinator: str = '', num_processes: int = 0, process_id: int = -1) -> None:
    """Joins this process to the others of its run. Call it before anything touches a device.

    Without arguments TPU pods, Slurm (`srun`) and Open MPI are recognised; elsewhere this is the
    only process.

    Args:
      coordinator: HOST:PORT of process 0.
      num_processes: of the run.
      process_id: of this one, from 0.

    Raises:
      UserError: some of the arguments without the others.
      Disconnected: processes that do not come.
    """
    if coordinator or num_processes or process_id >= 0:
        if not (':' in coordinator and 0 <= process_id < num_processes):
            raise UserError(
                'give all of --coordinator=HOST:PORT, --num_processes=N and --process_id=I with'
                f' I in 0..N-1; got {coordinator!r}, {num_processes} and {process_id}'
            )
        _initialize(
            coordinator_address=coordinator,
            num_processes=num_processes,
            process_id=process_id,
            cluster_detection_method='deactivate',
        )
    elif _in_cluster():
        _initialize()


def _initialize(**how: str | int) -> None:
    try:
        jax.distributed.initialize(
            initialization_timeout=_START_SECONDS,
            shutdown_timeout_seconds=_END_SECONDS,
            **how,
        )
    except (RuntimeError, ValueError) as error:
        raise Disconnected(
            f'the processes of this run did not come together in {_START_SECONDS} s:'
            f' {str(error).splitlines()[0]}; look at the output of the others'
        ) from error


def _in_cluster() -> bool:
    """Whether a launcher that JAX knows has started several processes."""
    environment = os.environ
    if all(name in environment for name in _SLURM):
        return int(environment['SLURM_NTASKS']) > 1
    if 'OMPI_MCA_orte_hnp_uri' in environment:
        return int(environment.get('OMPI_COMM_WORLD_SIZE', 1)) > 1
    on_cpu = environment.get('JAX_PLATFORMS', '') == 'cpu'
    if importlib.util.find_spec('libtpu') is None or on_cpu:
        return False
    from jax._src import clusters

    return any(env.is_env_present() for env in (clusters.GceTpuCluster, clusters.GkeTpuCluster))


def is_first() -> bool:
    """Whether this process writes files and talks: process 0."""
    return jax.process_index() == 0


def only_first(report: Report) -> Report:
    """`report` on process 0, silence on the others."""
    return report if is_first() else _silent


def _silent(line: str) -> None:
    del line


def meet(name: str, seconds: float = MEETING_SECONDS) -> None:
    """Returns when every process has called this as often as this one.

    Raises:
      Disconnected: some processes did not come in time; it names them.
    """
    if jax.process_count() == 1:
        return
    _say(_meeting(name), '')
    _hear(name, seconds)


def all_agree(name: str, agreed: bool) -> bool:
    """Whether every process calls this with True.

    Raises:
      Disconnected: as `meet`.
    """
    if jax.process_count() == 1:
        return agreed
    _say(_meeting(name), str(int(agreed)))
    return all(answer == '1' for answer in _hear(name, MEETING_SECONDS))


def first_does(name: str, work: Callable[[], _T]) -> _T | None:
    """Process 0 does `work`, however long it takes, while the others wait.

    Returns what `work` does, on process 0; None on the others.

    Raises:
      UserError: what `work` raised on process 0, on every process.
      Disconnected: process 0 has died.
    """
    if jax.process_count() == 1:
        return work()
    key = f'{_meeting(name)}/0'
    if not is_first():
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


def _meeting(name: str) -> str:
    """The next meeting of this name: a key is written once and stays."""
    _meetings[name] = _meetings.get(name, 0) + 1
    return f'cfg_jax/{name}/{_meetings[name]}'


def _say(meeting: str, words: str) -> None:
    _client().key_value_set(f'{meeting}/{jax.process_index()}', words)


def _hear(name: str, seconds: float) -> list[str]:
    """What every process said at the latest meeting of this name."""
    meeting, deadline = f'cfg_jax/{name}/{_meetings[name]}', time.monotonic() + seconds
    said = [
        _get(f'{meeting}/{process}', max(deadline - time.monotonic(), 0.01))
        for process in range(jax.process_count())
    ]
    missing = [str(process) for process, words in enumerate(said) if words is None]
    if missing:
        raise Disconnected(
            f'waited {seconds:g} s at {name!r} for process {", ".join(missing)} of'
            f' {jax.process_count()}; look at its output, then start all of them again'
        )
    return [words for words in said if words is not None]


def _get(key: str, seconds: float) -> str | None:
    """A value that another process sets, or None after `seconds`."""
    try:
        return _client().blocking_key_value_get(key, max(1, round(1000 * seconds)))
    except jax.errors.JaxRuntimeError as error:
        if 'DEADLINE_EXCEEDED' not in str(error):
            raise Disconnected(
                f'lost the other processes ({str(error).splitlines()[0]}); start all of them again'
            ) from error
        return None


def _client():
    return distributed.global_state.client
