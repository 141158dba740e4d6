"""Tensors of a safetensors file that someone else wrote, each read when it is asked for."""

import math

import numpy as np
import safetensors
from etils import epath

from cfg_jax.errors import UserError
from cfg_jax.pretrained.torch_archive import StateDict, Storage, Tensor

_DTYPES = {'F16': '<f2', 'F32': '<f4', 'F64': '<f8', 'I64': '<i8'}


def open_safetensors(path: epath.PathLike) -> StateDict:
    """The tensors of a file.

    Raises:
      UserError: not a readable safetensors file, or a tensor of a type that is not known.
    """
    path = epath.Path(path)
    try:
        file = safetensors.safe_open(path, framework='numpy')
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f'{path} is not a readable safetensors file ({error})') from error

    def flat(storage: Storage) -> np.ndarray:
        return file.get_tensor(storage.key).reshape(-1)

    names = list(file.keys())
    if any(name.startswith('params/') for name in names):
        raise UserError(f'{path} was imported or exported already: give it as --model')
    tensors = {}
    for name in names:
        view = file.get_slice(name)
        shape, dtype = tuple(view.get_shape()), view.get_dtype()
        if dtype not in _DTYPES:
            raise UserError(f'{path}: {name!r} is {dtype}; get the file in float32')
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        storage = Storage(_DTYPES[dtype], name, math.prod(shape))
        tensors[name] = Tensor(storage, 0, shape, strides)
    return StateDict(path, tensors, flat)
