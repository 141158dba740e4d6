"""FLOP counts against formulas by hand, from one matrix product to ADM's whole networks."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from support import ROOT, user_error

from cfg_jax import cli, guidance, sampling
from cfg_jax.perf import cost


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_dense():
    # 5 rows of 7 outputs, each the sum of 3 products.
    assert cost.count_flops(jnp.dot, array(5, 3), array(3, 7)) == 2 * 5 * 7 * 3
    # Element-wise work is not counted.
    assert cost.count_flops(lambda x, w: jnp.tanh(x @ w) + 1, array(5, 3), array(3, 7)) == 210


def test_batched_product():
    product = functools.partial(jnp.einsum, 'bhqd,bhkd->bhqk')
    flops = cost.count_flops(product, array(2, 4, 6, 8), array(2, 4, 5, 8))
    assert flops == 2 * (2 * 4 * 6 * 5) * 8


@pytest.mark.parametrize(('stride', 'groups', 'out_side'), [(1, 1, 8), (2, 1, 4), (1, 2, 8)])
def test_convolution(stride, groups, out_side):
    conv = nn.Conv(10, (3, 3), strides=stride, feature_group_count=groups)
    x = array(2, 8, 8, 6)
    params = jax.eval_shape(conv.init, jax.random.key(0), x)
    # Each output is the sum over a 3 x 3 window of the 6 / groups channels it sees.
    expected = 2 * (2 * out_side**2 * 10) * (9 * 6 // groups)
    assert cost.count_flops(conv.apply, params, x) == expected


def test_attention():
    """Scores q k^T and their product with v: each 2 n^2 c per image, whatever the heads."""
    batch, n, heads, depth = 3, 16, 2, 4
    q = array(batch, n, heads, depth)
    flops = cost.count_flops(jax.nn.dot_product_attention, q, q, q)
    assert flops == batch * 2 * (2 * n * n * heads * depth)


def test_loops_and_compiled_functions_are_counted_inside():
    w = array(4, 4)

    def step(x, _):
        return jax.jit(jnp.dot)(x, x), None

    def scan(w, length):
        return jax.lax.scan(step, w, None, length=length)[0]

    once = 2 * 4 * 4 * 4
    assert cost.count_flops(jax.jit(jnp.dot), w, w) == once
    assert cost.count_flops(functools.partial(scan, length=7), w) == 7 * once

    def nested(w):
        return jax.lax.scan(lambda x, _: (scan(x, 3) @ x, None), w, None, length=5)[0]

    assert cost.count_flops(nested, w) == 5 * (3 + 1) * once


@pytest.mark.parametrize('name', sampling.SAMPLERS)
def test_a_guided_trajectory_costs_two_passes_a_step(name):
    batch, steps, side, channels = 3, 6, 4, 2
    w = jnp.ones((channels, channels))
    one_pass = 2 * batch * side**2 * channels**2
    sampler = sampling.make_sampler(name, num_steps=steps)

    def eps_theta(z, logsnr, label):
        return (z + label[:, None, None, None]) @ w

    def sample(guided, z, label):
        keys = jax.random.split(jax.random.key(0), batch)
        eps_fn = guidance.conditional(eps_theta, label)
        if guided:
            eps_fn = guidance.classifier_free(eps_theta, label, 10, 0.5)
        return sampler(eps_fn, z, keys)

    inputs = array(batch, side, side, channels), array(batch, dtype=jnp.int32)
    assert cost.count_flops(functools.partial(sample, False), *inputs) == steps * one_pass
    assert cost.count_flops(functools.partial(sample, True), *inputs) == 2 * steps * one_pass


class HandCount:
    """FLOPs of ADM's U-Net for one image, walked through on paper.

    A convolution of doubled features takes 9 taps a pixel as published, and 4 of the small ones.
    """

    def __init__(self, model, size, channels, taps_of_doubled):
        self.width, self.attention = model.width, model.attention_resolutions
        emb = 2 * (self.width * 4 * self.width + (4 * self.width) ** 2)
        self.total = emb + 2 * size**2 * 9 * channels * self.width
        side, features, skips = size, self.width, [self.width]
        last = len(model.channel_mult) - 1
        for level, mult in enumerate(model.channel_mult):
            for _ in range(model.num_res_blocks):
                features = self.block(features, self.width * mult, side)
                skips.append(features)
            if level != last:
                side //= 2
                features = self.res(features, features, side)  # resampled before its convolutions
                skips.append(features)
        self.res(features, features, side)
        self.attend(features, side)
        self.res(features, features, side)
        for level, mult in reversed(list(enumerate(model.channel_mult))):
            for _ in range(model.num_res_blocks + 1):
                features = self.block(features + skips.pop(), self.width * mult, side)
            if level != 0:
                side *= 2
                features = self.res(features, features, side, taps_of_doubled)
        self.total += 2 * size**2 * 9 * features * channels

    def res(self, inputs, outputs, side, taps=9):
        self.total += 2 * side**2 * outputs * (taps * inputs + 9 * outputs)  # two convolutions
        self.total += 2 * 4 * self.width * 2 * outputs  # scale and shift from the embedding
        if inputs != outputs:
            self.total += 2 * side**2 * inputs * outputs  # the 1 x 1 of the skip
        return outputs

    def attend(self, features, side):
        n = side**2
        self.total += 2 * n * features * 4 * features + 2 * (2 * n * n * features)

    def block(self, inputs, outputs, side):
        self.res(inputs, outputs, side)
        if side in self.attention:
            self.attend(outputs, side)
        return outputs


@pytest.mark.parametrize(
    ('name', 'parameters', 'gflop', 'published'),
    [('imagenet64', 295_900_035, 208.4, 219.3), ('imagenet128', 421_523_715, 583.4, 613.6)],
)
def test_adm(name, parameters, gflop, published):
    config = cli.load_config(str(ROOT / 'configs' / f'{name}.py'))
    described = cost.describe(config, images_per_second=100.0)
    shape = config.data.image_size, config.data.channels
    forward = HandCount(config.model, *shape, taps_of_doubled=4).total
    as_published = HandCount(config.model, *shape, taps_of_doubled=9).total
    assert as_published / 1e9 == pytest.approx(published, abs=0.05)
    assert described['parameters'] == parameters
    assert described['forward_gflop_per_image'] == forward / 1e9
    assert described['forward_gflop_per_image'] == pytest.approx(gflop, abs=0.05)
    assert described['training_gflop_per_image'] == 3 * forward / 1e9
    # Parameters, EMA and two moments of 4 bytes each; a few counters.
    assert 0 <= described['state_bytes_per_device'] - 4 * 4 * parameters < 100
    images = config.train.steps * config.train.batch_size
    assert described['training_images'] == images
    assert described['training_exaflop'] == pytest.approx(3 * forward * images / 1e18, rel=1e-12)
    assert described['device_days'] == pytest.approx(images / 100.0 / (24 * 60 * 60), rel=1e-12)


def test_cost_of_a_sweep(tiny_config, toy_networks):
    """2 seeds x 40 samples x 4 levels x (1 + 2) passes; a pass is a third of a training image."""
    tiny_config.sweep.repeats = 2
    passes = 2 * 40 * 4 * 3
    described = cost.describe(tiny_config, images_per_second=10.0)
    assert described['sweep_nfe'] == passes
    forward = described['forward_gflop_per_image'] * 1e9
    assert described['sweep_exaflop'] == pytest.approx(forward * passes / 1e18)
    assert described['sweep_device_hours'] == pytest.approx(passes / 30.0 / 3600)


def test_an_accelerator_is_a_share_of_its_peak(tiny_config, toy_networks):
    described = cost.describe(tiny_config, accelerator='a100', utilisation=0.25)
    flops = described['training_gflop_per_image'] * 1e9
    speed = 0.25 * 312e12 / flops
    assert described['assumed_images_per_second'] == pytest.approx(speed)
    assert described['device_days'] == pytest.approx(6 * 16 / speed / 86400)
    assert described['peak_tflops'] == 312.0
    for share in (0.0, 1.5, float('nan')):
        message = user_error(cost.describe, tiny_config, None, 'a100', share)
        assert 'utilisation' in message


def test_v100_agrees_with_what_adm_measured():
    """74.1 and 24.8 images per V100-second (Dhariwal & Nichol 2021, Table 7, optimised).

    Theirs takes the operations as published.
    """
    for name, measured in (('imagenet64', 74.1), ('imagenet128', 24.8)):
        config = cli.load_config(str(ROOT / 'configs' / f'{name}.py'))
        described = cost.describe(config, accelerator='v100')
        shape = config.data.image_size, config.data.channels
        ours, theirs = (HandCount(config.model, *shape, taps_of_doubled=n).total for n in (4, 9))
        estimate = described['assumed_images_per_second'] * ours / theirs
        assert estimate == pytest.approx(measured, rel=0.15)


def test_days_need_a_throughput(tiny_config, toy_networks):
    assert 'device_days' not in cost.describe(tiny_config)
    for throughput in (0.0, -1.0, float('nan')):
        assert 'images_per_second' in user_error(cost.describe, tiny_config, throughput)


def test_cores_for_the_input(tiny_config, toy_networks):
    described = cost.describe(tiny_config, images_per_second=600.0, decode_rate=140.0)
    assert described['input_cores'] == 5  # 4.3 of them
    assert 'input_cores' not in cost.describe(tiny_config, images_per_second=600.0)
    assert '--decode_rate' in user_error(
        cost.describe, tiny_config, images_per_second=600.0, decode_rate=0.0
    )
