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
    run_here,
    toy_instead_of_networks,
    user_error,
)

from cfg_jax import files, loading
from cfg_jax.errors import Preempted
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


@pytest.fixture
def start(tmp_path):
    """start(path, **changes) -> the first state of such a run."""

    def make(path, **changes):
        config = make_tiny_config(train__start_from=str(path), **changes)
        starting.note(config, tmp_path)
        return starting.with_start(config, tmp_path, train_step.create_state(config))

    return make


def kernel(params):
    return params['params']['conv_in']['kernel']


def test_parameters_and_averages_are_the_average_that_is_there_and_the_rest_is_new(trunk, start):
    state = start(trunk, p_uncond=0.5, train__averages_every=1)
    average, _, provenance = loading.load_params(trunk)
    raw = loop.train(make_tiny_config(train__steps=2), trunk).params
    new = train_step.create_state(make_tiny_config(p_uncond=0.5))
    for params in (state.params, state.ema_params, *state.averages):
        assert_trees_equal(params, average)
    assert not np.array_equal(kernel(state.params), kernel(raw))
    assert_trees_equal(state.opt_state, new.opt_state)
    assert int(state.step) == 0
    assert provenance['checkpoint_step'] == 2


def test_it_is_noted_which_weights_these_are(trunk, start, tmp_path):
    start(trunk)
    noted = files.read_json(tmp_path / starting.RECORD)
    expected = {'path': str(trunk), 'images': 2 * 16, 'starts': []}
    assert noted == expected | loading.load_params(trunk)[2]


def test_exported_files_name_every_training_before_their_own(tmp_path, capsys):
    def export_of(name):
        path = tmp_path / f'{name}.safetensors'
        arguments = f'--model={tmp_path / name}', f'--out={path}'
        assert run_here(capsys, 'scripts/export.py', *arguments)[0] == 0
        return path

    def train(name, steps, start=''):
        config = make_tiny_config(train__start_from=str(start), train__steps=steps)
        loop.train(config, tmp_path / name)
        return tmp_path / name

    with toy_instead_of_networks():
        train('a', 3)
        first = export_of('a')
        second = train('b', 4, first)
        train('c', 5, second)
        hashes = [loading.load_params(path)[2]['weights_sha256'] for path in (second, first)]
        last = export_of('c')
    keys = 'path', 'checkpoint_step', 'images', 'weights_sha256'
    found = [[each[key] for key in keys] for each in export.read_starts(last)]
    assert found == [[str(second), 4, 64, hashes[0]], [str(first), 3, 48, hashes[1]]]
    assert starting.starts_of(last) == starting.starts_of(tmp_path / 'c')
    assert starting.starts_of(first) == export.read_starts(first) == []
    text = (tmp_path / 'c.MODEL_CARD.md').read_text()
    assert (
        f'It started from the weights of step 4 in `{second.name}` (64 images, SHA-256'
        f' `{hashes[0]}`), which started from the weights of step 3 in `{first.name}` (48 images,'
    ) in text


def test_a_file_in_bfloat16_is_read_as_float32(trunk, exported, start):
    average, _, _ = loading.load_params(trunk)
    rounded = jax.tree.map(lambda a: a.astype('bfloat16').astype('float32'), average)
    assert_trees_equal(start(exported).params, rounded)


@pytest.mark.parametrize('classes', [12, 3])
def test_other_classes_all_start_as_the_null_label(trunk, start, classes):
    state = start(trunk, data__num_classes=classes)
    average, _, _ = loading.load_params(trunk)
    null = average['params']['label']['embedding'][-1]
    table = state.params['params']['label']['embedding']
    np.testing.assert_array_equal(table, np.tile(null, (classes + 1, 1)))
    del average['params']['label'], state.params['params']['label']
    assert_trees_equal(state.params, average)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'target': 'v'}, "target: 'eps' -> 'v'"),
        ({'model__width': 16}, 'model.width: 8 -> 16'),
        # The same shapes, and another function.
        ({'model__norm_groups': 2}, 'model.norm_groups: 4 -> 2'),
        ({'model__head_channels': 4}, 'model.head_channels: 8 -> 4'),
        ({'model__num_res_blocks': 2}, 'model.num_res_blocks: 1 -> 2'),
        ({'data__channels': 3}, 'data.channels: 1 -> 3'),
        ({'data__image_size': 16}, 'data.image_size: 8 -> 16'),
        ({'condition': 'unconditional', 'p_uncond': 0.0}, 'condition:'),
    ],
)
def test_another_network_is_refused_before_a_work_directory_is_made(
    trunk, tmp_path, changes, words
):
    config = make_tiny_config(train__start_from=str(trunk), **changes)
    message = user_error(loop.train, config, tmp_path / 'run')
    assert message.startswith(f'train.start_from={trunk} is another network (there -> here: ')
    assert words in message
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    'changes',
    [
        {'model__dropout': 0.1},
        {'model__dtype': 'bfloat16'},
        {'model__remat': 'blocks'},
        {'model__attention': 'xla'},
        {'diffusion__logsnr_max': 9.0},
    ],
)
def test_how_a_network_is_computed_and_trained_may_differ(trunk, changes):
    starting.check(make_tiny_config(train__start_from=str(trunk), **changes))


