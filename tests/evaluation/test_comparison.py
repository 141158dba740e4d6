"""Sets of images on disk against a reference on disk."""

import hashlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from support import logged, user_error

from cfg_jax import files
from cfg_jax.evaluation import comparison, reference as reference_lib, rows as rows_lib
from cfg_jax.metrics import METRICS, Inputs
from cfg_jax.metrics.features import Features

COUNT = 40


class Means:
    """Mean colours as pooled features; a corner as spatial map; the first row as logits."""

    name, distance, params, logits_are_labels, chunk = 'means', 'FID', (), False, 16

    def apply(self, params, images):
        x = images.astype(np.float32) / 16.0
        return Features(x.mean(axis=(1, 2)), x[:, 0, :, 0], x[:, :1, :2].reshape(len(x), -1))

    def provenance(self):
        return {'name': self.name, 'sha256': 'abc'}


def features_of(images):
    return Features(*(np.asarray(f) for f in Means().apply((), images)))


@pytest.fixture
def sets(tmp_path):
    """Two batches, one of them as a folder too, and what they hold."""
    rng = np.random.default_rng(0)
    images = {
        'a': rng.integers(0, 200, (COUNT, 4, 4, 3), dtype=np.uint8),
        'b': rng.integers(30, 256, (COUNT + 5, 4, 4, 3), dtype=np.uint8),
    }
    for name, held in images.items():
        np.savez(tmp_path / f'{name}.npz', arr_0=held)
    (tmp_path / 'folder').mkdir()
    for number, image in enumerate(images['a']):
        Image.fromarray(image).save(tmp_path / 'folder' / f'{number:03d}.png')
    return tmp_path, images


def compare(samples, reference, **options):
    with logged() as lines:
        results = comparison.compare(samples, reference, Means(), **options)
    return results, lines


def row_of(samples, reference, metrics, **more):
    return rows_lib.compute_metrics(Inputs(samples, reference, **more), metrics).row


def test_rows_are_the_metrics_of_the_features(sets):
    path, images = sets
    results, _ = compare([path / 'a.npz'], path / 'b.npz', batch_size=7, is_splits=4)
    reference = reference_lib.of_features(features_of(images['b']), {})
    default = [name for name, metric in METRICS.items() if metric.default]
    expected = row_of(features_of(images['a']), reference, default, splits=4)
    (row,) = results['rows']
    assert row['notes'] == expected.pop('notes')
    assert row['image_size'] == 4
    for key, value in expected.items():
        assert row[key] == pytest.approx(value, rel=1e-5, abs=1e-9)
    assert row['num_images'] == COUNT
    assert row['pixels_sha256'] == hashlib.sha256(images['a'].tobytes()).hexdigest()
    assert results['features'] == Means().provenance()
    assert results['reference']['num_images'] == COUNT + 5


def test_a_folder_is_as_good_as_a_batch(sets):
    path, _ = sets
    results, _ = compare([path / 'a.npz', path / 'folder'], path / 'b.npz')
    batch, folder = results['rows']
    assert batch['pixels_sha256'] == folder['pixels_sha256']
    assert {**batch, 'images': ''} == {**folder, 'images': ''}
    assert results['summary']['fid_seed_std'] == 0.0


def test_identical_sets_are_at_distance_zero(sets):
    path, _ = sets
    results, _ = compare([path / 'a.npz'], path / 'folder', metrics=('fid', 'precision', 'recall'))
    (row,) = results['rows']
    assert row['fid'] < 1e-6
    assert (row['precision'], row['recall']) == (1.0, 1.0)


