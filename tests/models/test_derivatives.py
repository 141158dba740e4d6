"""Forward mode equals reverse mode and finite differences: group norm, U-Net, noisy classifier.

In float64, where values at four points of a line give a derivative to eight digits. The networks'
softmax and output are float32 whatever they compute in, which leaves four of them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_blocks import FAST_COMPILE, randomised

from cfg_jax.conditioning.label import Label
from cfg_jax.models.group_norm import GroupNorm
from cfg_jax.models.noisy_classifier import NoisyClassifier
from cfg_jax.models.unet import UNet

ENCODER = {
    'width': 8,
    'channel_mult': (1,),
    'num_res_blocks': 1,
    'attention_resolutions': (8,),
    'head_channels': 8,
    'norm_groups': 4,
    'dtype': jnp.float64,
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def norm(silu, modulated):
    """(function, its inputs): group norm of features, parameters and the second affine map."""
    rng = np.random.default_rng(0)
    h, *affine = (rng.normal(size=shape) for shape in ((3, 4, 5, 8), (3, 8), (3, 8)))
    params = {'params': {'scale': 1 + 0.3 * rng.normal(size=8), 'bias': rng.normal(size=8)}}
    return GroupNorm(4, silu, jnp.float64).apply, (params, 2 * h + 1, *affine[: 2 * modulated])


def unet(**changes):
    """The same of a small U-Net: parameters, z and logsnr."""
    rng = np.random.default_rng(0)
    model = UNet(conditioning=Label(3), out_channels=2, **(ENCODER | changes))
    z, logsnr, label = rng.normal(size=(2, 8, 8, 2)), np.array([-3.0, 2.0]), np.array([1, 3])
    params = randomised(model, z, logsnr, label)
    return functools.partial(model.apply, condition=label), (params, z, logsnr)


def noisy_classifier():
    """The same of a small classifier."""
    rng = np.random.default_rng(0)
    model = NoisyClassifier(num_classes=5, **ENCODER)
    args = rng.normal(size=(2, 8, 8, 2)), np.array([-3.0, 2.0])
    return model.apply, (randomised(model, *args), *args)


CASES = {
    'norm': functools.partial(norm, False, False),
    'norm, SiLU': functools.partial(norm, True, False),
    'norm, modulated': functools.partial(norm, False, True),
    'norm, modulated, SiLU': functools.partial(norm, True, True),
    'U-Net': functools.partial(unet, channel_mult=(1, 2)),
    'U-Net, remat, plain': functools.partial(unet, remat='blocks', scale_shift_norm=False),
    'classifier': noisy_classifier,
}


@pytest.fixture(scope='module', params=CASES)
def case(request):
    """(whether it is a network, function, inputs, a direction of them), in float64."""
    with jax.enable_x64(True):
        function, inputs = CASES[request.param]()
        # NumPy's: JAX would compile each operation for each shape.
        inputs = jax.tree.map(lambda a: np.asarray(a, np.float64), inputs)
        rng = np.random.default_rng(1)
        direction = jax.tree.map(lambda a: rng.normal(size=a.shape), inputs)
        direction = jax.tree.map(lambda a: a / norm_of(direction), direction)
        return not request.param.startswith('norm'), function, inputs, direction


def norm_of(tree):
    return np.sqrt(inner(tree, tree))


def inner(a, b):
    return sum(float(np.vdot(*pair)) for pair in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def along(function, inputs, direction, step):
    """The derivative along a direction from values at -2, -1, 1 and 2 steps; error of step^4."""

    def at(distance):
        inputs_there = jax.tree.map(lambda a, d: a + distance * step * d, inputs, direction)
        return jax.tree.map(np.asarray, function(*inputs_there))

    return jax.tree.map(
        lambda a, b, c, d: (8.0 * (c - b) - (d - a)) / (12.0 * step), *map(at, (-2, -1, 1, 2))
    )


def compiled(function):
    return jax.jit(function, compiler_options=FAST_COMPILE)


def test_first_derivatives(case):
    """J d by forward mode is the derivative along d, and <c, J d> = <J^T c, d> by reverse mode."""
    network, function, inputs, direction = case

    def both_modes(inputs, direction):
        value, tangent = jax.jvp(function, inputs, direction)
        cotangent = jnp.cos(jnp.arange(value.size, dtype=value.dtype)).reshape(value.shape)
        return value, tangent, cotangent, jax.vjp(function, *inputs)[1](cotangent)

    value, tangent, cotangent, pulled = compiled(both_modes)(inputs, direction)
    apply = compiled(function)
    np.testing.assert_allclose(value, apply(*inputs), rtol=0, atol=2e-6)
    expected, size = along(apply, inputs, direction, step=0.02), np.abs(np.asarray(value)).max()
    np.testing.assert_allclose(tangent, expected, rtol=0, atol=(3e-5 if network else 1e-8) * size)
    tolerance = 1e-5 if network else 1e-12
    assert inner(cotangent, tangent) == pytest.approx(
        inner(pulled, direction), abs=tolerance * norm_of(cotangent) * norm_of(tangent)
    )


# Not the U-Net of two levels, which compiles for half a minute.
@pytest.mark.parametrize('case', [name for name in CASES if name != 'U-Net'], indirect=True)
def test_second_derivatives(case):
    """Hessian times direction, forward over reverse, is the gradient's derivative."""
    network, function, inputs, direction = case

    def energy(*inputs):
        return jnp.sum(jnp.tanh(function(*inputs)))

    gradient = jax.grad(energy, range(len(inputs)))
    _, product = compiled(lambda *args: jax.jvp(gradient, *args))(inputs, direction)
    expected = along(compiled(gradient), inputs, direction, step=0.02)
    size = norm_of(expected)
    assert size > 1e-3
    error = norm_of(jax.tree.map(lambda a, b: np.asarray(a) - b, product, expected))
    assert error < (1e-3 if network else 1e-6) * size


def test_all_directions_at_once():
    """jacfwd and jacrev, which map over directions, agree."""
    function, (params, h, *_) = norm(silu=True, modulated=False)
    features = jnp.asarray(h[:1, :2, :2])
    both = [jac(lambda h: function(params, h))(features) for jac in (jax.jacfwd, jax.jacrev)]
    np.testing.assert_allclose(*both, rtol=0, atol=1e-12)
