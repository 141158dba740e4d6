"""A config's programs compiled for a machine that is not here: nothing is run or allocated."""

import re
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cfg_jax import config as config_lib
from cfg_jax.distributed import devices
from cfg_jax.errors import is_shortage
from cfg_jax.inference import Model
from cfg_jax.models import attention, networks
from cfg_jax.perf import program_text, traffic
from cfg_jax.perf.lowering import lower_trajectory
from cfg_jax.perf.operations import count_flops
from cfg_jax.perf.topologies import Target, answered
from cfg_jax.training import step as train_step

Result = dict[str, Any]

_NEEDED = re.compile(r'(?:Used|HLO temporaries \()\s*([\d.]+)G')


def training(config: ConfigDict, target: Target) -> Result:
    """The pmapped training step at the config's batch, see `_compiled`.

    Raises:
      UserError: a batch that the machine's chips cannot share evenly.
    """
    config = resolved(config, target)
    config_lib.check_devices(config, target.chips)
    size, machine = config.train.batch_size, target.machine
    mapped = devices.map_step(train_step.make_train_step(config, machine), machine)
    here = machine.local_devices, size // target.chips
    side, channels = config.data.image_size, config.data.channels
    batch = {
        'image': jax.ShapeDtypeStruct((*here, side, side, channels), np.float32),
        'condition': jax.ShapeDtypeStruct(here, np.int32),
    }
    with answered(target):
        state = jax.eval_shape(lambda: train_step.create_state(config))
        flops = count_flops(mapped, state, batch) * machine.processes  # it is traced for one
        result = _compiled(lambda: mapped.lower(state, batch), flops, size, target)
    train = {'batch_size': size, 'grad_accum': config.train.grad_accum}
    train['images_at_once_a_chip'] = size // target.chips // config.train.grad_accum
    return {'program': 'training', **train, 'remat': config.model.remat} | result


def sampling(config: ConfigDict, target: Target, guided: bool = True) -> Result:
    """The guided trajectory of `sweep.batch_size` images on one process, see `_compiled`."""
    config = resolved(config, target)
    model, machine = Model(config), target.machine
    network, inputs = networks.make_network(config), networks.inputs(config)
    chips = machine.local_devices
    count = -(-config.sweep.batch_size // chips) * chips
    here = target._replace(machine=machine._replace(processes=1))
    with answered(target):
        params = {'main': jax.eval_shape(network.init, jax.random.key(0), *inputs)}
        lowered = lower_trajectory(model, params, count, guided, machine)
        flops = _flops_of_trajectory(model, params, config, guided) * count
        result = _compiled(lambda: lowered, flops, count, here)
    steps = {'num_steps': config.sampler.num_steps, 'batch_size': count}
    return {'program': 'guided sampling' if guided else 'sampling', **steps} | result


def _flops_of_trajectory(
    model: Model, params: dict[str, Any], config: ConfigDict, guided: bool
) -> float:
    """Of one image: a forward pass, as often as sampler and rule ask for one."""
    network = networks.make_network(config)
    forward = count_flops(network.apply, params['main'], *networks.inputs(config))
    return forward * model.sampler.predictions * model.rule.nfe_per_level(float(guided))


def resolved(config: ConfigDict, target: Target) -> ConfigDict:
    """A copy of the config with what its attention's 'auto' means on the target."""
    config = config.copy_and_resolve_references()
    if config.model.attention == 'auto':
        config.model.attention = attention.flash_kernel(target.device)
    return config


def _compiled(lower: Any, flops: float, images: int, target: Target) -> Result:
    """What the compiler says of a program for `images` images on all of a target's chips.

    Args:
      lower: returns what is to be compiled.
      flops: of all chips together.
      images: alike.
      target: the machine.

    Returns:
      compiles, and why not; seconds to compile; memory of a chip in bytes; fits; operations of a
      chip; what is moved (`traffic`); kernels of attention; a roofline in images/s.
    """
    start = time.perf_counter()
    result: Result = {'topology': target.name, 'chips': target.chips}
    result['gflop_per_image'] = flops / images / 1e9
    try:
        compiled = lower().compile(compiler_options=target.options or None)
    except jax.errors.JaxRuntimeError as error:
        if not is_shortage(error):
            raise
        return result | {
            'compiles': False,
            'why': _reason(error),
            'needed_bytes': _needed(error),
            'usable_bytes': target.usable_bytes,
            'fits': False,
        }
    result |= {'compiles': True, 'compile_seconds': time.perf_counter() - start}
    memory = _memory(compiled, target)
    moved = traffic.measure(program_text.parse(compiled.as_text()))
    return (
        result
        | {'memory': memory, 'fits': memory['peak'] <= target.usable_bytes}
        | {'usable_bytes': target.usable_bytes}
        | {'traffic': traffic.to_json(moved)}
        | {'attention': _attention(moved.kernels)}
        | {'roofline': roofline(moved, flops / target.chips, images, target)}
    )


def roofline(moved: traffic.Traffic, flops: float, images: int, target: Target) -> Result:
    """The least time that a program takes: an estimate, which no program reaches.

    Products take the longer of their operations at the peak and their bytes at the memory's rate;
    everything else its bytes. Collectives go on meanwhile, and count where they take longer.

    Args:
      moved: of one chip.
      flops: of one chip.
      images: of all chips together.
      target: whose peak and rates.

    Returns:
      Milliseconds of each, images/s of all chips and of one.
    """
    chip = target.chip
    rate = chip.bandwidth * 1e9
    products = sum(moved.bytes.get(kind, 0) for kind in traffic.PRODUCTS) / rate
    others = sum(moved.bytes.values()) / rate - products
    compute = flops / (chip.peak_tflops * 1e12)
    sent = 0.0
    if moved.collectives and chip.interconnect is not None:
        bytes_per_second = chip.interconnect * 1e9 * target.links / chip.links
        sent = traffic.collective_seconds(moved, target.chips, bytes_per_second)
    seconds = max(max(compute, products) + others, sent)
    return {
        'operations_ms': 1e3 * compute,
        'products_memory_ms': 1e3 * products,
        'other_memory_ms': 1e3 * others,
        'collectives_ms': 1e3 * sent,
        'estimated_ms': 1e3 * seconds,
        'estimated_images_per_second': images / seconds,
        'estimated_images_per_second_a_chip': images / seconds / target.chips,
    }


def _attention(kernels: Mapping[str, int]) -> str:
    """Whose attention it is: XLA's is no call of a library."""
    for whose, name in (("cuDNN's", 'fmha'), ("Pallas's", 'tpu_custom_call')):
        calls = sum(count for kernel, count in kernels.items() if name in kernel)
        if calls:
            return f'{whose}, {calls} calls'
    return "XLA's"


def _memory(compiled: jax.stages.Compiled, target: Target) -> dict[str, int]:
    """Bytes of a chip. Donated arguments are outputs too, and count once in the peak."""
    found: Any = compiled.memory_analysis()
    kept = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return {
        'arguments': found.argument_size_in_bytes,
        'outputs': found.output_size_in_bytes,
        'aliased': found.alias_size_in_bytes,
        'temporaries': found.temp_size_in_bytes,
        'peak': kept + found.temp_size_in_bytes,
        'usable': target.usable_bytes,
    }


def _reason(error: Exception) -> str:
    """The compiler's sentence."""
    return str(error).strip().splitlines()[0]


def _needed(error: Exception) -> int | None:
    found = _NEEDED.search(str(error))
    return round(float(found[1]) * 2**30) if found else None
