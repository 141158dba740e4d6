"""What a computation costs, counted from its jaxpr: nothing is run or allocated."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cfg_jax import models, train_step
from cfg_jax.errors import UserError


def describe(config: ConfigDict, images_per_second: float | None = None) -> dict[str, Any]:
    """Size and cost of a config.

    Returns parameters, forward and training GFLOP per image (2 per multiply-add; a training image
    costs three forward passes), bytes of training state per device (parameters, EMA and both Adam
    moments in float32), images to train, exaFLOP of the training; and, given the training
    throughput of one device, device-days.
    """
    if images_per_second is not None and not images_per_second > 0:
        raise UserError(f'--images_per_second must be above 0; got {images_per_second:g}')
    data, train = config.data, config.train
    model = models.make_unet(config)
    inputs = (
        jax.ShapeDtypeStruct((1, data.image_size, data.image_size, data.channels), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
    )
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    state = jax.eval_shape(lambda: train_step.create_state(config))
    forward = count_flops(model.apply, params, *inputs)
    num_images = train.steps * train.batch_size
    description = {
        'parameters': sum(leaf.size for leaf in jax.tree.leaves(params)),
        'forward_gflop_per_image': forward / 1e9,
        'training_gflop_per_image': 3 * forward / 1e9,
        'state_bytes_per_device': sum(
            leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)
        ),
        'training_images': num_images,
        'training_exaflop': 3 * forward * num_images / 1e18,
    }
    if images_per_second is not None:
        description['device_days'] = num_images / images_per_second / 86400
    return description


def count_flops(fn: Callable, *args: Any) -> int:
    """Floating-point operations of `fn(*args)`, 2 per multiply-add.

    Counts convolutions and matrix products (dense layers and attention), the operations that
    decide the time of a network; element-wise work is left out. `args` may be
    `jax.ShapeDtypeStruct`s.
    """
    return _count(jax.make_jaxpr(fn)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == 'conv_general_dilated':
            total += _conv_flops(equation)
        elif equation.primitive.name == 'dot_general':
            total += _dot_flops(equation)
        inner = sum(_count(sub) for sub in _inner_jaxprs(tuple(equation.params.values())))
        total += inner * equation.params.get('length', 1)  # a scan runs its body `length` times
    return total


def _inner_jaxprs(value: Any) -> Iterator[Any]:
    if hasattr(value, 'jaxpr'):
        yield value.jaxpr
    elif hasattr(value, 'eqns'):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _inner_jaxprs(item)


def _conv_flops(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    out_features_axis = equation.params['dimension_numbers'].rhs_spec[0]
    per_output = math.prod(kernel) // kernel[out_features_axis]
    return 2 * math.prod(equation.outvars[0].aval.shape) * per_output


def _dot_flops(equation: Any) -> int:
    (contracted, _), _ = equation.params['dimension_numbers']
    depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    return 2 * math.prod(equation.outvars[0].aval.shape) * depth
