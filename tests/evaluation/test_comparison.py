"""Sets of images on disk against a reference on disk."""

import hashlib

import numpy as np
import pytest
from PIL import Image
from support import user_error

from cfg_jax import files
from cfg_jax.evaluation import (
    comparison,
    reference as reference_lib,
    scoring,
)
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
    lines = []
    results = comparison.compare(samples, reference, Means(), report=lines.append, **options)
    return results, lines


def test_rows_are_the_scores_of_the_features(sets):
    path, images = sets
    results, _ = compare([path / 'a.npz'], path / 'b.npz', batch_size=7, is_splits=4)
    reference = reference_lib.of_features(features_of(images['b']), {})
    expected = scoring.score(features_of(images['a']), reference, scoring.STANDARD, is_splits=4)
    (row,) = results['rows']
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
    expected = scoring.score(features_of(images['a']), reference, ('fid',))
    assert row['fid'] == pytest.approx(expected['fid'], rel=1e-5)
    of_images = reference_lib.of_features(features_of(images['b']), {})
    expected = scoring.score(features_of(images['a']), of_images, ('precision', 'recall'))
    assert row['precision'] == pytest.approx(expected['precision'])
    assert row['recall'] == pytest.approx(expected['recall'])
    assert 'sfid' not in row
    assert any('sfid is left out' in line for line in lines)


def test_statistics_alone(sets):
    """All that can be had without asking; what is asked for by name must be had."""
    path, images = sets
    reference = reference_lib.of_features(features_of(images['b']), {})
    files.write_npz(path / 'm.npz', {'mu': reference.pooled.mu, 'sigma': reference.pooled.sigma})
    results, lines = compare([path / 'a.npz'], path / 'm.npz')
    assert {'fid', 'is', 'is_std'} == results['summary'].keys()
    for metric in ('sfid', 'precision', 'recall', 'kid'):
        assert any(line.startswith(f'note: {metric} is left out') for line in lines)
    message = user_error(compare, [path / 'a.npz'], path / 'm.npz', metrics=('fid', 'kid'))
    assert message.startswith('kid: ')
    assert '--metrics' in message


def test_fewer_samples_than_features(sets, tmp_path):
    path, images = sets
    np.savez(tmp_path / 'three.npz', arr_0=images['a'][:3])
    message = user_error(compare, [tmp_path / 'three.npz'], path / 'b.npz', metrics=('fid',))
    assert '3 features need more than 3 images' in message
    results, _ = compare([tmp_path / 'three.npz'], path / 'b.npz', is_splits=1)
    assert 'fid' not in results['rows'][0]
    assert 'is' in results['rows'][0]


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
