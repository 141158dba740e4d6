"""Images by number: what image i is must depend on nothing but the seed, i, its label and w."""

import dataclasses
import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from support import make_tiny_config, user_error

from cfg_jax import inference, settings
from cfg_jax.data import images
from cfg_jax.diffusion import CosineSchedule
from cfg_jax.evaluation import results, sweep
from cfg_jax.guidance.classifier_free import ClassifierFree
from cfg_jax.guidance.interval import Interval
from cfg_jax.keys import per_image_noise
from cfg_jax.models.denoiser import Denoiser
from cfg_jax.samplers import Sampler
from cfg_jax.samplers.ancestral import Ancestral
from cfg_jax.samplers.ddim import DDIM
from cfg_jax.samplers.grids import Grid
from cfg_jax.training.step import create_state

CLASSES = NULL = 10
SHAPE = (6, 6, 2)
# float32 additions in another order, through a few steps, move a finished image by less.
SAME_IMAGE = 2e-3


def make_params(seed=0):
    """Of `conv_network`."""
    rng = np.random.default_rng(seed)
    return {
        'main': {
            'kernel': np.float32(0.3 * rng.normal(size=(3, 3, 2, 2))),
            'table': np.float32(rng.normal(size=(CLASSES + 1, 2))),
        }
    }


