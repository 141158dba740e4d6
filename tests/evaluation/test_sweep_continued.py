"""A sweep goes on where an earlier one of its name has been, and nowhere else."""

import json

import numpy as np
import pytest
from PIL import Image
from support import make_tiny_config, user_error
from sweeps_on_disk import results_of

from cfg_jax import files
from cfg_jax.evaluation import sweep
from cfg_jax.inference import Model
from cfg_jax.training import workdirs as workdir_lib

# Tracing the U-Net anew, and pictures, would be most of every sweep; other files have both.
pytestmark = pytest.mark.usefixtures('toy_networks', 'undrawn')


@pytest.fixture
def sampled(monkeypatch):
    """(w, seed) of the batches that were generated, not counting pictures, which have a w each."""
    calls = []
    generate = Model.generate

    def spy(self, seed, indices, condition, w, params=None):
        if np.ndim(w) == 0:
            calls.append((w, seed))
        return generate(self, seed, indices, condition, w, params)

    monkeypatch.setattr(Model, 'generate', spy)
    return calls


def test_a_lost_shard_is_computed_again(workdir, sampled):
    directory = workdir / 'sweep' / 'tiny'
    before = {path.name: path.read_bytes() for path in directory.glob('*.*')}
    lost = directory / 'shards' / 'w_1.0_seed_0_images_0000020.npz'
    content = lost.read_bytes()
    kept = directory / 'shards' / 'w_1.0_seed_0_images_0000000.npz'
    kept_time = kept.stat().st_mtime_ns
    lost.unlink()
    (directory / 'results.json').unlink()
    (directory / 'table.md').unlink()
    sweep.run(make_tiny_config(), workdir, name='tiny')
    assert sampled == [(1.0, 0)]  # one shard of one batch
    assert lost.read_bytes() == content
    assert kept.stat().st_mtime_ns == kept_time
    assert (directory / 'table.md').read_bytes() == before['table.md']
    assert (directory / 'results.json').read_bytes() == before['results.json']


@pytest.mark.parametrize('given', [(0.0, 1.0, 2.0), (2.0,), (2.0, 2.0, -0.0)])
def test_more_w_join_the_same_sweep(workdir, sampled, given, undrawn):
    """Finished w are not computed again, and every file shows all of them, each once."""
    undrawn.undo()
    directory = workdir / 'sweep' / 'tiny'
    old_rows = results_of(workdir)['rows']
    old_picture = Image.open(directory / 'samples.png').size
    sweep.run(make_tiny_config(sweep__w=given), workdir, name='tiny')
    assert set(sampled) == {(2.0, 0)}
    rows = results_of(workdir)['rows']
    assert rows[:2] == old_rows
    assert len(rows) == 3
    assert rows[2]['w'] == 2.0
    assert Image.open(directory / 'samples.png').size[0] > old_picture[0]


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('sweep__num_samples', 20),
        ('sweep__seed', 1),
        ('sweep__labels', 'uniform'),
        ('sampler__v', 0.5),
        ('sampler__name', 'ddim'),
        ('sampler__num_steps', 5),
    ],
)
def test_other_settings_need_another_name(swept_toy_workdir, field, value):
    config = make_tiny_config(**{field: value})
    message = user_error(sweep.run, config, swept_toy_workdir, name='tiny')
    assert 'choose another --name' in message
    assert 'move it away' in message
    assert field.rpartition('__')[2] in message


@pytest.mark.parametrize(
    'changes',
    [{'sampler__name': 'heun'}, {'guidance__rule': 'threshold'}, {'guidance__rule': 'composition'}],
)
def test_a_sweep_from_before_its_sampler_or_rule_was_mended_is_not_continued(workdir, changes):
    config = make_tiny_config(**changes)
    directory = sweep.run(config, workdir, name='new')
    sweep.run(config, workdir, name='new')
    settings = json.loads((directory / 'settings.json').read_text())
    assert settings['sampler'].pop('revision', None) or settings.pop('guidance_revision', None)
    (directory / 'settings.json').write_text(json.dumps(settings))
    assert 'revision: None -> 1' in user_error(sweep.run, config, workdir, name='new')


def test_default_names_tell_settings_apart():
    names = {
        sweep.default_name(make_tiny_config(**change), 6)
        for change in (
            {},
            {'sampler__name': 'ddim'},
            {'sampler__num_steps': 5},
            {'sampler__v': 0.5},
            {'sampler__grid': 'edm'},
            {'sweep__num_samples': 50},
            {'sweep__seed': 1},
        )
    } | {sweep.default_name(make_tiny_config(), 7)}
    assert len(names) == 8


