"""What cannot fit is refused before it is compiled; a failed allocation ends in one line."""

import json
import os

import jax
import numpy as np
import pytest
from support import ROOT, make_tiny_config, user_error

from cfg_jax import cli, config_files
from cfg_jax.perf import ahead_of_time, memory, topologies
from cfg_jax.training import loop

GIB = 2**30


@pytest.fixture
def device(monkeypatch):
    """Gives every device so many bytes."""

    def give(count):
        monkeypatch.setattr(memory, 'available', lambda: count)

    return give


def test_the_bound_is_the_state_the_gradient_the_batch_and_a_feature_map(device):
    """By hand: 16 + 4 bytes a parameter, float32 images, and `width` channels of each."""
    config = make_tiny_config(train__batch_size=64)
    from cfg_jax.training.step import create_state

    parameters = sum(leaf.size for leaf in jax.tree.leaves(create_state(config).params))
    counters = 3 * 4  # of steps: ours and two of the optimiser
    needed = 20 * parameters + counters + 64 * 8 * 8 * 4 + 64 * 8 * 8 * 8 * 4
    device(needed)
    memory.check_training(config)
    device(needed - 1)
    message = user_error(memory.check_training, config)
    assert f'{parameters:,} parameters with train.batch_size=64 need at least' in message
    assert 'try train.grad_accum=2 or train.batch_size=32' in message


@pytest.mark.parametrize('images', [64, 32, 1])
def test_on_accelerators_the_estimate_names_the_accumulation_that_fits(device, monkeypatch, images):
    """The batch of 64 in parts of as many images as fit; with those it passes."""
    monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
    config = make_tiny_config(train__batch_size=64)
    estimated = memory.estimate(config, 'tpu')
    device(int(estimated.at(images)) + 1)
    if images < 64:
        message = user_error(memory.check_training, config)
        assert 'with train.batch_size=64 need about' in message
        assert message.endswith(f'; train.grad_accum={64 // images} fits')
    config.train.grad_accum = 64 // images
    memory.check_training(config)


def test_what_is_kept_of_an_image(toy_networks):
    """Of ToyNetwork at least the input of its last convolution and its own result."""
    config = make_tiny_config()
    least = 8 * 8 * (8 + 1) * 4
    assert least < memory.estimate(config, 'gpu').per_image / 0.225 < 20 * least
    assert memory.estimate(config, 'gpu').fixed == memory.estimate(config, 'tpu').fixed


def test_a_policy_of_remat_is_estimated_to_need_less_than_none(monkeypatch):
    """Or as much, where a network is as small as this: XLA computes cheap results again itself."""
    kept_of_an_image, traced = memory._kept_of_an_image, {}

    def traced_once(config, params):
        if config.model.remat not in traced:
            traced[config.model.remat] = kept_of_an_image(config, params)
        return traced[config.model.remat]

    monkeypatch.setattr(memory, '_kept_of_an_image', traced_once)

    def per_image(remat, platform):
        return memory.estimate(make_tiny_config(model__remat=remat), platform).per_image

    for platform in ('gpu', 'tpu'):
        assert per_image('blocks', platform) < per_image('none', platform)
    assert per_image('convolutions', 'tpu') < per_image('none', 'tpu')
    assert per_image('convolutions', 'gpu') == per_image('none', 'gpu')


@pytest.mark.skipif(
    not (os.environ.get('CFG_JAX_SLOW') and all(map(topologies.installed, (True, False)))),
    reason="CFG_JAX_SLOW=1 traces ADM-64 and -128, where '.[aot]' is installed",
)
def test_estimates_are_near_the_compilers_peaks_and_name_the_compiled_accumulation():
    """Of every program in results/compile_for: the compiler's peak beside the estimate."""
    estimates = {}
    for path in sorted((ROOT / 'results' / 'compile_for').glob('*.json')):
        kept = json.loads(path.read_text())
        for program in kept['programs'].values():
            if program['program'] != 'training':
                continue
            assert program['fits']
            platform = 'tpu' if kept['topology'].startswith('v') else 'gpu'
            case = kept['config'], program['remat'], platform
            if case not in estimates:
                target = topologies.target(kept['topology'])
                # On a CPU attention is another one.
                config = ahead_of_time.resolved(config_files.load_config(kept['config']), target)
                config.model.remat = program['remat']
                with topologies.answered(target):
                    estimates[case] = config, memory.estimate(config, platform)
            config, estimated = estimates[case]
            images, usable = program['images_at_once_a_chip'], program['usable_bytes']
            ratio = estimated.at(images) / program['memory']['peak']
            assert 0.8 < ratio < 1.6, (path.name, program['remat'], images, ratio)
            if not kept['config'].endswith(':classifier'):  # parts of its batch were given by hand
                share = program['config_batch'] // program['chips']
                words = memory.fitting_advice(config, share, estimated, usable)
                assert words == f'train.grad_accum={program["grad_accum"]} fits', path.name
    assert estimates


