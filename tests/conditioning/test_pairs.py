"""The interface of conditions, with a kind that is neither one array nor a label."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guided import guided
from pairs import SIZE, LabelAndVector
from support import make_tiny_config, user_error

from cfg_jax import config as config_lib, inference
from cfg_jax.conditioning import CONDITIONS
from cfg_jax.conditioning.dropping import drop
from cfg_jax.data import pipeline
from cfg_jax.distributed import devices
from cfg_jax.guidance import RULES
from cfg_jax.models import networks
from cfg_jax.training import step as train_step

CLASSES = 10
PAIRS = LabelAndVector(CLASSES)
GIVEN = [(3, [0.5, -1.0, 2.0]), (3, [0.0, 0.0, 1.0]), (7, [1.0, 1.0, 1.0])]


class ToyNetwork(nn.Module):
    """The smallest network that embeds a condition of any kind."""

    conditioning: object
    channels: int

    @nn.compact
    def __call__(self, z, logsnr, condition, train=False):
        emb = self.conditioning.encode(condition, 8, jnp.float32)
        emb = emb + nn.Dense(8)(logsnr[:, None] / 20.0)
        return nn.Conv(self.channels, (3, 3))(jnp.tanh(nn.Conv(8, (3, 3))(z) + emb[:, None, None]))


@pytest.fixture
def config(monkeypatch):
    """The tiny config of a toy network with pairs as conditions."""
    entries = CONDITIONS._entries
    monkeypatch.setitem(
        entries, 'pair', dataclasses.replace(entries['label'], target='pairs:LabelAndVector')
    )
    monkeypatch.setattr(
        networks,
        'make_unet',
        lambda config: ToyNetwork(networks.make_conditioning(config), config.data.channels),
    )
    config = make_tiny_config(condition='pair')
    config_lib.validate(config)
    return config


def trained(config, steps):
    """[state] before the first step and after each."""
    state = jax.device_put(train_step.create_state(config), devices.replicated())
    step = devices.map_step(train_step.make_train_step(config))
    batches = pipeline.TrainingBatches(config.data, batch_size=config.train.batch_size, seed=0)
    states = [jax.device_get(state)]
    for _ in range(steps):
        state, metrics = step(state, devices.split_batch(next(batches)))
        assert np.isfinite(devices.first_replica(metrics)['loss'])
        states.append(jax.device_get(state))
    batches.close()
    return states


def test_trains_and_samples(config):
    first, *_, last = trained(config, 2)
    for name, leaf in (('label', 'embedding'), ('vector', 'kernel')):
        moved = last.params['params'][name][leaf] - first.params['params'][name][leaf]
        assert np.abs(moved).max() > 1e-5, name
    model = inference.Model(config, {'main': last.params})
    images = model.sample(GIVEN, w=[0.0, 2.0, 2.0], seed=4)
    assert images.shape == (3, 8, 8, 1)
    assert images.dtype == np.uint8
    alone = model.sample(GIVEN[1:2], w=[2.0], seed=4, indices=[1])
    assert np.abs(images[1].astype(int) - alone[0]).max() <= 1


def test_both_parts_reach_the_network(config):
    (state,) = trained(config, 0)
    model = inference.Model(config, {'main': state.params})
    z = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    given = PAIRS.from_user(GIVEN)
    eps = np.asarray(model.eps(z, 0.0, given))
    for name, other in (('label', given['label'] + 1), ('vector', given['vector'] + 1.0)):
        assert np.abs(model.eps(z, 0.0, given | {name: other}) - eps).max() > 1e-3, name
    null = PAIRS.null(given)
    assert np.abs(model.eps(z, 0.0, null) - eps).max() > 1e-3


def test_guided_by_the_null_of_both_parts(config):
    """(1 + w) eps(z, c) - w eps(z), the null one with the label `num_classes` and no vector."""
    (state,) = trained(config, 0)
    z = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    given, w = PAIRS.from_user(GIVEN), np.float32([0.0, 1.0, 3.0])
    null = {'label': np.full(3, CLASSES, np.int32), 'vector': np.zeros((3, SIZE), np.float32)}
    model = inference.Model(config, {'main': state.params})

    def network(z, logsnr, condition):
        return model.networks['main'].network(state.params, z, logsnr, condition)

    predict = guided(
        RULES.make('classifier_free'), network, given, w, conditioning=model.conditioning
    )
    eps = predict(z, jnp.float32(1.0), predict.init(z))[0].eps
    cond, uncond = (np.asarray(model.eps(z, 1.0, c)) for c in (given, null))
    scale = w[:, None, None, None]
    np.testing.assert_allclose(eps, (1 + scale) * cond - scale * uncond, rtol=0, atol=1e-5)


def test_a_condition_is_dropped_whole_and_each_example_by_its_own_key():
    count = 20_000
    keys = jax.random.split(jax.random.key(0), count)
    label = np.arange(count, dtype=np.int32) % CLASSES
    vector = np.random.default_rng(0).normal(size=(count, SIZE)).astype(np.float32)
    given = {'label': label, 'vector': vector}
    dropped = drop(PAIRS, keys, given, 0.3)
    gone = np.asarray(dropped['label'] == CLASSES)
    np.testing.assert_array_equal(np.all(dropped['vector'] == 0.0, axis=1), gone)
    np.testing.assert_array_equal(dropped['label'][~gone], label[~gone])
    np.testing.assert_array_equal(dropped['vector'][~gone], vector[~gone])
    assert abs(gone.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / count)
    for lag in (1, 2):
        assert abs(np.corrcoef(gone[:-lag], gone[lag:])[0, 1]) < 4 / np.sqrt(count)
    some = np.arange(100, 150)
    part = drop(PAIRS, keys[some], jax.tree.map(lambda a: a[some], given), 0.3)
    np.testing.assert_array_equal(part['vector'], np.asarray(dropped['vector'])[some])


def test_every_part_has_the_length_of_the_batch():
    keys = jax.random.split(jax.random.key(0), 4)
    given = {'label': np.zeros(4, np.int32), 'vector': np.zeros((1, SIZE), np.float32)}
    with pytest.raises(ValueError, match='as many conditions'):
        drop(PAIRS, keys, given, 0.3)


def test_lengths_that_disagree_between_the_parts(config):
    (state,) = trained(config, 0)
    model = inference.Model(config, {'main': state.params})
    given = PAIRS.from_user(GIVEN)
    short = given | {'vector': given['vector'][:2]}
    message = user_error(model.generate, 0, range(3), short, 1.0)
    assert '3 images need as many conditions; got 2, 3' in message
    assert 'a label and 3 numbers' in user_error(model.sample, [(3, [1.0])])


def test_conditions_of_a_sweep_depend_on_the_number_alone(config):
    model = inference.Model(config)
    together = model.draw_conditions(5, np.arange(20), 'balanced')
    np.testing.assert_array_equal(together['label'], np.arange(20) % CLASSES)
    part = model.draw_conditions(5, np.arange(7, 9), 'balanced')
    np.testing.assert_array_equal(part['vector'], together['vector'][7:9])
    assert len(np.unique(together['vector'])) == 20 * SIZE


def test_a_weight_for_each_part():
    """eps(0) + first (eps(a) - eps(0)) + (1 + w) (eps(a, b) - eps(a)), by hand."""
    given = {'label': np.int32([1, 2]), 'vector': np.float32([[1, 0, 0], [0, 2, 0]])}

    def network(z, logsnr, condition):
        # 1 for the null label, else 10; plus the sum of the vector.
        eps = jnp.where(condition['label'] == CLASSES, 1.0, 10.0) + condition['vector'].sum(1)
        return jnp.zeros_like(z) + eps[:, None, None, None]

    rule = RULES.make('two_conditions', 'first=2')
    predict = guided(rule, network, given, [0.5, 3.0], conditioning=PAIRS)
    z = jnp.zeros((2, 2, 2, 1))
    eps = predict(z, jnp.float32(0.0), predict.init(z))[0].eps
    # 1 + 2 (10 - 1) + 1.5 * 1 = 20.5 and 1 + 18 + 4 * 2 = 27
    np.testing.assert_allclose(eps[:, 0, 0, 0], [20.5, 27.0], rtol=1e-6)
    labels_alone = functools.partial(guided, rule, lambda z, *_: z, np.int32([1, 2]), [0.5, 3.0])
    predict = labels_alone()
    assert 'two parts' in user_error(predict, z, jnp.float32(0.0), predict.init(z))
