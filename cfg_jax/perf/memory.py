"""Memory: the least that a training needs, what there is, and what to change."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from cfg_jax.errors import UserError, is_shortage
from cfg_jax.training.step import create_state

_CGROUP = Path('/sys/fs/cgroup/memory.max')  # the limit of a container
_ASKED = re.compile(r'allocat\w*\s+(?:([\d.]+\s?[KMGTP]i?B)|(\d+)\s?bytes)')  # XLA, NumPy


def check_training(config: ConfigDict) -> None:
    """Refuses, before anything is compiled, a training that cannot fit.

    A lower bound is compared: the state (16 bytes a parameter in float32: parameters, EMA and two
    moments), the gradient, the batch, and the first feature map of one pass; what a network needs
    beyond that shows when it runs.

    Raises:
      UserError: naming what is needed and what there is.
    """
    state = jax.eval_shape(lambda: create_state(config))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    needed = _bytes(state) + _bytes(state.params) + _batch_bytes(config)
    there = available()
    if needed > there:
        raise UserError(
            f'{parameters:,} parameters with train.batch_size={config.train.batch_size} need at'
            f' least {gib(needed)} of memory on each {jax.devices()[0].device_kind}, which has'
            f' {gib(there)}; {advice(config)}'
        )


def available() -> int:
    """Bytes that one device may use; of the host's memory its share, on CPU."""
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get('bytes_limit')  # None on CPU
    return limit or host_bytes() // jax.local_device_count()


def host_bytes() -> int:
    """Bytes of this machine's memory, or of its container's."""
    total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int(_CGROUP.read_text()))
    return total


@contextlib.contextmanager
def shortage_reported(what: str, advice: str) -> Iterator[None]:
    """Turns the failed allocations of devices and of NumPy into a UserError.

    Args:
      what: needed the memory: 'train.batch_size=512'.
      advice: what to change.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        asked = _ASKED.search(str(error))
        more = f' for another {asked[1] or gib(int(asked[2]))}' if asked else ''
        raise UserError(
            f'not enough memory{more} with {what}; each {jax.devices()[0].device_kind} has'
            f' {gib(available())}; {advice}'
        ) from error


def advice(config: ConfigDict) -> str:
    """What makes a training smaller: more accumulation if the batch can be divided, else less."""
    batch, accum, devices = config.train.batch_size, config.train.grad_accum, jax.device_count()
    parts = [n * accum for n in (2, 3, 5) if batch % (devices * n * accum) == 0]
    more = [f'train.grad_accum={n}' for n in parts]
    smaller = max(batch // 2 // (devices * accum), 1) * devices * accum
    options = [*more[:1], *([f'train.batch_size={smaller}'] if smaller < batch else [])]
    return f'try {" or ".join([*options, "a smaller model"])}'


def gib(count: float) -> str:
    """'12.3 GiB'."""
    return f'{count / 2**30:,.1f} GiB'


def _batch_bytes(config: ConfigDict) -> int:
    """Of one device: its share of the images, and the first feature map of one part of them."""
    data, train, model = config.data, config.train, config.model
    share = train.batch_size // jax.device_count()
    pixels = data.image_size**2
    channels = int(model.width * model.channel_mult[0])
    itemsize = np.dtype(jax.numpy.dtype(model.dtype)).itemsize
    part = share // train.grad_accum
    return share * pixels * data.channels * 4 + part * pixels * channels * itemsize


def _bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