def conv_network(params, z, logsnr, label):
    """An eps_theta with a convolution, which mixes pixels, and an embedding of the label."""
    h = jax.lax.conv_general_dilated(
        z, params['kernel'], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    return jnp.tanh(h + params['table'][label][:, None, None] + 0.1 * logsnr[:, None, None, None])


class Recorder:
    """A network that notes the shape of each z it is traced with."""

    def __init__(self, network):
        self.network = network
        self.shapes = []

    def __call__(self, params, z, logsnr, label):
        self.shapes.append(z.shape)
        return self.network(params, z, logsnr, label)


@dataclasses.dataclass(frozen=True)
class StartNoise(Sampler):
    """Returns its start."""

    def step(self, predict, z, level, state):
        return z, state


@dataclasses.dataclass(frozen=True)
class StepNoise(Sampler):
    """Returns what the keys of its last level draw."""

    def step(self, predict, z, level, state):
        return per_image_noise(level.keys, z.shape[1:]), state


@dataclasses.dataclass(frozen=True)
class OneEps(Sampler):
    """Returns the prediction of its last level, for z = 0."""

    def step(self, predict, z, level, state):
        prediction, guidance = predict(jnp.zeros_like(z), level.logsnr, state.guidance)
        return prediction.eps, state._replace(guidance=guidance)


def config_of_shape():
    config = make_tiny_config()
    config.data.image_size, _, config.data.channels = SHAPE
    return config


def make(sampler, network=conv_network, params=None):
    networks = {'main': Denoiser(network)}
    return inference.Model(
        config_of_shape(),
        make_params() if params is None else params,
        networks=networks,
        rule=ClassifierFree(),
        sampler=sampler,
    )


@functools.cache
def recorded_model():
    """(model, recorder) with the real sampler; compilations are shared between tests."""
    recorder = Recorder(conv_network)
    return make(Ancestral(num_steps=5, v=0.3), recorder), recorder


def labels_of(indices, seed=0):
    return recorded_model()[0].draw_conditions(seed, indices, 'uniform')


def generate(indices, w, seed=0):
    indices = np.asarray(indices)
    return np.asarray(recorded_model()[0].generate(seed, indices, labels_of(indices), w).x)


@pytest.mark.parametrize('sampler', [StartNoise, StepNoise])
def test_noise_is_the_same_in_any_batch_and_for_any_weight(sampler):
    model = make(sampler(num_steps=2))

    def noise(indices, w=0.0, seed=0):
        labels = np.zeros(len(indices), np.int32)
        return np.asarray(model.generate(seed, indices, labels, w).x)

    together = noise(np.arange(64))
    assert together.shape == (64, *SHAPE)
    for part in (np.arange(7), np.arange(40, 47)):
        np.testing.assert_array_equal(noise(part), together[part])
        np.testing.assert_array_equal(noise(part, w=2.0), together[part])
    other = noise(np.arange(64), seed=1)
    assert abs(np.corrcoef(together.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(other.size)
    assert stats.kstest(together.ravel(), 'norm').pvalue > 1e-3


def test_start_and_steps_draw_from_different_streams():
    indices, labels = np.arange(64), np.zeros(64, np.int32)
    start, steps = (
        np.asarray(make(sampler(num_steps=2)).generate(0, indices, labels, 0.0).x).ravel()
        for sampler in (StartNoise, StepNoise)
    )
    assert abs(np.corrcoef(start, steps)[0, 1]) < 4 / np.sqrt(start.size)


@pytest.mark.parametrize('w', [0.0, 1.5])
def test_an_image_is_the_same_in_a_batch_of_7_and_of_64(w):
    together = generate(np.arange(64), w)
    assert np.abs(together).max() <= 1.0
    for part in (np.arange(7), np.arange(57, 64)):
        np.testing.assert_allclose(generate(part, w), together[part], rtol=0, atol=SAME_IMAGE)
    # Other numbers are other images, by far more than the tolerance.
    differences = np.abs(together[1:] - together[:-1]).max(axis=(1, 2, 3))
    assert differences.min() > 100 * SAME_IMAGE


def test_seed_label_and_weight_change_the_image():
    indices = np.arange(7)
    image = generate(indices, 1.5)
    model = recorded_model()[0]
    relabelled = model.generate(0, indices, (labels_of(indices) + 1) % CLASSES, 1.5).x
    for other in (generate(indices, 0.5), generate(indices, 1.5, seed=1), np.asarray(relabelled)):
        assert np.abs(other - image).max(axis=(1, 2, 3)).min() > 10 * SAME_IMAGE


def test_prediction_by_hand():
    """With eps = label: (1 + w) c - w null, and c alone at w = 0."""

    def network(params, z, logsnr, label):
        return jnp.broadcast_to(params * label[:, None, None, None], z.shape)

    model = make(OneEps(num_steps=2), network, {'main': np.float32(2.0)})
    # w = 0.5: 1.5 * 4 - 0.5 * 10 = 1; times the parameter, 2. Class 7: 1.5 * 7 - 5 = 5.5.
    for w, expected in ((0.0, [8.0, 14.0]), (0.5, [2.0, 11.0])):
        generated = model.generate(0, [0, 1], np.int32([4, 7]), w)
        np.testing.assert_allclose(generated.x[:, 0, 0, 0], expected, rtol=1e-6)
        np.testing.assert_array_equal(generated.nfe, [4, 4] if w else [2, 2])  # two levels


def test_one_trace_serves_every_weight():
    recorder = Recorder(conv_network)
    model = make(OneEps(num_steps=2), recorder)
    indices, labels = np.arange(5), np.arange(5, dtype=np.int32)
    for w in (0.1, 0.3, 1, 4.0, np.float32(2.0), np.full(5, 0.7), np.zeros(5)):
        model.generate(0, indices, labels, w)
    assert recorder.shapes == [(5, *SHAPE)]  # mapped over the two labels
    for w in (0.0, 0, np.float32(0.0), -0.0):
        model.generate(1, indices + 5, labels, w, make_params(seed=1))
    assert recorder.shapes == [(5, *SHAPE)] * 2


def test_a_sweep_compiles_the_sampler_twice():
    """Once guided and once not, whatever the number of weights; `lax.scan` hides the steps."""
    model, recorder = recorded_model()
    indices = np.arange(7)
    generate(indices, 1.0)
    generate(indices, 0.0)
    recorder.shapes.clear()
    for w in (0.0, 0.1, 0.3, 1.0, 4.0):
        model.generate(5, indices + 100, labels_of(indices), w, make_params(seed=2))
    assert recorder.shapes == []


def test_one_weight_per_image():
    indices = np.arange(7)
    weights = np.array([0.0, 0.5, 0.5, 1.5, 4.0, 1.5, 0.0])
    together = generate(indices, weights)
    for w in np.unique(weights):
        alone = generate(indices, w)
        rows = weights == w
        np.testing.assert_allclose(together[rows], alone[rows], rtol=0, atol=SAME_IMAGE)
        if not rows.all():
            assert np.abs(together[~rows] - alone[~rows]).max() > 10 * SAME_IMAGE


@pytest.fixture
def tiny_model(tiny_config, toy_networks):
    """The tiny config's model with toy parameters."""
    return inference.Model(tiny_config, {'main': create_state(tiny_config).params})


def test_model_of_a_config(tiny_config, tiny_model):
    size, channels = tiny_config.data.image_size, tiny_config.data.channels
    labels = np.int32([3, 3, 7])
    x = np.asarray(tiny_model.generate(0, np.arange(3), labels, 1.0).x)
    assert x.shape == (3, size, size, channels)
    assert x.dtype == np.float32
    assert np.abs(x).max() <= 1.0
    # The same by its parts, with the settings of the config.
    settings = tiny_config.sampler
    schedule = CosineSchedule(tiny_config.diffusion.logsnr_min, tiny_config.diffusion.logsnr_max)
    sampler = Ancestral(settings.num_steps, settings.clip, Grid(schedule), settings.v)
    assert tiny_model.sampler == sampler
    by_hand = inference.Model(
        tiny_config,
        tiny_model.params,
        networks={'main': Denoiser(tiny_model.networks['main'].network)},
        rule=ClassifierFree(),
        sampler=sampler,
    )
    expected = by_hand.generate(0, np.arange(3), labels, 1.0).x
    np.testing.assert_allclose(x, expected, rtol=0, atol=SAME_IMAGE)


def test_a_notebook_says_what_it_is(tiny_model):
    expected = '<Model of digits: 8x8x1, 10 classes, ClassifierFree, Ancestral, T = 4>'
    assert repr(tiny_model) == expected


def test_sample_gives_the_pictures_of_generate(tiny_model):
    labels, w = [3, 3, 7], [0.0, 1.0, 2.0]
    x = tiny_model.generate(5, range(3), np.int32(labels), np.float32(w)).x
    found = tiny_model.sample(labels, w, seed=5)
    assert (found.dtype, type(found)) == (np.uint8, np.ndarray)
    np.testing.assert_array_equal(found, images.to_uint8(x))
    # A number's image does not depend on the others.
    alone = tiny_model.sample([7], 2.0, seed=5, indices=[2])
    assert np.abs(alone[0].astype(int) - found[2]).max() <= 1


def test_settings_of_one_call(tiny_model):
    """Rule, sampler and levels by name or as they are; the model itself stays what it was."""
    given = {'w': 2.0, 'seed': 1}
    plain = tiny_model.sample([3, 7], **given)
    by_name = tiny_model.sample(
        [3, 7], **given, guidance='interval:lowest=0.5,highest=2', sampler='ddim', num_steps=6
    )
    # The config's settings are kept where nothing else is asked for.
    sampler = DDIM(6, clip=True, grid=tiny_model.sampler.grid)
    rule = Interval(lowest=0.5, highest=2.0)
    as_is = tiny_model.sample([3, 7], **given, guidance=rule, sampler=sampler)
    np.testing.assert_array_equal(by_name, as_is)
    assert np.abs(by_name.astype(int) - plain).max() > 0
    np.testing.assert_array_equal(tiny_model.sample([3, 7], **given), plain)
    assert tiny_model.with_settings(rule, sampler) is tiny_model.with_settings(rule, sampler)
    assert tiny_model.with_settings() is tiny_model
    assert tiny_model.with_settings(sampler='ancestral') is tiny_model


def test_a_model_that_is_no_longer_used_frees_its_arrays():
    """Nothing of the class keeps it, nor the variants that it made with other settings."""
    config = make_tiny_config()
    params = {'main': create_state(config).ema_params}
    model = inference.Model(config, params)
    variant = model.with_settings(num_steps=3)
    freed = [weakref.ref(each) for each in (model, variant)]
    del model, variant
    gc.collect()
    assert [each() for each in freed] == [None, None]


def test_a_sweep_records_the_sampler_that_is_used(tiny_model):
    recorded = settings.record_of(tiny_model.sampler, tiny_model.config)
    assert (recorded['name'], recorded['num_steps']) == ('ancestral', tiny_model.sampler.num_steps)
    other = tiny_model.with_settings(sampler='ddim:eta=0.5', num_steps=6)
    assert recorded | {
        'name': 'DDIM',
        'num_steps': 6,
        'options': repr(other.sampler),
    } == settings.record_of(other.sampler, other.config)
    assert 'eta=0.5' in repr(other.sampler)


def test_what_options_set_is_recorded_as_it_is():
    config = make_tiny_config(sampler__v=0.3, sampler__options='v=0,clip=false')
    recorded = settings.record_of(settings.make_sampler(config), config)
    assert (recorded['v'], recorded['clip'], recorded['options']) == (0.0, False, 'v=0,clip=false')
    before = {'features': {}, 'sampler': recorded | {'v': 0.3, 'clip': True}}
    now = {'features': {}, 'sampler': recorded}
    assert results.comparable(before) == results.comparable(now)
    assert '-v0-' in sweep.default_name(config, 6)


def test_eps_is_the_networks(tiny_model):
    z = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    label, logsnr = jnp.array([3, NULL]), jnp.float32(-1.0)
    network = tiny_model.networks['main'].network
    expected = network(tiny_model.params['main'], z, jnp.full(2, -1.0), label)
    np.testing.assert_allclose(tiny_model.eps(z, logsnr, label), expected, rtol=0, atol=1e-6)


LENGTHS = {
    'five images, two labels': (range(5), [3, 7], 0.0, '5 images need as many conditions; got 2'),
    'two images, five labels': ([0, 1], [3] * 5, 0.0, '2 images need as many conditions; got 5'),
    'one label for all': (range(5), [3], 1.0, 'need as many conditions; got 1'),
    'four weights': (range(5), [3] * 5, [1.0] * 4, 'need one guidance weight, or as many'),
    'one weight in a list': (range(5), [3] * 5, [1.0], 'need one guidance weight, or as many'),
    'a column of weights': ([0, 1], [3, 3], [[1.0], [2.0]], 'need one guidance weight'),
}


@pytest.mark.parametrize(('indices', 'labels', 'w', 'words'), LENGTHS.values(), ids=LENGTHS)
def test_lengths_that_disagree(tiny_model, indices, labels, w, words):
    assert words in user_error(tiny_model.generate, 0, indices, np.int32(labels), w)
    assert words in user_error(tiny_model.sample, labels, w, indices=indices)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'condition': [3, 10]}, 'label 10 is out of range; classes are 0..9'),
        ({'condition': [-1, 3]}, 'label -1 is out of range'),
        ({'condition': 3}, 'labels are a list of whole numbers'),
        ({'w': float('nan')}, 'finite number'),
        ({'w': [0.0, float('inf')]}, 'finite number'),
        ({'w': 1e39}, 'finite number'),
        ({'seed': -1}, 'seed'),
        ({'seed': 2**32}, 'seed'),
        ({'indices': [0, -1]}, 'image numbers'),
        ({'indices': [0, 2**32]}, 'image numbers'),
        ({'seed': 1.5}, 'seeds are whole numbers in 0..4294967295; got 1.5'),
        ({'seed': '3'}, "got '3'"),
        ({'seed': [1, 2]}, 'seeds are whole numbers'),
        ({'seed': True}, 'seeds are whole numbers'),
        ({'seed': 2**70}, 'seeds are whole numbers'),
        ({'indices': [0.9, 1.9]}, 'image numbers are whole numbers in 0..4294967295; got [0.9'),
        ({'indices': 5}, 'image numbers are whole numbers'),
        ({'indices': [[0], [1, 2]]}, 'image numbers are whole numbers'),
        ({'w': 'strong'}, 'finite number'),
        ({'w': [1.0, [2.0]]}, 'finite number'),
        ({'num_steps': 2.5}, 'num_steps is a whole number; got 2.5'),
        ({'num_steps': '4'}, 'num_steps is a whole number'),
        ({'num_steps': 1}, 'num_steps'),
        ({'sampler': 'ddim:num_steps=6'}, 'give it as num_steps (--num_steps)'),
        ({'sampler': 'leapfrog'}, "no sampler 'leapfrog'"),
        ({'sampler': 'ddim:speed=3'}, "no option 'speed=3'"),
        ({'guidance': 'free'}, "no guidance rule 'free'"),
        ({'guidance': 'interval:lowest=high'}, "lowest='high' is not a number"),
        ({'guidance': 'two_conditions', 'w': 1.0}, 'two parts'),
        ({'guidance': 'classifier_mean', 'sampler': 'ddim'}, 'needs a classifier network'),
    ],
)
def test_what_a_notebook_may_get_wrong(tiny_model, changes, words):
    assert words in user_error(tiny_model.sample, **{'condition': [3, 7]} | changes)
