import json
import math

import numpy as np
import pytest
from PIL import Image
from support import logged, make_tiny_config, user_error

from cfg_jax import config as config_lib, files, loading
from cfg_jax.data import images, pipeline
from cfg_jax.evaluation import sweep
from cfg_jax.inference import Model
from cfg_jax.metrics.features import Features
from cfg_jax.metrics.influence import frechet_influence
from cfg_jax.metrics.statistics import Gaussian, Moments
from cfg_jax.training import workdirs as workdir_lib

# Tracing the U-Net anew, and pictures, would be most of every sweep; other files have both.
pytestmark = pytest.mark.usefixtures('toy_networks', 'undrawn')


def results_of(workdir, name='tiny'):
    return json.loads((workdir / 'sweep' / name / 'results.json').read_text())


def shards_of(workdir, name, w):
    """The shards of one w, as dictionaries of arrays."""
    paths = sorted((workdir / 'sweep' / name / 'shards').glob(f'w_{w}_*.npz'))
    return [files.read_npz(path) for path in paths]


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


class Brightness:
    """An extractor of no library: mean colour, a logit per class, and the pixels as spatial map."""

    name, distance, params = 'brightness', 'FD-mean', ()
    logits_are_labels, chunk = False, 7

    def apply(self, params, images):
        x = images.astype(np.float32) / 255.0
        rows = x.mean(axis=(2, 3))  # [B, 8]
        return Features(rows, 10.0 * rows, x[:, ::4, ::4].reshape(len(x), -1))

    def provenance(self):
        return {'name': self.name, 'sha256': 64 * '0'}


def test_results_have_the_fields_of_the_design(swept_toy_workdir):
    results = results_of(swept_toy_workdir)
    assert results['dataset'] == 'digits'
    assert results['checkpoint_step'] == 6
    assert results['num_samples'] == 40
    assert results['seed'] == 0
    assert results['sampler'] == {
        'name': 'ancestral',
        'num_steps': 4,
        'v': 0.3,
        'clip': True,
        'grid': 'schedule',
        'options': '',
        'schedule': 'cosine',
        'scaling': 'variance_preserving',
        'shift': 0.0,
        'logsnr_min': -20.0,
        'logsnr_max': 20.0,
    }
    weights = files.read_npz(swept_toy_workdir / 'classifier' / 'weights.npz')
    assert results['features']['name'] == 'classifier'
    assert results['features']['sha256'] == files.sha256_of_arrays(weights)
    assert results['reference']['dataset'] == 'digits'
    assert results['reference']['num_images'] == 1797
    assert len(results['reference']['sha256']) == 64
    assert '(1 + w) eps_cond - w eps_uncond' in results['convention']
    assert (
        results['weights_sha256'] == loading.load(swept_toy_workdir).provenance()['weights_sha256']
    )
    assert [row['w'] for row in results['rows']] == [0.0, 1.0]
    for row in results['rows']:
        assert {'w', 'fid', 'is', 'is_std'} <= row.keys()
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))
        assert row['nfe'] == (4 if row['w'] == 0 else 8)
        assert row['fid'] > 0
        assert 1.0 <= row['is'] <= 10.0
        assert 0.0 <= row['class_agreement'] <= 1.0


def test_table_shows_the_rows(swept_toy_workdir):
    text = (swept_toy_workdir / 'sweep' / 'tiny' / 'table.md').read_text()
    lines = text.splitlines()
    rows = results_of(swept_toy_workdir)['rows']
    assert lines[0].startswith('| w | s = 1 + w | FID | IS |')
    assert len(lines) == 2 + len(rows)
    for line, row in zip(lines[2:], rows, strict=True):
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        assert cells[:2] == [f'{row["w"]:g}', f'{1 + row["w"]:g}']
        assert cells[2].replace('*', '') == f'{row["fid"]:.2f} ± {row["fid_se"]:.2f}'
        assert cells[3].replace('*', '') == f'{row["is"]:.3f} ± {row["is_se"]:.3f}'
    best = min(range(2), key=lambda i: rows[i]['fid'])
    assert [f'**{row["fid"]:.2f}**' in text for row in rows] == [i == best for i in range(2)]


def test_pictures(swept_toy_workdir):
    for name in ('tradeoff.png', 'samples.png'):
        picture = np.asarray(Image.open(swept_toy_workdir / 'sweep' / 'tiny' / name).convert('L'))
        assert min(picture.shape) > 100
        assert picture.std() > 5


