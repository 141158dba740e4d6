"""From the published files of the FID Inception to the `.npz` that this project reads.

Sources are pytorch-fid's state dict (`.pth`, `.pt`) and the `.npz` format itself: float32
`<layer>/w` (HWIO, batch norm folded in) and `<layer>/b` for `inception_network.layers`. A source
may lack layers; the result then serves fewer taps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float

from cfg_jax import files
from cfg_jax.errors import UserError
from cfg_jax.metrics.features.inception_network import layers
from cfg_jax.pretrained import torch_archive

# SHA-256 -> name
KNOWN = {
    '6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2': (
        'pt_inception-2015-12-05-6726825d.pth'
    ),
    '4faaf593dc644c4e149e779cc93d7ec6ff7e2c4d8c6d16b43ad9cb104269308e': (
        'inception2015_to_mixed8.npz'
    ),
}

_EPSILON = float(np.float32(1e-3))  # the graph's attribute is a float32


class _BatchNorm(NamedTuple):
    """Parts of a batch norm, [channels] each."""

    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


def convert(
    path: epath.PathLike, accept_unknown: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by name, and {'source': name, 'source_sha256': digest, 'known': whether we know it}.

    Raises:
      UserError: no such file, an unknown suffix, an unknown digest without `accept_unknown`, a
        damaged file, a layer of another shape, values that are not finite, or no layer at all.
    """
    path = files.as_path(path)
    if path.suffix not in _READERS:
        raise UserError(f'{path} ends in none of {", ".join(_READERS)}; give one such file')
    if not path.is_file():
        raise UserError(f'no file {path}; see scripts/convert_inception.py --help for sources')
    digest = files.sha256_of_file(path)
    if digest not in KNOWN and not accept_unknown:
        raise UserError(
            f'{path} has the SHA-256 {digest}, which we do not know; if you trust where the file'
            ' comes from, add --accept_unknown'
        )
    arrays = _READERS[path.suffix](path)
    if not arrays:
        raise UserError(f'{path} holds no complete layer of the FID Inception; give another file')
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(f'{path}: {name} is not finite throughout; get the file again')
    source = KNOWN.get(digest, path.name)
    return arrays, {'source': source, 'source_sha256': digest, 'known': digest in KNOWN}


def fold(
    kernel: Float[np.ndarray, 'h w i o'], norm: _BatchNorm
) -> tuple[Float[np.ndarray, 'h w i o'], Float[np.ndarray, ' o']]:
    """Float32 kernel and bias of the convolution that equals `kernel` then `norm`."""
    gamma, beta, mean, variance = (np.asarray(part, np.float64) for part in norm)
    with np.errstate(invalid='ignore', divide='ignore'):  # `convert` finds what is not finite
        scale = gamma / np.sqrt(variance + _EPSILON)
    return (kernel * scale).astype(np.float32), (beta - mean * scale).astype(np.float32)


def _from_torch(path: epath.Path) -> dict[str, np.ndarray]:
    tensors = torch_archive.read(path)
    arrays = {}
    for layer, module in TORCH_MODULES.items():
        kernel = f'{module}.conv.weight'
        parts = [f'{module}.bn.{p}' for p in ('weight', 'bias', 'running_mean', 'running_var')]
        if tensors.keys() >= {kernel, *parts}:
            norm = _BatchNorm(*(tensors[part] for part in parts))
            weight = tensors[kernel]
            if weight.ndim == 4:  # `_folded` refuses any other
                weight = weight.transpose(2, 3, 1, 0)  # OIHW -> HWIO
            arrays |= _folded(path, layer, weight, norm)
    if 'fc.weight' in tensors and 'fc.bias' in tensors:
        arrays |= _layer(path, 'softmax', tensors['fc.weight'].T, tensors['fc.bias'])
    return arrays


