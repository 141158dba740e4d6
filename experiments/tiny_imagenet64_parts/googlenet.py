"""BVLC GoogLeNet (Szegedy et al. 2015, Caffe's edition) for inference: ImageNet's 1,000 classes.

It judges samples while the last layers of the FID Inception are out of reach: the Inception Score's
formula on its softmax is on a scale of its own, "IS (GoogLeNet)", and its arg max says whether a
sample shows its class. Caffe's layers, not TensorFlow's: explicit padding, pooling that rounds
sizes up, response normalisation.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from cfg_jax import files
from cfg_jax.errors import UserError

SIDE = 224
CLASSES = 1000
_MEAN = (123.0, 117.0, 104.0)  # of RGB
_HOW = "give GoogLeNet's .npz: NAME/w (HWIO) and NAME/b of Caffe's layers, and `wnids`"

# block -> output channels: 1x1 | reduce, 3x3 | reduce, 5x5 | projection of the pooled input
BLOCKS: dict[str, tuple[int, int, int, int, int, int]] = {
    'inception_3a': (64, 96, 128, 16, 32, 32),
    'inception_3b': (128, 128, 192, 32, 96, 64),
    'inception_4a': (192, 96, 208, 16, 48, 64),
    'inception_4b': (160, 112, 224, 24, 64, 64),
    'inception_4c': (128, 128, 256, 24, 64, 64),
    'inception_4d': (112, 144, 288, 32, 64, 64),
    'inception_4e': (256, 160, 320, 32, 128, 128),
    'inception_5a': (256, 160, 320, 32, 128, 128),
    'inception_5b': (384, 192, 384, 48, 128, 128),
}
_POOL_AFTER = ('inception_3b', 'inception_4e')

Params = dict[str, dict[str, Any]]  # layer -> {'w', 'b'}


def layers() -> dict[str, tuple[int, ...]]:
    """Name -> shape of the kernel, HWIO; of the final dense layer [input, output]."""
    shapes: dict[str, tuple[int, ...]] = {
        'conv1/7x7_s2': (7, 7, 3, 64),
        'conv2/3x3_reduce': (1, 1, 64, 64),
        'conv2/3x3': (3, 3, 64, 192),
    }
    channels = 192
    for name, widths in BLOCKS.items():
        shapes |= block_layers(name, channels, widths)
        channels = _channels(widths)
    return shapes | {'classifier': (channels, CLASSES)}


def block_layers(
    name: str, channels: int, widths: tuple[int, int, int, int, int, int]
) -> dict[str, tuple[int, ...]]:
    """The same for one block that takes `channels`."""
    point, small_in, small, large_in, large, pooled = widths
    return {
        f'{name}/1x1': (1, 1, channels, point),
        f'{name}/3x3_reduce': (1, 1, channels, small_in),
        f'{name}/3x3': (3, 3, small_in, small),
        f'{name}/5x5_reduce': (1, 1, channels, large_in),
        f'{name}/5x5': (5, 5, large_in, large),
        f'{name}/pool_proj': (1, 1, channels, pooled),
    }


def load(path: epath.PathLike) -> tuple[Params, list[str], dict[str, str]]:
    """Parameters in float32, the WordNet id of each output, and what identifies the weights.

    Raises:
      UserError: no such file, a damaged one, or not these layers.
    """
    path = files.as_path(path)
    if not path.is_file():
        raise UserError(f'no GoogLeNet weights at {path}; {_HOW}')
    with files.damage_reported(path, _HOW):
        arrays = files.read_npz(path)
    digest = files.sha256_of_arrays(arrays)
    expected = {f'{name}/w': shape for name, shape in layers().items()}
    expected |= {f'{name}/b': shape[-1:] for name, shape in layers().items()}
    expected['wnids'] = (CLASSES,)
    for key, shape in expected.items():
        found = arrays[key].shape if key in arrays else 'missing'
        if found != shape:
            raise UserError(f'{path}: {key} is {found}, not {shape}; {_HOW}')
    params = {
        name: {part: np.asarray(arrays[f'{name}/{part}'], np.float32) for part in 'wb'}
        for name in layers()
    }
    return params, [str(wnid) for wnid in arrays['wnids']], {'sha256': digest}


def logits(params: Params, images: jax.Array) -> jax.Array:
    """uint8 RGB images [B, H, W, 3] -> float32 [B, 1000]; resized bilinearly to 224x224."""
    shape = (len(images), SIDE, SIDE, 3)
    x = jax.image.resize(images.astype(jnp.float32), shape, 'bilinear') - jnp.asarray(_MEAN)
    x = max_pool(conv(params['conv1/7x7_s2'], x, stride=2))  # [B, 56, 56, 64]
    x = response_norm(x)
    x = conv(params['conv2/3x3'], conv(params['conv2/3x3_reduce'], x))
    x = max_pool(response_norm(x))  # [B, 28, 28, 192]
    for name in BLOCKS:
        x = block(params, name, x)
        x = max_pool(x) if name in _POOL_AFTER else x  # [B, 14, 14, C], [B, 7, 7, C]
    pooled = x.mean(axis=(1, 2))  # [B, 1024]
    head = params['classifier']
    return jnp.dot(pooled, head['w'], precision='highest') + head['b']


def block(params: Params, name: str, x: jax.Array) -> jax.Array:
    """An inception block, [B, H, W, C] -> [B, H, W, C']: 1x1 | 3x3 | 5x5 | pool, then 1x1."""
    branches = [
        conv(params[f'{name}/1x1'], x),
        conv(params[f'{name}/3x3'], conv(params[f'{name}/3x3_reduce'], x)),
        conv(params[f'{name}/5x5'], conv(params[f'{name}/5x5_reduce'], x)),
        conv(params[f'{name}/pool_proj'], max_pool(x, stride=1, pad=1)),
    ]
    return jnp.concatenate(branches, axis=-1)


def conv(layer: dict[str, Any], x: jax.Array, stride: int = 1) -> jax.Array:
    """ReLU(convolution + bias) with Caffe's padding: kernel // 2 on every side."""
    pad = layer['w'].shape[0] // 2
    y = jax.lax.conv_general_dilated(
        x,
        layer['w'],
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        precision='highest',
    )
    return jax.nn.relu(y + layer['b'])


def max_pool(x: jax.Array, stride: int = 2, pad: int = 0) -> jax.Array:
    """Maximum over 3x3, its output size rounded up: ceil((H + 2 pad - 3) / stride) + 1."""
    sides = x.shape[1:3]
    after = [pad + (-(side + 2 * pad - 3)) % stride for side in sides]
    padding = ((0, 0), *((pad, extra) for extra in after), (0, 0))
    return jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, stride, stride, 1), padding
    )


def response_norm(x: jax.Array) -> jax.Array:
    """x_c / (1 + 1e-4 / 5 sum_{|d| <= 2} x_{c+d}^2)^0.75 over channels (Krizhevsky et al. 2012)."""
    padding = ((0, 0), (0, 0), (0, 0), (2, 2))
    total = jax.lax.reduce_window(x * x, 0.0, jax.lax.add, (1, 1, 1, 5), (1, 1, 1, 1), padding)
    return x * (1.0 + 1e-4 / 5 * total) ** -0.75


def _channels(widths: tuple[int, int, int, int, int, int]) -> int:
    point, _, small, _, large, pooled = widths
    return point + small + large + pooled
