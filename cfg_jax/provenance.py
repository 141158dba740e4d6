"""What a result says of how it came about."""

import importlib.metadata
import platform
from typing import Any

import jax

_PACKAGES = (
    'cfg_jax',
    'jax',
    'jaxlib',
    'flax',
    'optax',
    'orbax-checkpoint',
    'grain',
    'tensorflow-datasets',
    'numpy',
)


def describe_environment() -> dict[str, Any]:
    """Versions of Python and the packages that numbers depend on, and the devices."""
    versions = {'python': platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = 'not installed'
    device = jax.devices()[0]
    return {
        'versions': versions,
        'device': {
            'platform': device.platform,
            'kind': device.device_kind,
            'count': jax.device_count(),
        },
    }
