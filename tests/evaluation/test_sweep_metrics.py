"""What a sweep makes of metrics: errors by strata, invalid rows, the best w; samples as rounded."""

import json
import math

import numpy as np
import pytest
from PIL import Image
from support import logged, make_tiny_config, user_error
from sweeps_on_disk import results_of, shards_of

from cfg_jax import files
from cfg_jax.evaluation import sweep
from cfg_jax.inference import Model
from cfg_jax.metrics.features import Features
from cfg_jax.metrics.influence import frechet_influence
from cfg_jax.metrics.statistics import Gaussian, Moments

# Tracing the U-Net anew, and pictures, would be most of every sweep; other files have both.
pytestmark = pytest.mark.usefixtures('toy_networks', 'undrawn')


def config_of(*weights, **changes):
    return make_tiny_config(sweep__w=weights, **changes)


def test_the_best_w_is_said_with_paired_errors(swept_toy_workdir):
    results = results_of(swept_toy_workdir)
    rows = {row['w']: row for row in results['rows']}
    best = results['best']['fid']
    assert rows[best['w']]['fid'] == min(row['fid'] for row in rows.values())
    (other,) = best['others']
    assert other['difference'] == rows[other['w']]['fid'] - rows[best['w']]['fid']
    assert 0 < other['se'] < np.hypot(*(row['fid_se'] for row in rows.values()))


def test_w_of_another_command_compare_with_earlier_ones(workdir):
    with logged() as lines:
        sweep.run(config_of(2.0), workdir, name='tiny')
    results = results_of(workdir)
    assert [row['w'] for row in results['rows']] == [0.0, 1.0, 2.0]
    assert len(results['best']['fid']['others']) == 2
    assert any(line.startswith('best FID: w = ') for line in lines)


def test_another_metric_joins_those_of_before(workdir):
    before = {row['w']: row for row in results_of(workdir)['rows']}
    sweep.run(config_of(*before, sweep__metrics=('precision',)), workdir, name='tiny')
    results = results_of(workdir)
    after = {row['w']: row for row in results['rows']}
    for w, row in before.items():
        assert 'precision' not in row
        assert 0 <= after[w]['precision'] <= 1
        assert {key: after[w][key] for key in row} == row
    assert results['best']['fid']['w'] == min(after, key=lambda w: after[w]['fid'])
    # A further w, with the metrics of the config alone, has all of them: the rows compare.
    sweep.run(config_of(2.0), workdir, name='tiny')
    rows = results_of(workdir)['rows']
    assert [row['w'] for row in rows] == [*before, 2.0]
    assert rows[-1].keys() == rows[0].keys()
    # A further w with a further metric: the others' samples are there to be measured again.
    with logged() as lines:
        sweep.run(config_of(3.0, sweep__metrics=('kid',)), workdir, name='tiny')
    rows = results_of(workdir)['rows']
    assert [row['w'] for row in rows] == [*before, 2.0, 3.0]
    assert all(rows[0].keys() == row.keys() >= {'fid', 'precision', 'kid'} for row in rows)
    assert {key: rows[0][key] for key in before[0.0]} == before[0.0]
    assert not [line for line in lines if 'in another way' in line]


def test_rows_whose_samples_are_gone_are_left_out_with_a_warning(workdir):
    for path in (workdir / 'sweep' / 'tiny' / 'shards').glob('w_0.0_*'):
        path.unlink()
    with logged() as lines:
        sweep.run(config_of(2.0, sweep__metrics=('precision',)), workdir, name='tiny')
    assert [row['w'] for row in results_of(workdir)['rows']] == [1.0, 2.0]
    assert any('the rows of w = 0 ' in line for line in lines)


def test_samples_that_are_not_finite_make_an_invalid_row(workdir, monkeypatch):
    """Weights that overflow: the pictures would be black, and FID a number."""
    generate = Model.generate

    def broken(self, seed, indices, condition, w):
        made = generate(self, seed, indices, condition, w)
        bad = (np.asarray(indices) % 7 == 3) & (w == 2.0)
        return made._replace(x=made.x + np.where(bad, np.nan, 0.0)[:, None, None, None])

    monkeypatch.setattr(Model, 'generate', broken)
    with logged() as lines:
        sweep.run(config_of(0.0, 2.0), workdir, name='tiny')
    results = results_of(workdir)
    good, bad = results['rows'][0], results['rows'][-1]
    assert np.isfinite(good['fid'])
    assert 'images_not_finite' not in good
    assert np.isnan([bad[key] for key in ('fid', 'is', 'class_agreement')]).all()
    assert bad['images_not_finite'] == 6  # of 40: numbers 3, 10, 17, 24, 31, 38
    assert any('w = 2: 6 of 40 samples are not finite' in line for line in lines)
    assert 2.0 not in [other['w'] for other in results['best']['fid']['others']]
    table = (workdir / 'sweep' / 'tiny' / 'table.md').read_text().splitlines()
    assert '| 2 | 3 | invalid | invalid | invalid |' in table


