"""Flags for XLA, which it reads from the environment when JAX starts."""

import importlib.metadata
import os
from collections.abc import MutableMapping

# What YNNPACK's kernels are left to do: products of matrices, not convolutions.
_YNN = '--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT'
_KNOW_IT = ('0.10.', '0.11.')  # versions of jaxlib; another one may end at a flag it does not know


def set_defaults(
    environment: MutableMapping[str, str] = os.environ, jaxlib: str | None = None
) -> None:
    """Adds what pays for this project to XLA_FLAGS, unless the user has chosen otherwise.

    On CPUs jaxlib 0.10 sends convolutions to YNNPACK's kernels, which are slower than its own: see
    docs/performance.md.

    Args:
      environment: to change.
      jaxlib: its version; by default the one installed.
    """
    version = jaxlib or importlib.metadata.version('jaxlib')
    flags = environment.get('XLA_FLAGS', '')
    if version.startswith(_KNOW_IT) and 'ynn_fusion_type' not in flags:
        environment['XLA_FLAGS'] = f'{flags} {_YNN}'.strip()
