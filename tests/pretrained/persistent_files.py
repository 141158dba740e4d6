"""Pickles as NVIDIA's code writes them, made without PyTorch or that code.

A pickle names functions and classes of modules; while one is written, stand-ins are in their place.
"""

import collections
import contextlib
import pickle
import sys
import types

import numpy as np
from test_torch_archive import legacy_file, storage

_SOURCE = 'raise SystemExit("the source code was run")'


def _named(module, name, kind):
    """A function or class that pickles as MODULE.NAME."""
    kind.__module__, kind.__qualname__, kind.__name__ = module, name, name
    return kind


def _function(module, name):
    return _named(module, name, types.FunctionType((lambda *_: None).__code__, {}))


RECONSTRUCT = _function('torch_utils.persistence', '_reconstruct_persistent_obj')
LOAD = _function('torch.storage', '_load_from_bytes')
TENSOR = _function('torch._utils', '_rebuild_tensor_v2')
PARAMETER = _function('torch._utils', '_rebuild_parameter')
MODULE_DICT = _named('torch.nn.modules.container', 'ModuleDict', type('ModuleDict', (), {}))
EASY_DICT = _named('dnnlib.util', 'EasyDict', type('EasyDict', (dict,), {}))
_STAND_INS = (RECONSTRUCT, LOAD, TENSOR, PARAMETER, MODULE_DICT, EASY_DICT)


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self._reduced = function, arguments

    def __reduce__(self):
        return self._reduced


@contextlib.contextmanager
def _modules():
    """The stand-ins can be imported inside the block."""
    modules = {}
    for stand_in in _STAND_INS:
        parts = stand_in.__module__.split('.')
        for end in range(1, len(parts) + 1):
            name = '.'.join(parts[:end])
            modules.setdefault(name, types.ModuleType(name))
        setattr(modules[stand_in.__module__], stand_in.__name__, stand_in)
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def tensor(array):
    """A tensor whose storage is a file of its own, as pickle writes it."""
    array = np.asarray(array, order='C')
    opcodes = storage(array.dtype.name, '0', array.size, b'N')
    stored = Call(LOAD, legacy_file(opcodes, {'0': array.ravel()}))
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return Call(TENSOR, stored, 0, array.shape, strides, False, collections.OrderedDict())


def persistent(class_name, state):
    """An object of a class whose source code comes with it."""
    meta = {'type': 'class', 'version': 6, 'module_src': _SOURCE, 'class_name': class_name}
    return Call(RECONSTRUCT, meta | {'state': state})


def module(class_name, tensors, attributes, buffers=()):
    """A module of these tensors by dotted names, with the modules inside it that names ask for."""
    own = {name: array for name, array in tensors.items() if '.' not in name}
    groups = {}
    for kind in (tensors, attributes):
        for name in kind:
            head, dot, rest = name.partition('.')
            if dot:
                groups.setdefault(head, ({}, {}))[kind is attributes][rest] = kind[name]
    state = {name: value for name, value in attributes.items() if '.' not in name}
    state |= {
        'training': False,
        '_parameters': collections.OrderedDict(
            (name, Call(PARAMETER, tensor(array), False, collections.OrderedDict()))
            for name, array in own.items()
            if name not in buffers
        ),
        '_buffers': collections.OrderedDict(
            (name, tensor(array)) for name, array in own.items() if name in buffers
        ),
        '_modules': collections.OrderedDict(
            (name, module(name, inside, theirs, buffers))
            for name, (inside, theirs) in groups.items()
        ),
        'init_kwargs': EASY_DICT(dropout=np.sqrt(0.5)),
    }
    if class_name in ('enc', 'dec'):
        container = MODULE_DICT()
        container.__dict__.update(state)
        return container
    return persistent(class_name, state)


def snapshot(network, **others):
    """The bytes of a network snapshot."""
    with _modules():
        return pickle.dumps({'ema': network} | others, protocol=4)
