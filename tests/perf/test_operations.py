"""Operations counted from jaxprs, against formulas by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from cfg_jax.conditioning.label import Label
from cfg_jax.guidance.classifier_free import ClassifierFree
from cfg_jax.guidance.guided import GuidedDenoiser
from cfg_jax.models.denoiser import Denoiser
from cfg_jax.perf import operations
from cfg_jax.samplers import SAMPLERS
from cfg_jax.samplers.loop import sample_loop


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_dense():
    # 5 rows of 7 outputs, each the sum of 3 products.
    assert operations.count_flops(jnp.dot, array(5, 3), array(3, 7)) == 2 * 5 * 7 * 3
    # Element-wise work is not counted.
    assert operations.count_flops(lambda x, w: jnp.tanh(x @ w) + 1, array(5, 3), array(3, 7)) == 210


def test_the_default_of_what_platforms_choose():
    def on_cpus_more(x):
        return jax.lax.platform_dependent(x, cpu=lambda x: x @ x @ x, default=lambda x: x @ x)

    assert operations.count_flops(on_cpus_more, array(4, 4)) == 2 * 4**3
    assert operations.count_flops(jax.vmap(on_cpus_more), array(3, 4, 4)) == 3 * 2 * 4**3
    either = functools.partial(jax.lax.cond, True, lambda x: x @ x @ x, lambda x: x @ x)
    assert operations.count_flops(either, array(4, 4)) == 2 * 2 * 4**3


def test_batched_product():
    product = functools.partial(jnp.einsum, 'bhqd,bhkd->bhqk')
    flops = operations.count_flops(product, array(2, 4, 6, 8), array(2, 4, 5, 8))
    assert flops == 2 * (2 * 4 * 6 * 5) * 8


@pytest.mark.parametrize(('stride', 'groups', 'out_side'), [(1, 1, 8), (2, 1, 4), (1, 2, 8)])
def test_convolution(stride, groups, out_side):
    conv = nn.Conv(10, (3, 3), strides=stride, feature_group_count=groups)
    x = array(2, 8, 8, 6)
    params = jax.eval_shape(conv.init, jax.random.key(0), x)
    # Each output is the sum over a 3 x 3 window of the 6 / groups channels it sees.
    expected = 2 * (2 * out_side**2 * 10) * (9 * 6 // groups)
    assert operations.count_flops(conv.apply, params, x) == expected


def test_attention():
    """Scores q k^T and their product with v: each 2 n^2 c per image, whatever the heads."""
    batch, n, heads, depth = 3, 16, 2, 4
    q = array(batch, n, heads, depth)
    flops = operations.count_flops(jax.nn.dot_product_attention, q, q, q)
    assert flops == batch * 2 * (2 * n * n * heads * depth)


def test_loops_and_compiled_functions_are_counted_inside():
    w = array(4, 4)

    def step(x, _):
        return jax.jit(jnp.dot)(x, x), None

    def scan(w, length):
        return jax.lax.scan(step, w, None, length=length)[0]

    once = 2 * 4 * 4 * 4
    assert operations.count_flops(jax.jit(jnp.dot), w, w) == once
    assert operations.count_flops(functools.partial(scan, length=7), w) == 7 * once

    def nested(w):
        return jax.lax.scan(lambda x, _: (scan(x, 3) @ x, None), w, None, length=5)[0]

    assert operations.count_flops(nested, w) == 5 * (3 + 1) * once


@pytest.mark.parametrize('name', SAMPLERS)
def test_a_guided_trajectory_costs_twice_the_evaluations(name):
    batch, steps, side, channels = 3, 6, 4, 2
    params = {'main': jnp.ones((channels, channels))}
    one_step = 2 * batch * side**2 * channels**2 * (2 if SAMPLERS.load(name).corrects else 1)
    sampler = SAMPLERS.make(name, num_steps=steps)

    def eps_theta(params, z, logsnr, label):
        return (z + label[:, None, None, None]) @ params

    def sample(w, z, label):
        keys = jax.random.split(jax.random.key(0), batch)
        networks = {'main': Denoiser(eps_theta)}
        predict = GuidedDenoiser(ClassifierFree(), networks, params, Label(10), label, keys, w)
        return sample_loop(sampler, predict, z, keys)[0]

    inputs = array(batch, side, side, channels), array(batch, dtype=jnp.int32)
    unguided, guided = (functools.partial(sample, w) for w in (None, jnp.asarray(0.5)))
    assert operations.count_flops(unguided, *inputs) == steps * one_step
    assert operations.count_flops(guided, *inputs) == 2 * steps * one_step
