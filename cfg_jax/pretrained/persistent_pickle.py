"""Modules that NVIDIA's code pickled (`torch_utils.persistence`), read without running any of it.

Such a pickle carries the source code of its classes, which their own loader executes. The unpickler
here keeps the state alone: attributes and tensors. It knows the names that these files use, gives
each a stand-in that does nothing, and refuses the file at any other name.
"""

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from cfg_jax.errors import UserError
from cfg_jax.pretrained import torch_archive
from cfg_jax.pretrained.torch_archive import StateDict, Storage, Tensor, damage_reported

_OPAQUE = (
    ('numpy', 'dtype'),
    ('numpy', 'ndarray'),
    ('numpy.core.multiarray', 'scalar'),
    ('numpy._core.multiarray', 'scalar'),
    ('numpy.core.multiarray', '_reconstruct'),
    ('numpy._core.multiarray', '_reconstruct'),
    ('torch', 'device'),
)
_CONTAINERS = ('ModuleDict', 'ModuleList', 'Sequential')


def is_persistent(content: bytes) -> bool:
    """Whether a pickle that begins so is one of these, rather than PyTorch's own."""
    return b'torch_utils.persistence' in content


def open_modules(path: epath.PathLike, key: str = 'ema') -> StateDict:
    """The module under `key` of the pickled dict: its tensors by name, as a state dict has them.

    `attributes` holds `class_name` and the plain attributes (numbers, text, flags) of the module
    and those inside it, by their dotted names.

    Raises:
      UserError: the file is cut off, damaged, without such a module, or asks for code to be run.
    """
    path = epath.Path(path)
    with damage_reported(path), path.open('rb') as file:
        reader = _Reader(path)
        content = torch_archive.Unpickler(path, file, reader.stand_ins()).load()
        if not isinstance(content, dict) or not isinstance(content.get(key), _Module):
            raise UserError(f'{path} holds no module {key!r}; give a network snapshot')
        module = content[key]
        attributes = {'class_name': module.class_name} | dict(_attributes(module))
        return StateDict(path, dict(_tensors(module)), reader.flat, attributes)


class _Module:
    """An object of a class whose code is not run: its class's name and its attributes."""

    class_name = ''
    state: Mapping[str, Any] = {}


class _Reader:
    """The stand-ins of one file, made anew for each: a pickle may set attributes on them."""

    def __init__(self, path: epath.Path):
        self._path = path
        self._flats: dict[str, np.ndarray] = {}

    def flat(self, storage: Storage) -> np.ndarray:
        """The elements of a storage."""
        return self._flats[storage.key]

    def stand_ins(self) -> dict[tuple[str, str], Any]:
        """What each known name stands for."""

        class Opaque:
            """Something that networks do not need."""

            def __init__(self, *_: Any):
                pass

            def __setstate__(self, _: Any) -> None:
                pass

        class Container(_Module):
            def __setstate__(self, state: Mapping[str, Any]) -> None:
                self.state = state

        class Attributes(dict):
            """A dict whose attributes are its items, there; here a dict."""

        def reconstruct(meta: Mapping[str, Any]) -> _Module:
            module = _Module()
            module.class_name, module.state = str(meta['class_name']), meta['state'] or {}
            return module

        containers = {('torch.nn.modules.container', name): Container for name in _CONTAINERS}
        return (
            dict.fromkeys(_OPAQUE, Opaque)
            | containers
            | {
                ('dnnlib.util', 'EasyDict'): Attributes,
                ('torch_utils.persistence', '_reconstruct_persistent_obj'): reconstruct,
                ('torch.storage', '_load_from_bytes'): self._storage,
            }
        )

    def _storage(self, content: bytes) -> Storage:
        """A storage, which PyTorch pickles as a file of its own from before version 1.6."""
        found, flat = torch_archive.read_legacy(self._path, io.BytesIO(content))
        key = str(len(self._flats))
        self._flats[key] = flat(found)
        return found._replace(key=key)


def _tensors(module: _Module, prefix: str = '') -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a module and those inside it, by their dotted names."""
    for kind in ('_parameters', '_buffers'):
        for name, tensor in module.state.get(kind, {}).items():
            if isinstance(tensor, Tensor):
                yield prefix + name, tensor
    for name, inner in _inside(module):
        yield from _tensors(inner, f'{prefix}{name}.')


def _attributes(module: _Module, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Plain attributes of a module and those inside it, by their dotted names."""
    for name, value in module.state.items():
        if isinstance(value, bool | int | float | str):
            yield prefix + name, value
    for name, inner in _inside(module):
        yield from _attributes(inner, f'{prefix}{name}.')


def _inside(module: _Module) -> Iterator[tuple[str, _Module]]:
    for name, inner in module.state.get('_modules', {}).items():
        if isinstance(inner, _Module):
            yield name, inner
