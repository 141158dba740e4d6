"""Keeps what XLA has compiled, so that a restart on an accelerator does not compile again."""

import os

import jax
from etils import epath

from cfg_jax import files


def keep(workdir: epath.PathLike, on_cpu: bool = False) -> None:
    """Keeps compilations in WORKDIR/compilations, unless JAX_COMPILATION_CACHE_DIR says where.

    By default on accelerators only: code compiled for one CPU may not run on another one.
    """
    wanted = on_cpu or jax.default_backend() != 'cpu'
    if wanted and not jax.config.jax_compilation_cache_dir:
        directory = files.as_path(workdir) / 'compilations'
        jax.config.update('jax_compilation_cache_dir', os.fspath(directory))