def test_adm_reference_gives_statistics_for_fid_and_images_for_recall(sets):
    """Its mu and sigma are of another, larger set than its images."""
    path, images = sets
    whole = np.concatenate([images['a'], images['b']])
    reference = reference_lib.of_features(features_of(whole), {})
    arrays = {'mu': reference.pooled.mu, 'sigma': reference.pooled.sigma}
    np.savez(path / 'virtual.npz', arr_0=images['b'], **arrays)
    results, lines = compare([path / 'a.npz'], path / 'virtual.npz', is_splits=2)
    (row,) = results['rows']
    expected = row_of(features_of(images['a']), reference, ('fid',))
    assert row['fid'] == pytest.approx(expected['fid'], rel=1e-5)
    of_images = reference_lib.of_features(features_of(images['b']), {})
    expected = row_of(features_of(images['a']), of_images, ('precision', 'recall'))
    assert row['precision'] == pytest.approx(expected['precision'])
    assert row['recall'] == pytest.approx(expected['recall'])
    assert 'sfid' not in row
    assert any('sfid is left out' in line for line in lines)


def test_statistics_alone(sets):
    """All that is available without asking; what is asked for by name must be available."""
    path, images = sets
    reference = reference_lib.of_features(features_of(images['b']), {})
    files.write_npz(path / 'm.npz', {'mu': reference.pooled.mu, 'sigma': reference.pooled.sigma})
    results, lines = compare([path / 'a.npz'], path / 'm.npz')
    assert {'fid', 'is', 'is_std'} == results['summary'].keys()
    for metric in ('sfid', 'precision', 'recall', 'kid'):
        assert any(line.startswith(f'note: {metric} is left out') for line in lines)


@pytest.mark.parametrize(
    ('reference', 'metrics', 'words'),
    [
        ('m.npz', ('fid', 'kid'), 'kid: the reference holds statistics alone'),
        ('b.npz', ('class_agreement',), 'class_agreement: the classes of the samples'),
        ('adm.npz', ('sfid',), 'sfid: the reference has no statistics of spatial'),
    ],
)
def test_what_is_not_available_is_told_before_the_work(
    sets, monkeypatch, reference, metrics, words
):
    path, images = sets
    found = reference_lib.of_features(features_of(images['b']), {})
    statistics = {'mu': found.pooled.mu, 'sigma': found.pooled.sigma}
    files.write_npz(path / 'm.npz', statistics)
    files.write_npz(path / 'adm.npz', statistics | {'arr_0': images['b']})

    def extract_all(*args):
        raise AssertionError('nothing is to be extracted')

    monkeypatch.setattr(comparison.extraction, 'extract_all', extract_all)
    message = user_error(compare, [path / 'a.npz'], path / reference, metrics=metrics)
    assert message.startswith(words)
    assert '--metrics' in message


@pytest.mark.parametrize('metrics', [('fid',), ()])
def test_fewer_samples_than_features(sets, metrics):
    """The value of a singular covariance is exact; a note says that its bias is large."""
    path, images = sets
    np.savez(path / 'three.npz', arr_0=images['a'][:3])
    results, lines = compare([path / 'three.npz'], path / 'b.npz', metrics=metrics, is_splits=1)
    reference = reference_lib.of_features(features_of(images['b']), {})
    expected = row_of(features_of(images['a'][:3]), reference, ('fid',))
    assert results['rows'][0]['fid'] == pytest.approx(expected['fid'], rel=1e-5)
    note = next(note for note in results['notes'] if note.startswith('fid: '))
    assert '3 features need more than 3 images' in note
    assert f'note: {note}' in lines


def test_one_image_has_no_fid(sets):
    path, images = sets
    np.savez(path / 'one.npz', arr_0=images['a'][:1])
    message = user_error(compare, [path / 'one.npz'], path / 'b.npz', metrics=('fid',))
    assert '2 images a side are needed' in message


def of_size(path, side, seed=3):
    images = np.random.default_rng(seed).integers(0, 256, (10, side, side, 3), dtype=np.uint8)
    np.savez(path, arr_0=images)
    return path