def test_scores_are_of_the_promised_images(swept_toy_workdir):
    """Image i is balanced class i mod 10 under the sweep's seed, rounded to uint8."""
    config = make_tiny_config()
    model = loading.load(swept_toy_workdir, config=config)
    indices = np.arange(20, 40)
    labels = model.draw_conditions(0, indices, 'balanced')
    assert np.array_equal(labels, indices % 10)
    x = images.to_uint8(model.generate(0, indices, labels, 1.0).x)
    from cfg_jax.metrics.features import classifier

    extractor = classifier.load_or_train(config, swept_toy_workdir / 'classifier')
    features = extractor.apply(extractor.params, x)
    shard = swept_toy_workdir / 'sweep' / 'tiny' / 'shards' / 'w_1.0_seed_0_images_0000020.npz'
    arrays = files.read_npz(shard)
    np.testing.assert_array_equal(arrays['condition'], labels)
    np.testing.assert_allclose(arrays['logits'], features.logits, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(arrays['pooled'], features.pooled, rtol=1e-3, atol=1e-3)


def test_reference_is_all_real_images(swept_toy_workdir):
    (path,) = (swept_toy_workdir / 'reference').glob('*.npz')
    reference = files.read_npz(path)
    config = make_tiny_config()
    from cfg_jax.metrics.features import classifier

    extractor = classifier.load_or_train(config, swept_toy_workdir / 'classifier')
    pooled = [
        extractor.apply(extractor.params, images.to_uint8(batch['image'])).pooled
        for batch in pipeline.one_epoch(config.data, 'train', 600)
    ]
    pooled = np.concatenate(pooled).astype(np.float64)
    assert len(pooled) == len(reference['features']) == 1797
    np.testing.assert_allclose(reference['mu'], pooled.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        reference['sigma'], np.cov(pooled, rowvar=False), rtol=1e-3, atol=1e-4
    )


def test_standard_errors_are_of_balanced_classes(swept_toy_workdir):
    """Of strata, whose numbers are fixed; the images are not drawn alike."""
    (path,) = (swept_toy_workdir / 'reference').glob('*.npz')
    reference = files.read_npz(path)
    reference = Gaussian(reference['mu'], reference['sigma'])
    for row in results_of(swept_toy_workdir)['rows']:
        shards = shards_of(swept_toy_workdir, 'tiny', row['w'])
        pooled, condition = (
            np.concatenate([shard[name] for shard in shards]) for name in ('pooled', 'condition')
        )
        within, ignored = (
            frechet_influence(pooled, Moments.of(pooled), reference, strata).standard_error()
            for strata in (condition, None)
        )
        assert row['fid_se'] == pytest.approx(within, rel=1e-9)
        assert abs(ignored / within - 1) > 1e-5  # classes hardly differ after six steps


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


def test_features_do_not_depend_on_shards(workdir):
    config = make_tiny_config(sweep__w=(1.0,), sweep__shard_size=40)
    sweep.run(config, workdir, name='one_shard')
    (one,) = shards_of(workdir, 'one_shard', 1.0)
    two = shards_of(workdir, 'tiny', 1.0)
    assert len(two) == 2
    assert (
        one.keys()
        == two[0].keys()
        == {
            'pooled',
            'logits',
            'condition',
            'nfe',
            'finite',
        }
    )
    for key, values in one.items():
        np.testing.assert_array_equal(values, np.concatenate([shard[key] for shard in two]))


def test_sizes_that_do_not_divide(workdir):
    """17 samples in shards of 12 by batches of 5: nothing is lost, nothing counted twice."""
    config = make_tiny_config(
        sweep__w=(0.0,), sweep__shard_size=12, sweep__batch_size=5, sweep__num_samples=17
    )
    directory = sweep.run(config, workdir, name='odd')
    shards = [files.read_npz(path) for path in sorted((directory / 'shards').iterdir())]
    assert [len(shard['pooled']) for shard in shards] == [12, 5]
    labels = np.concatenate([shard['condition'] for shard in shards])
    assert np.array_equal(labels, np.arange(17) % 10)
    logits = np.concatenate([shard['logits'] for shard in shards])
    tiny = workdir / 'sweep' / 'tiny' / 'shards' / 'w_0.0_seed_0_images_0000000.npz'
    np.testing.assert_allclose(logits, files.read_npz(tiny)['logits'][:17], rtol=1e-2, atol=1e-2)


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


def test_an_extractor_from_outside_the_library(workdir, undrawn):
    """Its name for the distance is kept, and class agreement, which it cannot judge, left out."""
    undrawn.undo()
    metrics = ('fid', 'sfid', 'is')
    config = make_tiny_config(sweep__w=(1.0,), sweep__metrics=metrics)
    directory = sweep.run(config, workdir, name='outside', extractor=Brightness())
    results = results_of(workdir, 'outside')
    assert results['features'] == Brightness().provenance()
    (row,) = results['rows']
    assert {'fdmean', 'fdmean_se', 'sfid', 'is'} <= row.keys()
    assert 'fid' not in row
    assert 'class_agreement' not in row
    assert (directory / 'tradeoff.png').exists()
    assert any('biased upward' in note for note in results['notes'])
    assert '| fdmean |' in (directory / 'table.md').read_text()


@pytest.mark.parametrize('metrics', [('is',), ('precision', 'recall'), ('kid', 'fid_infinity')])
def test_any_choice_of_metrics_has_a_table_and_a_picture(workdir, metrics, undrawn):
    undrawn.undo()
    config = make_tiny_config(sweep__metrics=metrics)
    (workdir / 'sweep' / 'tiny' / 'results.json').unlink()  # whose metrics would stay
    directory = sweep.run(config, workdir, name='tiny')
    shown = (directory / 'table.md').read_text().splitlines()[0]
    assert len(shown.strip('|').split('|')) == 2 + len(metrics) + 1  # w, s, class agreement
    assert min(Image.open(directory / 'tradeoff.png').size) > 300


def test_what_changes_no_sample_needs_no_other_name(workdir, sampled):
    sweep.run(make_tiny_config(sweep__is_splits=4), workdir, name='tiny')
    assert sampled == []


def test_a_reference_of_another_size_or_precision_is_refused(workdir):
    (path,) = (workdir / 'reference').glob('*.npz')
    arrays = files.read_npz(path)
    record = json.loads(str(arrays['record']))
    for changes, words in (
        ({'image_size': 16}, '16 pixels'),
        ({'features': record['features'] | {'dtype': 'bfloat16'}}, 'dtype bfloat16'),
    ):
        files.write_npz(path, arrays | {'record': np.array(json.dumps(record | changes))})
        config = make_tiny_config(sweep__reference=str(path))
        assert words in user_error(sweep.run, config, workdir, name='tiny')


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


def test_what_is_not_available_is_reported_and_left_out(workdir):
    config = make_tiny_config(sweep__w=(1.0,), sweep__metrics=('fid', 'sfid'))
    told = 'sfid is left out: the extractor gives no spatial features'
    with logged() as lines:
        sweep.run(config, workdir, name='tiny')
    assert f'note: {told}' in lines
    results = results_of(workdir)
    assert told in results['notes']
    assert 'sfid' not in results['rows'][0]
    config.sweep.metrics = ('sfid',)
    assert told in user_error(sweep.run, config, workdir, name='tiny')


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


def test_saved_samples_are_the_promised_images(workdir):
    config = make_tiny_config(sweep__w=(1.0,), sweep__save_samples=True)
    sweep.run(config, workdir, name='tiny')
    with np.load(workdir / 'sweep' / 'tiny' / 'batches' / 'w_1.0_seed_0.npz') as batch:
        saved = batch['arr_0']
    assert saved.shape == (40, 8, 8, 1)
    assert saved.dtype == np.uint8
    model = loading.load(workdir, config=config)
    for first in (0, 20):
        indices = np.arange(first, first + 20)
        labels = (indices % 10).astype(np.int32)
        expected = images.to_uint8(model.generate(0, indices, labels, 1.0).x)
        np.testing.assert_array_equal(saved[first : first + 20], expected)


def test_no_checkpoint(tmp_path):
    config = make_tiny_config()
    assert 'not a work directory' in user_error(sweep.run, config, tmp_path)
    files.write_json(tmp_path / 'config.json', config_lib.to_json(config))
    assert 'no complete checkpoint' in user_error(sweep.run, config, tmp_path)
    assert not (tmp_path / 'sweep').exists()


def test_unknown_features(swept_toy_workdir):
    config = make_tiny_config()
    config.sweep.features = 'inceptoin'
    message = user_error(sweep.run, config, swept_toy_workdir, name='other')
    assert 'inceptoin' in message
    assert 'classifier' in message
    assert not (swept_toy_workdir / 'sweep' / 'other').exists()


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


def test_images_that_are_not_finite_make_their_row_invalid(workdir, monkeypatch):
    generate = Model.generate

    def broken(self, seed, indices, condition, w, params=None):
        generated = generate(self, seed, indices, condition, w, params)
        if np.ndim(w) == 0 and w == 2.0:
            return generated._replace(x=generated.x.at[0, 0, 0, 0].set(np.nan))
        return generated

    monkeypatch.setattr(Model, 'generate', broken)
    with logged() as lines:
        sweep.run(make_tiny_config(sweep__w=(1.0, 2.0)), workdir, name='tiny')
    rows = {row['w']: row for row in results_of(workdir)['rows']}
    assert math.isfinite(rows[1.0]['fid'])
    assert not any(math.isfinite(value) for key, value in rows[2.0].items() if key in ('fid', 'is'))
    assert any('not finite' in line for line in lines)


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
