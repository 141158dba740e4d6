"""scripts/validate.py: the loss of checkpoints on the images of any split."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pictures import class_folder
from support import make_tiny_config, run_here, toy_instead_of_networks, user_error

from cfg_jax import config as config_lib, loading
from cfg_jax.data import pipeline
from cfg_jax.keys import image_keys
from cfg_jax.models import PUBLISHED, networks
from cfg_jax.training import export, held_out, loop
from cfg_jax.training.objectives import make_objective

COMMAND = 'scripts/validate.py'
SPLITS = ('train[:20]', 'train[20:50]')


@pytest.fixture(scope='module', autouse=True)
def toys():
    with toy_instead_of_networks():
        yield


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A work directory with checkpoints of steps 3 and 6."""
    workdir = tmp_path_factory.mktemp('held_out') / 'run'
    loop.train(make_tiny_config(train__steps=6), workdir)
    return workdir


def images_of(config, split):
    (batch,) = pipeline.one_epoch(config.data, split, 100)
    return batch['image'], batch['condition']


def test_each_checkpoint_has_the_objective_s_mean_on_the_same_draws(run):
    results = held_out.measure(run, splits=SPLITS, batch_size=8, seed=5)
    losses = []
    for row, step in zip(results['rows'], (3, 6), strict=True):
        params, config, provenance = loading.load_params(run, step=step)
        objective = make_objective(config)  # of a network without dropout
        assert row['step'] == step
        assert row['weights_sha256'] == provenance['weights_sha256']
        for split, count in zip(SPLITS, (20, 30), strict=True):
            x, label = images_of(config, split)
            keys = image_keys(5, np.arange(count))
            loss = np.asarray(objective(params, jax.random.key(1), x, label, keys)['loss'])
            assert row[f'images_{split}'] == count
            np.testing.assert_allclose(row[f'loss_{split}'], loss.mean(), rtol=1e-5)
            error = loss.std(ddof=1) / np.sqrt(count)
            np.testing.assert_allclose(row[f'loss_{split}_se'], error, rtol=1e-4)
        losses.append(loss)
    change = losses[1] - losses[0]
    found = results['rows'][1]
    np.testing.assert_allclose(found['change'], change.mean(), atol=1e-6)
    np.testing.assert_allclose(found['change_se'], change.std(ddof=1) / np.sqrt(30), rtol=1e-3)
    assert found['change_se'] < 0.2 * found[f'loss_{SPLITS[1]}_se']  # what pairs are for
    assert 'change' not in results['rows'][0]


def test_a_perfect_network_has_no_loss(monkeypatch):
    """eps-hat = (z - alpha x) / sigma of the image that it is shown, whatever was drawn."""
    config = make_tiny_config()
    x, _ = images_of(config, 'train[:10]')

    class Denoiser:
        def prediction(self, params, z, logsnr, condition, **_):
            logsnr = logsnr[:, None, None, None]
            alpha, sigma = jax.nn.sigmoid(logsnr) ** 0.5, jax.nn.sigmoid(-logsnr) ** 0.5
            return (z - alpha * params['x']) / sigma

    monkeypatch.setattr(networks, 'make_denoiser', lambda config: Denoiser())
    loss = held_out.make_split_loss(config, batch_size=10)
    np.testing.assert_allclose(loss({'x': jnp.asarray(x)}, 'train[:10]', 10), 0.0, atol=1e-6)
    assert loss({'x': jnp.asarray(x)[::-1]}, 'train[:10]', 10).mean() > 1e-3


def test_batches_change_nothing_and_the_last_need_not_be_full(run):
    params, config, _ = loading.load_params(run)
    whole, parts = (
        held_out.make_split_loss(config, batch_size=size)(params, 'train', 21) for size in (21, 8)
    )
    assert whole.shape == (21,)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_the_command_prints_a_table_and_writes_json(run, tmp_path, capsys):
    out = tmp_path / 'losses.json'
    status, lines, _ = run_here(
        capsys, COMMAND, f'--model={run}', f'--splits={",".join(SPLITS)}', f'--out={out}'
    )
    assert status == 0
    rows = json.loads(out.read_text())['rows']
    table = [line for line in lines if line.startswith('| ')]
    assert table[0] == '| step | train[:20] | train[20:50] | change |'
    assert table[1].startswith(f'| 3 | {rows[0]["loss_train[:20]"]:.5f} ± ')
    assert table[2].endswith(f'| {rows[1]["change"]:+.5f} ± {rows[1]["change_se"]:.5f} |')


def test_an_exported_file_has_one_row(run, tmp_path, capsys):
    params, config, _ = loading.load_params(run)
    path = tmp_path / 'model.safetensors'
    export.write_model(path, params, config, 6)
    status, lines, _ = run_here(capsys, COMMAND, f'--model={path}', '--splits=train[:20]')
    assert status == 0
    assert lines[-1].startswith('| 6 | ')


@pytest.mark.parametrize(
    'argument, message',
    [
        ('--splits=nowhere', 'nowhere'),
        ('--steps=4', 'no checkpoint of step 4; it has: 3, 6'),
        ('--data=folder:/nowhere', '/nowhere'),
    ],
)
def test_mistakes_end_in_one_line(run, capsys, argument, message):
    status, _, lines = run_here(capsys, COMMAND, f'--model={run}', '--splits=train', argument)
    assert status == 2
    assert message in lines[-1]


def test_an_imported_network_has_no_objective_of_ours(tmp_path, capsys):
    path = tmp_path / 'imported.safetensors'
    config = config_lib.base_config('edm2')
    export.write_model(path, {'params': {'a': np.zeros(3, np.float32)}}, config, 6)
    status, _, lines = run_here(capsys, COMMAND, f'--model={path}', '--splits=train[:20]')
    assert status == 2
    assert lines == [
        f'error: {path} is an imported network (edm2), of which no training objective is known;'
        ' give a model that was trained here'
    ]


@pytest.mark.parametrize('kind', PUBLISHED)
def test_no_imported_network_has(monkeypatch, kind):
    monkeypatch.setattr(loading, 'read_config', lambda path: config_lib.base_config(kind))
    assert f'imported network ({kind})' in user_error(held_out.measure, 'a.safetensors')


def test_by_default_the_splits_that_there_are(run, tmp_path):
    """The digits have no held-out split; folders call theirs val or test."""
    assert held_out.measure(run, steps=[3], count=8, batch_size=8)['splits'] == ('train',)
    config = make_tiny_config(data__name=f'folder:{tmp_path}')
    for name, expected in (('train', []), ('test', ['test']), ('val', ['val'])):
        class_folder(tmp_path / name, {'a': 1})
        assert held_out._default_splits(config) == ['train', *expected]


def test_a_set_that_is_not_here_is_told(run, tmp_path):
    message = user_error(held_out.measure, run, data='cifar10')
    assert 'is not prepared' in message


def test_a_wrong_split_is_told_before_the_work(run, monkeypatch):
    monkeypatch.setattr(held_out, 'make_split_loss', None)
    message = user_error(held_out.measure, run, splits=('train', 'validation'))
    assert "no split 'validation'" in message


def test_no_model(tmp_path):
    assert 'not a work directory' in user_error(held_out.measure, tmp_path)