def _from_npz(path: epath.Path) -> dict[str, np.ndarray]:
    arrays = files.read_npz(path, advice='get it again')
    result = {}
    for name in layers('logits'):
        if {f'{name}/w', f'{name}/b'} <= arrays.keys():
            result |= _layer(path, name, arrays[f'{name}/w'], arrays[f'{name}/b'])
    return result


# suffix -> what reads such a file
_READERS: dict[str, Callable[[epath.Path], dict[str, np.ndarray]]] = {
    '.pth': _from_torch,
    '.pt': _from_torch,
    '.npz': _from_npz,
}


def _folded(
    path: epath.Path, layer: str, kernel: np.ndarray, norm: _BatchNorm
) -> dict[str, np.ndarray]:
    shape = layers('logits')[layer]
    for part, array in norm._asdict().items():
        _check(path, f'the {part} of {layer}', array, shape[-1:])
    _check(path, f'the kernel of {layer}', kernel, shape)
    return _layer(path, layer, *fold(kernel, norm))


def _layer(path: epath.Path, layer: str, w: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    shape = layers('logits')[layer]
    _check(path, f'{layer}/w', w, shape)
    _check(path, f'{layer}/b', b, shape[-1:])
    return {
        f'{layer}/w': np.ascontiguousarray(w, np.float32),
        f'{layer}/b': np.ascontiguousarray(b, np.float32),
    }


def _check(path: epath.Path, what: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape or array.dtype.kind != 'f':
        raise UserError(
            f'{path}: {what} is {array.dtype} {list(array.shape)}, not float {list(shape)};'
            ' give the weights of the FID Inception, not of another network'
        )


def _torch_tower(tower: str, branch: str, length: int) -> dict[str, str]:
    names = ['conv', *(f'conv_{number}' for number in range(1, length))]
    return {f'{tower}_{name}': f'{branch}_{number}' for number, name in enumerate(names, 1)}


def _torch_modules() -> dict[str, str]:
    """Our layer -> PyTorch's module, of every convolution."""
    ends = {'conv': 'branch1x1', 'tower_2_conv': 'branch_pool'}
    small = _torch_tower('tower_1', 'branch3x3dbl', 3)
    block_35 = ends | _torch_tower('tower', 'branch5x5', 2) | small
    block_35_to_17 = {'conv': 'branch3x3'} | _torch_tower('tower', 'branch3x3dbl', 3)
    wide = _torch_tower('tower_1', 'branch7x7dbl', 5)
    block_17 = ends | _torch_tower('tower', 'branch7x7', 3) | wide
    down = _torch_tower('tower_1', 'branch7x7x3', 4)
    block_17_to_8 = _torch_tower('tower', 'branch3x3', 2) | down
    block_8 = (
        ends
        | _torch_tower('tower', 'branch3x3', 1)
        | {
            'tower_mixed_conv': 'branch3x3_2a',
            'tower_mixed_conv_1': 'branch3x3_2b',
            **_torch_tower('tower_1', 'branch3x3dbl', 2),
            'tower_1_mixed_conv': 'branch3x3dbl_3a',
            'tower_1_mixed_conv_1': 'branch3x3dbl_3b',
        }
    )
    blocks = [block_35] * 3 + [block_35_to_17] + [block_17] * 4 + [block_17_to_8] + [block_8] * 2
    modules = ['5b', '5c', '5d', '6a', '6b', '6c', '6d', '6e', '7a', '7b', '7c']
    stem = ['1a_3x3', '2a_3x3', '2b_3x3', '3b_1x1', '4a_3x3']
    names = {f'conv_{i}' if i else 'conv': f'Conv2d_{place}' for i, place in enumerate(stem)}
    for number, (block, module) in enumerate(zip(blocks, modules, strict=True)):
        mixed = f'mixed_{number}' if number else 'mixed'
        names |= {f'{mixed}_{ours}': f'Mixed_{module}.{theirs}' for ours, theirs in block.items()}
    return names


TORCH_MODULES = _torch_modules()
