"""Memory: what a training needs, at least or about, what there is, and what to change."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cfg_jax.errors import UserError, is_shortage
from cfg_jax.training.objectives import make_objective
from cfg_jax.training.step import create_state

_CGROUP = Path('/sys/fs/cgroup/memory.max')  # the limit of a container
# Share of what differentiation keeps for the backward pass that compiled programs have in memory at
# their peak: XLA computes cheap results again. With blocks it has nothing cheap left, nor with
# convolutions on GPUs, and what is computed again comes on top. Seen in what scripts/compile_for.py
# compiled for h100:8 with 64 and 256 images at once, for v5e-8 with 32 and for v4-8 with 64; with
# convolutions for h100:8 alone, with blocks for h100:8 with 256 and for v5e-8 with 64.
_IN_MEMORY = {
    ('gpu', 'none'): 0.225,
    ('gpu', 'convolutions'): 0.85,
    ('gpu', 'blocks'): 0.85,
    ('tpu', 'none'): 0.26,
    ('tpu', 'blocks'): 1.7,
}
_ASKED = re.compile(r'allocat\w*\s+(?:([\d.]+\s?[KMGTP]i?B)|(\d+)\s?bytes)')  # XLA, NumPy


class Estimate(NamedTuple):
    """Bytes of one device in training: so many, and so many for each image of one pass."""

    fixed: int
    per_image: float

    def at(self, images: int) -> float:
        """With so many images at once."""
        return self.fixed + images * self.per_image


def estimate(config: ConfigDict, platform: str) -> Estimate:
    """About what a training needs on a 'gpu' or 'tpu', traced and not compiled.

    State, gradient, and a share of what differentiation keeps of each image; where something is
    computed again, no more than where nothing is.
    """
    state = jax.eval_shape(lambda: create_state(config))
    share = _IN_MEMORY.get((platform, config.model.remat), _IN_MEMORY[platform, 'none'])
    per_image = share * _kept_of_an_image(config, state.params)
    if config.model.remat != 'none':
        plain = config.copy_and_resolve_references()
        plain.model.remat = 'none'
        whole = _IN_MEMORY[platform, 'none'] * _kept_of_an_image(plain, state.params)
        per_image = min(per_image, whole)
    return Estimate(_bytes(state) + _bytes(state.params), per_image)


def check_training(config: ConfigDict) -> None:
    """Refuses, before anything is compiled, a training that cannot fit.

    A lower bound is compared: the state (16 bytes a parameter in float32: parameters, EMA and
    Adam's two moments; Muon has one of a kernel), the gradient, the batch, and the first feature
    map of one pass. On accelerators `estimate` is compared too, which is about what the compiled
    step takes.

    Raises:
      UserError: naming what is needed, what there is, and the `train.grad_accum` that fits.
    """
    state = jax.eval_shape(lambda: create_state(config))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    needed, words, there = _bytes(state) + _bytes(state.params), 'at least', available()
    needed += _batch_bytes(config)
    change = advice(config)
    platform = jax.default_backend()
    if (platform, 'none') in _IN_MEMORY:
        estimated, words = estimate(config, platform), 'about'
        share = config.train.batch_size // jax.device_count()
        needed = max(needed, estimated.at(share // config.train.grad_accum))
        change = fitting_advice(config, share, estimated, there)
    if needed > there:
        raise UserError(
            f'{parameters:,} parameters with train.batch_size={config.train.batch_size} need'
            f' {words} {gib(needed)} of memory on each {jax.devices()[0].device_kind}, which has'
            f' {gib(there)}; {change}'
        )


def fitting_advice(config: ConfigDict, share: int, estimated: Estimate, there: float) -> str:
    """The least accumulation with which a device's `share` of the batch is estimated to fit."""
    for parts in range(1, share + 1):
        if share % parts == 0 and estimated.at(share // parts) <= there:
            return f'train.grad_accum={parts} fits'
    return advice(config)


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
    features = pixels // model.get('patch', 1) ** 2 * channels
    return share * pixels * data.channels * 4 + part * features * itemsize


def _kept_of_an_image(config: ConfigDict, params: Any) -> int:
    return _kept_bytes(config, params, 2) - _kept_bytes(config, params, 1)


def _kept_bytes(config: ConfigDict, params: Any, images: int) -> int:
    """Of everything that differentiation keeps for the backward pass of so many images."""
    objective, data = make_objective(config), config.data

    def pull(params, key, x, label, keys):
        def loss(params):
            return jnp.mean(objective(params, key, x, label, keys)['loss'])

        return jax.vjp(loss, params)[1]

    shape = images, data.image_size, data.image_size, data.channels
    key = jax.eval_shape(lambda: jax.random.key(0))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), images))
    x, label = jax.ShapeDtypeStruct(shape, np.float32), jax.ShapeDtypeStruct((images,), np.int32)
    return _bytes(jax.eval_shape(pull, params, key, x, label, keys))


def _bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
