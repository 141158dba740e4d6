"""XLA: its flags, read from the environment when JAX starts, and the cache of its compilations."""

import importlib.metadata
import os
from collections.abc import MutableMapping

# What YNNPACK's kernels are left to do: products of matrices, not convolutions.
_YNN = '--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT'
# Versions of jaxlib that know the flag; another one may end at a flag it does not know.
_KNOW_IT = ('0.10.', '0.11.', '0.12.')


def set_flags(
    environment: MutableMapping[str, str] = os.environ, jaxlib: str | None = None
) -> None:
    """Adds the flags that pay for this project to XLA_FLAGS, unless the user has chosen otherwise.

    Commands call it before anything starts JAX; importing the library changes no environment. On
    CPUs jaxlib sends convolutions to YNNPACK's kernels since 0.10, which are slower here than
    XLA's own: see docs/performance.md.

    Args:
      environment: to change.
      jaxlib: its version; by default the one installed.
    """
    version = jaxlib or importlib.metadata.version('jaxlib')
    flags = environment.get('XLA_FLAGS', '')
    if version.startswith(_KNOW_IT) and 'ynn_fusion_type' not in flags:
        environment['XLA_FLAGS'] = f'{flags} {_YNN}'.strip()


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
