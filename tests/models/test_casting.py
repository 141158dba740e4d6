"""Parameters are cast before a loop only where the function itself casts all it sees of them."""

import jax
import jax.numpy as jnp
import numpy as np
from support import make_tiny_config

from cfg_jax import inference
from cfg_jax.models import networks
from cfg_jax.models.casting import cast_as_used


def test_what_is_only_cast_is_cast():
    params = {
        name: jnp.full(3, 1.001, jnp.float32)
        for name in ('cast', 'twice', 'both', 'unused', 'returned')
    }

    def function(params, x):
        half = params['cast'].astype(jnp.bfloat16) * x
        half = half + params['twice'].astype(jnp.bfloat16) * params['twice'].astype(jnp.float16)
        return half + params['both'] * params['both'].astype(jnp.bfloat16), params['returned']

    x = jnp.ones(3, jnp.bfloat16)
    found = cast_as_used(function, params, x)
    assert {name: leaf.dtype for name, leaf in found.items()} == {
        'cast': jnp.bfloat16,
        'twice': jnp.float32,
        'both': jnp.float32,
        'unused': jnp.float32,
        'returned': jnp.float32,
    }
    for ours, expected in zip(function(found, x), function(params, x), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_kernels_of_a_16_bit_network_are_cast_and_its_prediction_is_the_same():
    config = make_tiny_config()
    config.model.dtype = 'bfloat16'
    denoiser = networks.make_denoiser(config)
    network, inputs = networks.make_network(config), networks.inputs(config)
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    z = rng.normal(size=inputs[0].shape).astype(np.float32)
    condition = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), inputs[2])
    found = denoiser.for_a_loop(params, z, jnp.zeros(()), condition)
    dtypes = jax.tree.map(lambda leaf: leaf.dtype, found)['params']
    assert dtypes['middle_0']['conv_in']['kernel'] == jnp.bfloat16
    assert dtypes['middle_0']['norm_in']['scale'] == jnp.float32  # group norm is in float32
    assert dtypes['conv_out']['kernel'] == jnp.float32  # and so is the last convolution
    predict = jax.jit(lambda params: denoiser.eps(params, z, 0.3, condition))
    np.testing.assert_array_equal(predict(found), predict(params))


def test_a_trajectory_casts_before_its_loop():
    config = make_tiny_config()
    config.model.dtype = 'bfloat16'
    model = inference.Model(config)
    shapes = jax.eval_shape(
        networks.make_network(config).init, jax.random.key(0), *networks.inputs(config)
    )
    keys, labels = np.arange(2, dtype=np.uint32), np.zeros(2, np.int32)
    jaxpr = jax.make_jaxpr(model.device_images)(
        {'main': shapes}, np.uint32(0), keys, labels, None, np.ones(2, np.float32)
    )
    (loop,) = (equation for equation in jaxpr.eqns if equation.primitive.name == 'scan')
    kernels = [v.aval for v in loop.invars if v.aval.ndim == 4 and v.aval.shape[0] == 3]
    assert sum(aval.dtype == jnp.float32 for aval in kernels) == 1  # of the last convolution
    assert sum(aval.dtype == jnp.bfloat16 for aval in kernels) > 10
