"""Which kernels take the devices' time, by JAX's profiler."""

import collections
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax

# Lines of a trace that hold work: streams of a GPU, a TPU's operations, XLA's threads on a CPU.
_WORK = re.compile(r'Stream|XLA Ops$|tf_XLA')
# What waits or calls; on a CPU convolutions run in tasks that have no name and are not seen.
_NO_KERNEL = re.compile(r'Thunk|end: |Wait')


def top_kernels(run: Callable[[], Any], count: int = 10) -> list[dict[str, Any]]:
    """The kernels that take most of the time of `run()`, which must block until it is done.

    Returns:
      `count` rows of kernel (a name, whose number is left out), milliseconds, share of the time of
      all kernels, and calls.
    """
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            run()
        traces = Path(directory).glob('**/*.xplane.pb')
        data = [jax.profiler.ProfileData.from_file(str(path)) for path in traces]
        times, calls = _by_kernel(_events(plane for one in data for plane in one.planes))
    whole = sum(times.values())
    return [
        {'kernel': name, 'milliseconds': time / 1e6, 'share': time / whole, 'calls': calls[name]}
        for name, time in sorted(times.items(), key=lambda item: -item[1])[:count]
    ]


def _events(planes: Iterable[Any]) -> Iterator[tuple[str, float]]:
    """Names and nanoseconds of the events on devices, or on the host where there are none."""
    planes = list(planes)
    devices = [plane for plane in planes if plane.name.startswith('/device:')]
    for plane in devices or planes:
        for line in plane.lines:
            if _WORK.match(line.name):
                yield from ((event.name, event.duration_ns) for event in line.events)


def _by_kernel(
    events: Iterable[tuple[str, float]],
) -> tuple[dict[str, float], collections.Counter[str]]:
    times: dict[str, float] = collections.defaultdict(float)
    calls: collections.Counter[str] = collections.Counter()
    for event, nanoseconds in events:
        if not _NO_KERNEL.match(event):
            name = re.sub(r'[._]\d+$', '', event)
            times[name] += nanoseconds
            calls[name] += 1
    return times, calls