def test_images_of_different_sizes_are_refused(sets):
    """32 pixels against 64 would compare the resize; before any features are made."""
    path, _ = sets
    other = of_size(path / 'large.npz', 8)
    message = user_error(compare, [path / 'a.npz'], other)
    assert 'large.npz is of images of 8x8 pixels, the samples have 4x4' in message
    message = user_error(compare, [path / 'a.npz', other], path / 'b.npz')
    assert 'large.npz is of images of 8x8 pixels' in message


def test_statistics_that_know_their_size(sets):
    path, images = sets
    reference = reference_lib.of_features(features_of(images['b']), {'image_size': 8})
    reference_lib.save(path / 'ours.npz', reference)
    message = user_error(compare, [path / 'a.npz'], path / 'ours.npz')
    assert 'ours.npz is of images of 8x8 pixels, the samples have 4x4' in message
    files.write_npz(path / 'm.npz', {'mu': reference.pooled.mu, 'sigma': reference.pooled.sigma})
    results, _ = compare([path / 'a.npz'], path / 'm.npz')
    assert any('does not say the size' in note for note in results['notes'])


def test_samples_in_class_order_are_noted(sets):
    """`Means` takes the first row's first colour as logits: four classes, one after the other."""
    path, images = sets
    ordered = images['a'].copy()
    ordered[:, 0, :, 0] = 0
    ordered[np.arange(COUNT), 0, np.arange(COUNT) // 10, 0] = 255
    np.savez(path / 'ordered.npz', arr_0=ordered)
    np.savez(path / 'mixed.npz', arr_0=ordered[np.random.default_rng(0).permutation(COUNT)])
    options = {'metrics': ('is',), 'is_splits': 4}
    results, lines = compare([path / 'ordered.npz', path / 'mixed.npz'], path / 'b.npz', **options)
    in_order, mixed = results['rows']
    assert in_order['is'] == pytest.approx(mixed['is'], rel=0.3)
    assert in_order['is'] > 2.0
    notes = [note for note in results['notes'] if 'order' in note]
    assert len(notes) == 1
    assert notes[0].startswith(f'{path / "ordered.npz"}: IS: the order of the images depends')
    assert f'note: {notes[0]}' in lines


def test_features_that_are_not_finite(sets, monkeypatch):
    path, images = sets

    plain = Means.apply

    def apply(self, params, x):
        features = plain(self, params, x)
        broken = jnp.where(x[:, 0, 0, :1] == 7, jnp.nan, 0.0)
        return features._replace(pooled=features.pooled + broken)

    black = images['a'].copy()
    black[:, 0, 0, 0] = np.where(np.arange(COUNT) < 3, 7, 8)
    np.savez(path / 'black.npz', arr_0=black)
    safe = images['b'].copy()
    safe[:, 0, 0, 0] = 8
    np.savez(path / 'safe.npz', arr_0=safe)
    monkeypatch.setattr(Means, 'apply', apply)
    results, lines = compare([path / 'black.npz'], path / 'safe.npz')
    (row,) = results['rows']
    assert np.isnan(row['fid'])
    assert row['images_not_finite'] == 3
    assert any('3 of 40 samples are not finite' in line for line in lines)


def test_every_set_says_how_many_images_it_has(sets):
    path, _ = sets
    _, lines = compare([path / 'a.npz', path / 'folder'], path / 'b.npz')
    for name, count, rest in (
        ('a.npz', 40, '1 file'),
        ('folder', 40, '40 files'),
        ('b.npz', 45, '1 file'),
    ):
        assert f'{path / name}: {count} images of {rest}' in lines


def test_other_features_in_the_reference(sets):
    path, _ = sets
    np.savez(path / 'd.npz', mu=np.zeros(5), sigma=np.eye(5))
    assert '3 pooled features' in user_error(compare, [path / 'a.npz'], path / 'd.npz')


def test_small_sets_are_noted(sets):
    path, _ = sets
    results, lines = compare([path / 'a.npz'], path / 'b.npz')
    note = next(note for note in results['notes'] if 'biased' in note)
    assert '40 samples' in note
    assert f'note: {note}' in lines
