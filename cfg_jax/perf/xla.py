"""XLA: its flags, read from the environment when JAX starts, and the cache of its compilations."""

import importlib.metadata
import os
import re
from collections.abc import Mapping, MutableMapping

# What YNNPACK's kernels are left to do: nothing.
_YNN = '--xla_cpu_experimental_ynn_fusion_type='
# Versions of jaxlib that know the flag; another one may end at a flag it does not know.
_KNOW_IT = ('0.10.', '0.11.', '0.12.')
# What XLA for GPUs does together it copies together, and apart again: gradients to be sent, up to
# 30 MB by default, and products with one operand in common, up to 32. Small ones remain so.
GPU_OPTIONS = {
    'xla_gpu_all_reduce_combine_threshold_bytes': 2**20,
    'xla_gpu_dot_merger_threshold_mb': 4,
}
_DEVICES = '--xla_force_host_platform_device_count'
# JAX reserves three quarters of a GPU's memory by default.
_SHARE, _OLD_SHARE = 'XLA_CLIENT_MEM_FRACTION', 'XLA_PYTHON_CLIENT_MEM_FRACTION'
_OUR_SHARE = '0.9'


def set_flags(
    environment: MutableMapping[str, str] = os.environ, jaxlib: str | None = None
) -> None:
    """Adds the flags that pay for this project to XLA_FLAGS, unless the user has chosen otherwise.

    Commands call it before anything starts JAX; importing the library changes no environment. On
    CPUs jaxlib sends convolutions and products to YNNPACK's kernels since 0.10, which are slower
    here than XLA's own: see docs/performance.md. Where the user makes several devices of the host
    they stay with YNNPACK: XLA's own convolutions, run on two of them at once, make wrong features
    of a batch's first images (jaxlib 0.10.2). On GPUs large gradients are not copied to be sent,
    and a process may have nine tenths of the memory: what a large batch needs, with room for the
    libraries' own.

    Args:
      environment: to change.
      jaxlib: its version; by default the one installed.
    """
    version = jaxlib or importlib.metadata.version('jaxlib')
    flags = environment.get('XLA_FLAGS', '')
    if version.startswith(_KNOW_IT):
        ours = [f'--{name}={value}' for name, value in GPU_OPTIONS.items()]
        if not _has_cpu_devices(environment):
            ours = [_YNN, *ours]
        ours = [flag for flag in ours if flag.partition('=')[0] not in flags]
        environment['XLA_FLAGS'] = ' '.join([*flags.split(), *ours])
    if _OLD_SHARE not in environment:
        environment.setdefault(_SHARE, _OUR_SHARE)


def _has_cpu_devices(environment: Mapping[str, str]) -> bool:
    """Whether the user makes several devices of the host."""
    asked = re.search(rf'{_DEVICES}=(\d+)', environment.get('XLA_FLAGS', ''))
    return (asked[1] if asked else environment.get('JAX_NUM_CPU_DEVICES', '1')) != '1'


def only_compile(environment: MutableMapping[str, str] = os.environ) -> None:
    """Makes a process one that compiles for devices elsewhere (`topologies`).

    Nothing here is a TPU or a GPU, and nobody is to be asked about it: neither the metadata server
    of a cloud, nor CUDA's driver. Call it before anything starts JAX.
    """
    environment.update(
        JAX_PLATFORMS='cpu',
        JAX_SKIP_CUDA_CONSTRAINTS_CHECK='1',
        TPU_SKIP_MDS_QUERY='1',
        TPU_WORKER_HOSTNAMES='localhost',
        TPU_ACCELERATOR_TYPE='v4-8',
        ALLOW_MULTIPLE_LIBTPU_LOAD='1',
    )


def gpu_memory_share(environment: Mapping[str, str] = os.environ) -> float:
    """The share of a GPU's memory that a command's programs may have."""
    return float(environment.get(_SHARE) or environment.get(_OLD_SHARE) or _OUR_SHARE)


def keep_compilations(workdir: str | os.PathLike[str], on_cpu: bool = False) -> None:
    """Keeps compilations in WORKDIR/compilations, unless JAX_COMPILATION_CACHE_DIR says where.

    A restart then does not compile again. By default on accelerators only: code compiled for one
    CPU may not run on another one.
    """
    import jax  # set_flags comes before it

    from cfg_jax import files

    wanted = on_cpu or jax.default_backend() != 'cpu'
    if wanted and not jax.config.values['jax_compilation_cache_dir']:
        directory = files.as_path(workdir) / 'compilations'
        jax.config.update('jax_compilation_cache_dir', os.fspath(directory))