def test_other_metrics_cost_no_sampling(workdir, sampled):
    """Precision, recall and KID come from the features that the shards hold."""
    rows = results_of(workdir)['rows']
    metrics = ('fid', 'is', 'precision', 'recall', 'kid')
    config = make_tiny_config(sweep__metrics=metrics, sweep__bootstrap=0)
    sweep.run(config, workdir, name='tiny')
    assert sampled == []
    for row, before in zip(results_of(workdir)['rows'], rows, strict=True):
        assert {**before, **row} == {**row, 'fid_se': before['fid_se'], 'is_se': before['is_se']}
        # 40 images are one subset of KID's, which has no deviation: a note says so.
        assert row.keys() - before.keys() == {'precision', 'recall', 'kid', 'notes'}
        assert any('KID' in note or 'kid' in note for note in row['notes'])
        assert 0.0 <= row['precision'] <= 1.0
        assert 'fid_se' not in row
    assert '| KID |' in (workdir / 'sweep' / 'tiny' / 'table.md').read_text()


def test_what_changes_no_sample_needs_no_other_name(workdir, sampled):
    sweep.run(make_tiny_config(sweep__is_splits=4), workdir, name='tiny')
    assert sampled == []


def test_work_directories_of_older_versions(workdir):
    """Fields that have come since mean what was done then."""
    path = workdir / 'config.json'
    config = json.loads(path.read_text())
    for field in ('repeats', 'inception', 'dtype', 'reference', 'metrics', 'save_samples'):
        del config['sweep'][field]
    path.write_text(json.dumps(config))
    read = workdir_lib.read_config(workdir)
    assert read.sweep.repeats == 1
    assert read.sweep.metrics == ('fid', 'is')


def test_repeats_are_other_samples(workdir, sampled):
    """Mean, minimum and deviation over seeds; seed 0 is the sweep that was there before."""
    before = results_of(workdir)['rows'][1]
    config = make_tiny_config(sweep__w=(1.0,), sweep__repeats=2)
    directory = sweep.run(config, workdir, name='tiny')
    assert set(sampled) == {(1.0, 1)}
    results = results_of(workdir)
    assert results['seeds'] == [0, 1]
    (row,) = results['rows']
    other = 2 * row['fid'] - before['fid']
    assert row['fid_min'] == pytest.approx(min(other, before['fid']))
    assert row['fid_seed_std'] == pytest.approx(abs(other - before['fid']) / np.sqrt(2))
    assert row['fid_seed_std'] > 0
    assert '(min ' in (directory / 'table.md').read_text()


def test_a_directory_of_the_first_edition_is_continued(workdir, sampled):
    """settings.json and shards as they were written then: other names, and less in them."""
    directory = workdir / 'sweep' / 'tiny'
    settings = json.loads((directory / 'settings.json').read_text())
    now = settings['sampler']
    settings['sampler'] = {'sampler': now['name']} | {
        key: now[key] for key in ('num_steps', 'v', 'clip', 'logsnr_min', 'logsnr_max')
    }
    (directory / 'settings.json').write_text(json.dumps(settings))
    for path in (directory / 'shards').iterdir():
        arrays = files.read_npz(path)
        arrays['labels'] = arrays.pop('condition')
        del arrays['nfe'], arrays['finite']
        files.write_npz(path, arrays)
    before = results_of(workdir)['rows']
    (directory / 'results.json').unlink()
    sweep.run(make_tiny_config(), workdir, name='tiny')
    assert sampled == []
    for row, old in zip(results_of(workdir)['rows'], before, strict=True):
        assert row == {key: value for key, value in old.items() if key != 'nfe'}


def test_a_sweep_of_a_name_stays_at_its_checkpoint(workdir):
    """Training that goes on does not change what a half-finished sweep samples."""
    (workdir / 'sweep' / 'tiny' / 'results.json').unlink()
    assert (
        sweep.prepare(make_tiny_config(), workdir, 'tiny')[0].provenance()['checkpoint_step'] == 6
    )
    model, _, name = sweep.prepare(make_tiny_config(), workdir, step=3)
    assert model.provenance()['checkpoint_step'] == 3
    assert name.endswith('step3')
    settings = workdir / 'sweep' / 'early' / 'settings.json'
    settings.parent.mkdir()
    settings.write_text(json.dumps({'checkpoint_step': 3}))
    model, _, _ = sweep.prepare(make_tiny_config(), workdir, 'early')
    assert model.provenance()['checkpoint_step'] == 3
    message = user_error(sweep.prepare, make_tiny_config(), workdir, step=4)
    assert 'no checkpoint of step 4' in message
    assert '3, 6' in message


def test_two_sweeps_of_one_name_at_once_keep_all_rows(workdir):
    """Rows of both, whoever writes last."""
    model, directory, name = sweep.prepare(make_tiny_config(sweep__w=(2.0,)), workdir, 'tiny')
    other, _, _ = sweep.prepare(make_tiny_config(sweep__w=(3.0,)), workdir, 'tiny')
    from cfg_jax.metrics.features import EXTRACTORS

    extractor = EXTRACTORS.load('classifier')(make_tiny_config(), workdir)
    # Both have measured before either has written.
    first = sweep.measure(model, directory, name, extractor)
    second = sweep.measure(other, directory, name, extractor)
    sweep.write(first, model, directory / 'sweep' / name)
    sweep.write(second, other, directory / 'sweep' / name)
    assert [row['w'] for row in results_of(workdir)['rows']] == [0.0, 1.0, 2.0, 3.0]
