"""What configs cost: counted by hand for ADM's networks, and against what ADM measured."""

import jax
import pytest
from support import ROOT, user_error

from cfg_jax import config_files
from cfg_jax.perf import cost
from cfg_jax.training.step import create_state


class HandCount:
    """FLOPs of ADM's U-Net for one image, walked through on paper.

    A convolution of doubled features takes 9 taps a pixel as published, and 4 of the small ones.
    """

    def __init__(self, model, size, channels, taps_of_doubled):
        self.width, self.attention = model.width, model.attention_resolutions
        emb = 2 * (self.width * 4 * self.width + (4 * self.width) ** 2)
        features = int(model.channel_mult[0] * self.width)
        self.total = emb + 2 * size**2 * 9 * channels * features
        side, skips = size, [features]
        last = len(model.channel_mult) - 1
        for level, mult in enumerate(model.channel_mult):
            for _ in range(model.num_res_blocks):
                features = self.block(features, int(self.width * mult), side)
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
                features = self.block(features + skips.pop(), int(self.width * mult), side)
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
    config = config_files.load_config(ROOT / 'configs' / f'{name}.py')
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


def test_half_the_width_at_first():
    """ADM's network of 512 pixels, whose first convolution has half the width."""
    overrides = {'data.image_size': 512, 'model.channel_mult': '(0.5,1,1,2,2,4,4)'}
    overrides |= {'model.num_heads': 0, 'model.head_channels': 64}
    config = config_files.load_config(
        ROOT / 'configs' / 'imagenet128.py', [f'--config.{k}={v}' for k, v in overrides.items()]
    )
    assert cost.forward_flops(config) == HandCount(config.model, 512, 3, taps_of_doubled=4).total


def test_cost_of_a_sweep(tiny_config, toy_networks):
    """2 seeds x 40 samples x 4 levels x (1 + 2) passes; a pass is a third of a training image."""
    tiny_config.sweep.repeats = 2
    passes = 2 * 40 * 4 * 3
    described = cost.describe(tiny_config, images_per_second=10.0)
    assert described['sweep_nfe'] == passes
    forward = described['forward_gflop_per_image'] * 1e9
    assert described['sweep_exaflop'] == pytest.approx(forward * passes / 1e18)
    assert described['sweep_device_hours'] == pytest.approx(passes / 30.0 / 3600)
    tiny_config.sampler.name = 'heun'  # two predictions at each level but the last
    assert cost.sweep_nfe(tiny_config) == 2 * 40 * 7 * 3


def test_an_accelerator_is_a_share_of_its_peak(tiny_config, toy_networks):
    described = cost.describe(tiny_config, accelerator='a100', utilisation=0.25)
    flops = described['training_gflop_per_image'] * 1e9
    speed = 0.25 * 312e12 / flops
    assert described['assumed_images_per_second'] == pytest.approx(speed)
    assert described['device_days'] == pytest.approx(6 * 16 / speed / 86400)
    assert described['peak_tflops'] == 312.0
    # Five arrays of parameters' size are read (parameters, EMA, two moments, the gradient) and four
    # written, 4 bytes each, at 2,039 GB/s.
    moved = described['update_milliseconds'] / 1e3 * 2039e9
    counters = moved - 9 * 4 * described['parameters']
    assert 0 <= counters < 100
    share = described['state_bytes_per_device'] / (80 * 2**30)
    assert described['state_share_of_memory'] == pytest.approx(share)
    for share in (0.0, 1.5, float('nan')):
        message = user_error(cost.describe, tiny_config, None, 'a100', share)
        assert 'utilisation' in message


def test_muon_keeps_and_moves_one_moment_of_a_kernel(tiny_config):
    params = jax.eval_shape(lambda: create_state(tiny_config).params)
    leaves = jax.tree.leaves_with_path(params)
    kernels = sum(leaf.size for path, leaf in leaves if path[-1].key == 'kernel')
    adam = cost.describe(tiny_config, accelerator='a100')
    tiny_config.train.optimizer = 'muon'
    muon = cost.describe(tiny_config, accelerator='a100')
    saved = adam['state_bytes_per_device'] - muon['state_bytes_per_device']
    assert saved == pytest.approx(4 * kernels, abs=100)  # counters are kept too
    milliseconds = adam['update_milliseconds'] - muon['update_milliseconds']
    assert milliseconds == pytest.approx(1e3 * 2 * saved / 2039e9)


def test_v100_agrees_with_what_adm_measured():
    """74.1 and 24.8 images per V100-second (Dhariwal & Nichol 2021, Table 7, optimised).

    Theirs takes the operations as published.
    """
    for name, measured in (('imagenet64', 74.1), ('imagenet128', 24.8)):
        config = config_files.load_config(ROOT / 'configs' / f'{name}.py')
        described = cost.describe(config, accelerator='v100')
        shape = config.data.image_size, config.data.channels
        ours, theirs = (HandCount(config.model, *shape, taps_of_doubled=n).total for n in (4, 9))
        estimate = described['assumed_images_per_second'] * ours / theirs
        assert estimate == pytest.approx(measured, rel=0.15)


def test_days_need_a_throughput(tiny_config, toy_networks):
    assert 'device_days' not in cost.describe(tiny_config)
    for throughput in (0.0, -1.0, float('nan'), float('inf')):
        assert 'images_per_second' in user_error(cost.describe, tiny_config, throughput)


def test_cores_for_the_input(tiny_config, toy_networks):
    described = cost.describe(tiny_config, images_per_second=600.0, decode_rate=140.0)
    assert described['input_cores'] == 5  # 4.3 of them
    assert 'input_cores' not in cost.describe(tiny_config, images_per_second=600.0)
    assert '--decode_rate' in user_error(
        cost.describe, tiny_config, images_per_second=600.0, decode_rate=0.0
    )