@pytest.mark.parametrize(('invalid', 'valid'), [(2.0, 3.0), (3.0, 2.0)])
def test_an_invalid_row_has_the_metrics_of_later_ones(workdir, monkeypatch, invalid, valid):
    """Its samples have none of them, so it is not measured again: a table wants equal rows."""
    generate = Model.generate

    def broken(self, seed, indices, condition, w):
        made = generate(self, seed, indices, condition, w)
        return made._replace(x=made.x * np.where(w == invalid, np.nan, 1.0))

    monkeypatch.setattr(Model, 'generate', broken)
    sweep.run(config_of(invalid), workdir, name='new')
    sweep.run(config_of(valid, sweep__metrics=('fid', 'is', 'precision')), workdir, name='new')
    directory = workdir / 'sweep' / 'new'
    rows = {row['w']: row for row in results_of(workdir, 'new')['rows']}
    assert np.isfinite(rows[valid]['precision'])
    assert np.isnan([rows[invalid][key] for key in ('fid', 'is', 'precision')]).all()
    heading, _, *lines = (directory / 'table.md').read_text().splitlines()
    assert 'precision' in heading
    [line] = [line for line in lines if line.startswith(f'| {invalid:g} ')]
    assert line.count('invalid') == 4


def test_samples_are_truncated_where_the_config_asks_for_it(workdir):
    """ADM's rule: half a grey level darker; stated in results, and another sweep."""
    config = config_of(0.0, sweep__save_samples=True)
    sweep.run(config, workdir, name='rounded')
    config.sweep.rounding = 'truncate'
    sweep.run(config, workdir, name='truncated')
    rounded, truncated = (
        files.read_npz(workdir / 'sweep' / name / 'batches' / 'w_0.0_seed_0.npz')['arr_0']
        for name in ('rounded', 'truncated')
    )
    darker = rounded.astype(int) - truncated
    assert {*np.unique(darker)} == {0, 1}
    inside = (rounded > 0) & (rounded < 255)
    assert darker[inside].mean() == pytest.approx(0.5, abs=0.1)
    assert results_of(workdir, 'rounded')['rounding'] == 'round'
    assert results_of(workdir, 'truncated')['rounding'] == 'truncate'
    message = user_error(sweep.run, config, workdir, name='rounded')
    assert "rounding: 'round' -> 'truncate'" in message


def test_sweeps_from_before_the_rounding_was_a_choice(workdir):
    path = workdir / 'sweep' / 'tiny' / 'settings.json'
    settings = files.read_json(path)
    assert settings.pop('rounding') == 'round'
    files.write_json(path, settings)
    sweep.run(config_of(0.0), workdir, name='tiny')
    message = user_error(sweep.run, config_of(0.0, sweep__rounding='truncate'), workdir, 'tiny')
    assert 'other settings' in message


def test_a_damaged_reference_is_computed_again(workdir):
    (path,) = (workdir / 'reference').glob('*.npz')
    before = files.read_npz(path)
    path.write_bytes(path.read_bytes()[:1000])
    with logged() as lines:
        sweep.run(config_of(0.0), workdir, name='tiny')
    assert any(str(path) in line and 'made again' in line for line in lines)
    np.testing.assert_array_equal(files.read_npz(path)['mu'], before['mu'])
    assert (path.parent / f'{path.name}.damaged').exists()


SPOILT = {
    'truncated': lambda content: content[: len(content) // 2],
    'empty': lambda content: b'',
    'another kind': lambda content: b'[1, 2]',
    'a bit flipped': lambda content: (
        content[: len(content) // 2]
        + bytes([content[len(content) // 2] ^ 64])
        + content[len(content) // 2 + 1 :]
    ),
}


@pytest.mark.parametrize('spoil', SPOILT)
def test_damaged_features_of_a_sweep_are_made_again(workdir, spoil):
    directory = workdir / 'sweep' / 'tiny'
    before = results_of(workdir)
    path = directory / 'shards' / 'w_1.0_seed_0_images_0000020.npz'
    kept = files.read_npz(path)
    path.write_bytes(SPOILT[spoil](path.read_bytes()))
    with logged() as lines:
        sweep.run(config_of(0.0, 1.0), workdir, name='tiny')
    assert f'warning: {path} is damaged; it is kept as {path.name}.damaged and made again' in lines
    for name, array in files.read_npz(path).items():
        np.testing.assert_array_equal(array, kept[name])
    assert results_of(workdir)['rows'] == before['rows']


@pytest.mark.parametrize('content', [b'', b'{"rows": [', b'[1]', b'{"rows": [3]}', b'{"rows": 1}'])
def test_damaged_results_are_written_again(workdir, content):
    path = workdir / 'sweep' / 'tiny' / 'results.json'
    before = results_of(workdir)
    path.write_bytes(content)
    with logged() as lines:
        sweep.run(config_of(0.0, 1.0), workdir, name='tiny')
    assert f'warning: {path} is damaged; it is kept as results.json.damaged and made again' in lines
    assert results_of(workdir)['rows'] == before['rows']


@pytest.mark.parametrize('content', [b'', b'{"sampler": 3', b'[]', b'{"features": 1}'])
def test_samples_of_unknown_settings_are_not_used(workdir, content):
    """Without settings.json nothing says how the samples beside it were made."""
    directory = workdir / 'sweep' / 'tiny'
    before = results_of(workdir)
    (directory / 'settings.json').write_bytes(content)
    with logged() as lines:
        sweep.run(config_of(0.0, 1.0), workdir, name='tiny')
    assert any('settings.json is damaged' in line and 'tiny.damaged' in line for line in lines)
    assert len(list((workdir / 'sweep' / 'tiny.damaged' / 'shards').iterdir())) == 4
    assert results_of(workdir)['rows'] == before['rows']


def test_a_reference_of_another_size_is_refused(workdir, tmp_path):
    path = tmp_path / 'large.npz'
    np.savez(path, mu=np.zeros(48), sigma=np.eye(48), record=json.dumps({'image_size': 64}))
    message = user_error(sweep.run, config_of(0.0, sweep__reference=path), workdir, 'other')
    assert 'is of images of 64x64 pixels, the samples have 8x8' in message


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
