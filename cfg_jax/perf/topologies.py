"""Machines that are not here, described well enough to compile for them.

The compilers are wheels (`pip install -e '.[aot]'`): libtpu has the TPUs' topologies, and the
plugin for CUDA compiles for a GPU that is described to it, without a driver.
"""

import contextlib
import importlib.util
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from cfg_jax.distributed.devices import Machine
from cfg_jax.errors import UserError
from cfg_jax.perf import gpu_descriptions, xla
from cfg_jax.perf.accelerators import ACCELERATORS, Accelerator
from cfg_jax.registry import suggestion

_FORM = re.compile(r'(?P<kind>\w+):(?P<sizes>\d+(x\d+)*)')
# Names of whole machines, as they are rented.
MACHINES = {
    'v4-8': 'v4:2x2x1',
    'v4-32': 'v4:2x2x4',
    'v5e-8': 'v5e:2x4',
    'v5p-8': 'v5p:2x2x1',
    'v6e-8': 'v6e:2x4',
}
# What a program may have of a TPU's memory, GiB: the rest is the runtime's. The compiler says so
# where it refuses one ("Used 31.2G of 30.75G hbm").
_USABLE_GIB = {'v4': 30.75, 'v5e': 15.75, 'v5p': 95.74, 'v6e': 31.25}
_CHIPS_OF_A_HOST = {'v4': (2, 2, 1), 'v5e': (2, 4, 1), 'v5p': (2, 2, 1), 'v6e': (2, 4, 1)}
# Kernels cannot be timed without the device: the compiler takes its defaults.
_UNTIMED = {
    'xla_gpu_autotune_level': 0,
    'xla_gpu_shard_autotuning': False,
    'xla_gpu_enable_triton_gemm': False,
}


class Target(NamedTuple):
    """A machine to compile for.

    Attributes:
      name: such as 'v5p:2x2x1'.
      chip: what its maker states.
      machine: its devices.
      usable_bytes: what a program may have of a chip's memory.
      links: of a chip to its neighbours, those in use; in a corner, where they are fewest.
      options: of the compiler.
    """

    name: str
    chip: Accelerator
    machine: Machine
    usable_bytes: int
    links: int
    options: dict[str, Any]

    @property
    def chips(self) -> int:
        """How many."""
        return self.machine.local_devices * self.machine.processes

    @property
    def device(self) -> Any:
        """One of its devices."""
        assert self.machine.devices is not None
        return self.machine.devices[0]


def target(name: str) -> Target:
    """The machine of a name: 'v5p:2x2x1', 'h100:8', 'h100:2x8' (two of eight) or 'v5p-8'.

    Raises:
      UserError: a name that is none, or a compiler that is not installed.
    """
    form = _FORM.fullmatch(MACHINES.get(name, name))
    kinds = (*_USABLE_GIB, *gpu_descriptions.GPUS)
    if form is None or form['kind'] not in kinds:
        raise UserError(
            f'no topology {name!r}{suggestion(name, MACHINES)}; write KIND:SIZES with a KIND of'
            f' {", ".join(kinds)}, such as v5p:2x2x1 or h100:8, or one of {", ".join(MACHINES)}'
        )
    sizes = tuple(int(size) for size in form['sizes'].split('x'))
    make = _tpu if form['kind'] in _USABLE_GIB else _gpu
    if not installed(make is _gpu):
        wheel = 'jax-cuda13-plugin and jax-cuda13-pjrt' if make is _gpu else 'libtpu'
        raise UserError(f"{name} needs {wheel}: pip install -e '.[aot]'")
    return make(name, form['kind'], sizes)


def installed(gpu: bool) -> bool:
    """Whether the compiler for GPUs, or that for TPUs, is installed."""
    module = 'jax_plugins.xla_cuda13' if gpu else 'libtpu'
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@contextlib.contextmanager
def answered(target: Target) -> Iterator[None]:
    """JAX's own questions to a present GPU are answered for the target's.

    The functions are JAX's, and take no device: they decide whether cuDNN knows an attention.
    """
    if target.machine.platform != 'gpu':
        yield
        return
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    def at_least(capability: str) -> bool:
        return float(target.device.compute_capability) >= float(capability)

    def equal(capability: str) -> bool:
        return float(target.device.compute_capability) == float(capability)

    major, minor, patch = gpu_descriptions.CUDNN
    answers = {
        'check_cudnn_version': lambda: 10_000 * major + 100 * minor + patch,
        'check_compute_capability': at_least,
        'is_cuda_compute_capability_equal': equal,
    }
    before = {name: getattr(cudnn, name) for name in answers}
    try:
        for name, answer in answers.items():
            setattr(cudnn, name, answer)
        yield
    finally:
        for name, function in before.items():
            setattr(cudnn, name, function)


def _tpu(name: str, kind: str, sizes: tuple[int, ...]) -> Target:
    # One device a chip, as JAX has it on machines of these kinds.
    settings: dict[str, Any] = {'chip_config_name': 'megacore'} if kind == 'v4' else {}
    if all(size <= most for size, most in zip(sizes, _CHIPS_OF_A_HOST[kind], strict=False)):
        settings['chips_per_host_bounds'] = [*sizes, 1, 1][:3]
    devices = _described(f'{kind}:{"x".join(map(str, sizes))}', 'tpu', name, settings)
    chip = ACCELERATORS[f'tpu-{kind}']
    return Target(
        name,
        chip,
        _machine('tpu', devices),
        round(_USABLE_GIB[kind] * 2**30),
        min(sum(size > 1 for size in sizes), chip.links),
        {},
    )


def _gpu(name: str, kind: str, sizes: tuple[int, ...]) -> Target:
    if len(sizes) > 2 or sizes[-1] > 8:
        raise UserError(f'{name}: write {kind}:GPUS or {kind}:HOSTSxGPUS, at most 8 GPUS a host')
    hosts = math.prod(sizes[:-1])
    gpu = gpu_descriptions.GPUS[kind]
    settings = {
        'target_config': gpu_descriptions.to_text(gpu),
        'topology': f'1x{hosts}x{sizes[-1]}',
    }
    devices = _described('', 'cuda', name, settings)
    usable = int(xla.gpu_memory_share() * gpu.memory_bytes)
    options = xla.GPU_OPTIONS | _UNTIMED
    return Target(name, ACCELERATORS[kind], _machine('gpu', devices), usable, 1, options)


def _described(topology: str, platform: str, name: str, settings: dict[str, Any]) -> list[Any]:
    try:
        return topologies.get_topology_desc(topology, platform=platform, **settings).devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f'{name} is no such machine: {str(error).splitlines()[0]}') from error


def _machine(platform: str, devices: list[Any]) -> Machine:
    processes = len({device.process_index for device in devices})
    return Machine(platform, len(devices) // processes, processes, tuple(devices))