def test_without_a_trained_null_label_the_classes_must_be_the_same(tmp_path):
    with toy_instead_of_networks():
        loop.train(make_tiny_config(p_uncond=0.0, train__steps=1), tmp_path / 'trunk')
        loop.train(make_tiny_config(CLASSIFIER, train__steps=1), tmp_path / 'classifier')
    for name, path in (('trunk', ()), ('classifier', (CLASSIFIER,))):
        changes = {'train__start_from': str(tmp_path / name), 'data__num_classes': 12}
        message = user_error(starting.check, make_tiny_config(*path, **changes))
        assert 'data.num_classes: 10 -> 12' in message


def test_what_is_no_start_is_named(trunk, tmp_path):
    config = make_tiny_config(train__start_from=str(tmp_path / 'nothing'))
    message = user_error(loop.train, config, tmp_path / 'run')
    assert message.startswith(f'train.start_from: {tmp_path}/nothing does not exist')
    assert not (tmp_path / 'run').exists()
    config = make_tiny_config(CLASSIFIER, train__start_from=str(trunk))
    assert "model.kind: 'unet' -> 'classifier'" in user_error(starting.check, config)


@pytest.mark.parametrize('kind', ['trunk', 'exported', 'classifier'])
def test_a_run_that_was_started_resumes_bit_for_bit_without_its_start(kind, tmp_path):
    config = (CLASSIFIER,) if kind == 'classifier' else ()
    start = tmp_path / ('trunk.safetensors' if kind == 'exported' else 'trunk')
    with toy_instead_of_networks():
        loop.train(make_tiny_config(*config, train__steps=3), tmp_path / 'trunk')
        if kind == 'exported':
            export.write_model(start, *loading.load_params(tmp_path / 'trunk')[:2], 3)
        changes = {'train__start_from': str(start), 'seed': 5}
        with logged() as lines:
            loop.train(make_tiny_config(*config, **changes), tmp_path / 'whole')
        loop.train(make_tiny_config(*config, **changes, train__steps=3), tmp_path / 'halves')
        start.rename(tmp_path / 'gone')
        loop.train(make_tiny_config(*config, **changes), tmp_path / 'halves')
        loop.train(make_tiny_config(*config, seed=5), tmp_path / 'from_scratch')
    whole, halves = (checkpoint_hash(tmp_path / name, 6) for name in ('whole', 'halves'))
    assert whole == halves != checkpoint_hash(tmp_path / 'from_scratch', 6)
    assert any(f'the weights are those of {start}' in line for line in lines)
    assert workdirs.read_config(tmp_path / 'whole').train.start_from == str(start)


def test_killed_before_its_first_checkpoint_a_run_starts_from_the_same_weights(
    tmp_path, monkeypatch
):
    trunk = make_tiny_config(train__checkpoint_every=2)
    config = make_tiny_config(train__start_from=str(tmp_path / 'trunk'))
    with toy_instead_of_networks():
        loop.train(trunk.copy_and_resolve_references(), tmp_path / 'trunk')
        loop.train(config, tmp_path / 'whole')
        noted = files.read_json(tmp_path / 'whole' / starting.RECORD)

        def killed(self, state, first):
            raise Preempted('killed')

        with monkeypatch.context() as patch, pytest.raises(Preempted):
            patch.setattr(loop._Loop, 'run', killed)
            loop.train(config, tmp_path / 'killed')
        trunk.train.steps = 8
        loop.train(trunk, tmp_path / 'trunk')  # its newest checkpoint is another now
        loop.train(config, tmp_path / 'killed')
        assert checkpoint_hash(tmp_path / 'killed', 6) == checkpoint_hash(tmp_path / 'whole', 6)
        assert files.read_json(tmp_path / 'killed' / starting.RECORD) == noted

        files.write_json(tmp_path / 'killed' / starting.RECORD, noted | {'weights_sha256': 'else'})
        state = train_step.create_state(config)
        message = user_error(starting.with_start, config, tmp_path / 'killed', state)
    assert 'has other weights than those that' in message
