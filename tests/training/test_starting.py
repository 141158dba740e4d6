"""Trainings that start from the weights of another one: `train.start_from`."""

import jax
import numpy as np
import pytest
from support import (
    CLASSIFIER,
    assert_trees_equal,
    checkpoint_hash,
    logged,
    make_tiny_config,
    toy_instead_of_networks,
    user_error,
)

from cfg_jax import files, loading
from cfg_jax.training import export, loop, starting, step as train_step, workdirs


@pytest.fixture(scope='module')
def trunk(tmp_path_factory):
    """A work directory of the tiny config's U-Net."""
    workdir = tmp_path_factory.mktemp('starting') / 'trunk'
    loop.train(make_tiny_config(train__steps=2), workdir)
    return workdir


@pytest.fixture(scope='module')
def exported(trunk):
    params, config, provenance = loading.load_params(trunk)
    path = trunk.parent / 'trunk.safetensors'
    export.write_model(path, params, config, provenance['checkpoint_step'], 'bfloat16')
    return path


def kernel(params):
    return params['params']['conv_in']['kernel']


def start(path, **changes):
    config = make_tiny_config(train__start_from=str(path), **changes)
    return starting.started(config, train_step.create_state(config))


def test_parameters_and_average_are_the_average_that_is_there_and_the_rest_is_new(trunk):
    state, record = start(trunk, p_uncond=0.5, train__learning_rate=1e-4)
    average, _, provenance = loading.load_params(trunk)
    raw = loop.train(make_tiny_config(train__steps=2), trunk).params
    new = train_step.create_state(make_tiny_config(p_uncond=0.5))
    assert_trees_equal(state.params, average)
    assert_trees_equal(state.ema_params, average)
    assert not np.array_equal(kernel(state.params), kernel(raw))
    assert_trees_equal(state.opt_state, new.opt_state)
    assert int(state.step) == 0
    assert record == {'path': str(trunk)} | provenance
    assert record['checkpoint_step'] == 2


def test_a_file_in_bfloat16_is_read_as_float32(trunk, exported):
    state, record = start(exported)
    average, _, _ = loading.load_params(trunk)
    rounded = jax.tree.map(lambda a: a.astype('bfloat16').astype('float32'), average)
    assert_trees_equal(state.params, rounded)
    assert record['weights_sha256'] == export.sha256_of_params(rounded)


def test_other_classes_all_start_as_the_null_label(trunk):
    state, _ = start(trunk, data__num_classes=12)
    average, _, _ = loading.load_params(trunk)
    null = average['params']['label']['embedding'][-1]
    table = state.params['params']['label']['embedding']
    assert table.shape == (13, null.size)
    np.testing.assert_array_equal(table, np.tile(null, (13, 1)))
    del average['params']['label'], state.params['params']['label']
    assert_trees_equal(state.params, average)


@pytest.mark.parametrize(
    'changes, words',
    [
        ({'target': 'v'}, ['target=eps', 'v: they must agree']),
        ({'model__width': 16}, ['another network', 'is (', 'this config needs', 'group model']),
        ({'model__scale_shift_norm': False}, ['another network', 'this config needs']),
        ({'model__num_res_blocks': 2}, ['another network', 'is missing']),
        ({'data__channels': 3}, ['data.channels=1', '3: they must agree']),
        ({'condition': 'unconditional', 'p_uncond': 0.0}, ['condition=label']),
    ],
)
def test_another_network_is_refused(trunk, changes, words):
    message = user_error(start, trunk, **changes)
    assert str(trunk) in message
    for word in words:
        assert word in message


def test_a_classifier_is_no_start_of_a_denoiser(trunk):
    config = make_tiny_config(CLASSIFIER, train__start_from=str(trunk))
    assert 'model.kind=unet' in user_error(starting.check, config)


def test_a_mistake_is_found_before_a_work_directory_is_made(tmp_path):
    config = make_tiny_config(train__start_from=str(tmp_path / 'nothing'))
    assert 'nothing' in user_error(loop.train, config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_run_that_was_started_resumes_bit_for_bit_without_its_start(tmp_path):
    with toy_instead_of_networks():
        loop.train(make_tiny_config(train__steps=3), tmp_path / 'trunk')
        changes = {'train__start_from': str(tmp_path / 'trunk'), 'p_uncond': 0.5}
        with logged() as lines:
            loop.train(make_tiny_config(**changes), tmp_path / 'whole')
        loop.train(make_tiny_config(**changes, train__steps=3), tmp_path / 'halves')
        (tmp_path / 'trunk').rename(tmp_path / 'gone')
        loop.train(make_tiny_config(**changes), tmp_path / 'halves')
        loop.train(make_tiny_config(p_uncond=0.5), tmp_path / 'from_scratch')
    whole, halves = (checkpoint_hash(tmp_path / name, 6) for name in ('whole', 'halves'))
    assert whole == halves != checkpoint_hash(tmp_path / 'from_scratch', 6)
    record = files.read_json(tmp_path / 'whole' / 'started_from.json')
    assert record['checkpoint_step'] == 3
    assert any(record['weights_sha256'] in line for line in lines)
    assert workdirs.read_config(tmp_path / 'whole').train.start_from == changes['train__start_from']