@pytest.mark.parametrize('patch', [1, 2, 8])
def test_the_least_of_a_batch_is_its_images_and_what_the_first_layer_makes_of_a_part(patch):
    config = make_tiny_config(
        data__image_size=16, data__channels=1, model__patch=patch, model__width=64
    )
    config.train.update(batch_size=12, grad_accum=3)
    side, channels = 16 // patch, 64 * config.model.channel_mult[0]
    images, features = 12 * 16 * 16 * 4, 4 * side * side * channels * 4
    assert memory._batch_bytes(config) == images + features


@pytest.mark.parametrize(
    'changes',
    [
        {'train__batch_size': 10**12},
        {'model__width': 61_440},
        {'model__width': 8_192, 'model__channel_mult': (1, 8), 'data__image_size': 8},
    ],
)
def test_a_training_that_cannot_fit_leaves_nothing(tmp_path, changes):
    message = user_error(loop.train, make_tiny_config(**changes), tmp_path / 'run')
    assert 'of memory on each' in message
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('error', 'asked'),
    [
        (
            RuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3.21GiB.'),
            'for another 3.21GiB ',
        ),
        (
            RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 2147483648 bytes.\nmore'),
            'for another 2.0 GiB ',
        ),
        (MemoryError('Unable to allocate 7.28 TiB for an array with shape (9,)'), '7.28 TiB '),
        (MemoryError(), 'not enough memory with'),
    ],
)
def test_a_failed_allocation_says_what_was_asked_and_what_there_is(device, error, asked):
    device(16 * GIB)

    def work():
        with memory.shortage_reported('train.batch_size=512', 'try train.grad_accum=2'):
            raise error

    message = user_error(work)
    assert asked in message
    assert 'with train.batch_size=512; each ' in message
    assert message.endswith(' has 16.0 GiB; try train.grad_accum=2')


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match='INTERNAL'), memory.shortage_reported('x', 'y'):
        raise RuntimeError('INTERNAL: something else')


def test_numpy_and_xla_raise_what_is_recognised():
    """Errors as these libraries raise them here, not as they are remembered."""
    for allocate in (
        lambda: np.empty(2**58, np.uint8),
        lambda: jax.numpy.zeros(2**45, np.int8).block_until_ready(),
    ):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            allocate()
        assert memory.is_shortage(caught.value), caught.value


@pytest.mark.parametrize(
    ('batch', 'accum', 'words'),
    [
        (64, 1, 'try train.grad_accum=2 or train.batch_size=32 or a smaller model'),
        (63, 1, 'try train.grad_accum=3 or train.batch_size=31 or a smaller model'),
        (64, 4, 'try train.grad_accum=8 or train.batch_size=32 or a smaller model'),
        (1, 1, 'try a smaller model'),
    ],
)
def test_advice_can_be_followed(batch, accum, words):
    config = make_tiny_config(train__batch_size=batch, train__grad_accum=accum)
    assert memory.advice(config) == words


def test_the_containers_limit_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, '_CGROUP', tmp_path / 'memory.max')
    total = memory.host_bytes()
    assert total > GIB / 4
    (tmp_path / 'memory.max').write_text('1000000\n')
    assert memory.host_bytes() == 1_000_000
    (tmp_path / 'memory.max').write_text('max\n')
    assert memory.host_bytes() == total


@pytest.mark.parametrize(
    'error', [MemoryError('Unable to allocate 7 TiB'), RuntimeError('RESOURCE_EXHAUSTED: 7 TiB')]
)
def test_every_command_ends_in_one_line(capsys, error):
    def main(argv):
        raise error

    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: not enough memory (')
    assert '7 TiB' in line
