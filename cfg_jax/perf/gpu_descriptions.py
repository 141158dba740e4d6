"""NVIDIA's GPUs as XLA's compiler wants them described, where none is present.

The facts are those of NVIDIA's data sheets and of the CUDA guide's table of compute capabilities.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Gpu(NamedTuple):
    """What tells one from the others.

    Attributes:
      name: as the driver gives it.
      capability: compute capability.
      cores: streaming multiprocessors.
      float32_lanes: of each.
      shared_kib: shared memory of each, KiB; a block gets one less.
      memory_bytes: as the driver reports it.
      bandwidth: of the memory, GB/s.
      cache_mib: the second level's, MiB.
      clock: at most, GHz.
    """

    name: str
    capability: tuple[int, int]
    cores: int
    float32_lanes: int
    shared_kib: int
    memory_bytes: int
    bandwidth: int
    cache_mib: int
    clock: float


GPUS = {
    'a100': Gpu('NVIDIA A100-SXM4-80GB', (8, 0), 108, 64, 164, 81_221 * 2**20, 2039, 40, 1.41),
    'h100': Gpu('NVIDIA H100 80GB HBM3', (9, 0), 132, 128, 228, 84_942_979_072, 3352, 50, 1.98),
    'h200': Gpu('NVIDIA H200', (9, 0), 132, 128, 228, 143_771 * 2**20, 4800, 50, 1.98),
}
CUDNN = (9, 12, 0)  # the version that kernels are chosen for
_CUDA = (13, 0, 0)


def to_text(gpu: Gpu) -> str:
    """XLA's `GpuTargetConfigProto` as text."""
    major, minor = gpu.capability
    accelerated = ' feature_extension: ACCELERATED_FEATURES' if major >= 9 else ''
    cuda = '.'.join(map(str, _CUDA))
    device = {
        'threads_per_block_limit': 1024,
        'threads_per_warp': 32,
        'shared_memory_per_block': 48 * 1024,
        'shared_memory_per_core': gpu.shared_kib * 1024,
        'threads_per_core_limit': 2048,
        'core_count': gpu.cores,
        'fpus_per_core': gpu.float32_lanes,
        'block_dim_limit_x': 2**31 - 1,
        'block_dim_limit_y': 2**16 - 1,
        'block_dim_limit_z': 2**16 - 1,
        'memory_bandwidth': gpu.bandwidth * 10**9,
        'l2_cache_size': gpu.cache_mib * 2**20,
        'clock_rate_ghz': gpu.clock,
        'device_memory_size': gpu.memory_bytes,
        'shared_memory_per_block_optin': (gpu.shared_kib - 1) * 1024,
        'cuda_compute_capability': f'{{ major: {major} minor: {minor}{accelerated} }}',
        'registers_per_core_limit': 2**16,
        'registers_per_block_limit': 2**16,
        'thread_dim_limit_x': 1024,
        'thread_dim_limit_y': 1024,
        'thread_dim_limit_z': 64,
        'device_vendor': '"NVIDIA Corporation"',
        'device_address_bits': 64,
        'ecc_enabled': 'true',
        'name': f'"{gpu.name}"',
        'driver_version': f'"{cuda}"',
        'runtime_version': f'"{cuda}"',
        'compile_time_toolkit_version': f'"{cuda}"',
        'dnn_version': f'"{".".join(map(str, CUDNN))}"',
    }
    return '\n'.join(
        [
            f'gpu_device_info {{ {_fields(device)} }}',
            'platform_name: "CUDA"',
            f'dnn_version_info {_version(CUDNN)}',
            f'runtime_version {_version(_CUDA)}',
            f'device_description_str: "{gpu.name}"',
        ]
    )


def _fields(values: Mapping[str, object]) -> str:
    return ' '.join(
        f'{name} {value}' if str(value).startswith('{') else f'{name}: {value}'
        for name, value in values.items()
    )


def _version(version: tuple[int, int, int]) -> str:
    return f'{{ {_fields(dict(zip(("major", "minor", "patch"), version, strict=True)))} }}'
