"""Classifier-Free Diffusion Guidance (Ho & Salimans, arXiv 2207.12598) in JAX.

import cfg_jax
model = cfg_jax.load('runs/digits')
images = model.sample([3, 3, 7], w=3.0, seed=0)      # uint8 [3, H, W, C]
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = '0.2.0'

if TYPE_CHECKING:
    from cfg_jax.inference import Model as Model
    from cfg_jax.loading import load as load

_MODULES = (
    'conditioning',
    'config',
    'data',
    'diffusion',
    'editing',
    'evaluation',
    'guidance',
    'inference',
    'losses',
    'metrics',
    'models',
    'samplers',
    'training',
)


def __getattr__(name: str) -> Any:
    # Imported when they are used: `import cfg_jax` starts no device and takes no time.
    if name == 'load':
        return importlib.import_module('cfg_jax.loading').load
    if name == 'Model':
        return importlib.import_module('cfg_jax.inference').Model
    if name in _MODULES:
        return importlib.import_module(f'cfg_jax.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
