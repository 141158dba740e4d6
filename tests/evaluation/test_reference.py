"""Reference statistics: computed, killed and continued."""

import json

import numpy as np
import pytest
from linear_features import COUNT, Linear, pixels
from support import user_error

from cfg_jax.evaluation import reference as library
from cfg_jax.metrics.features import Features

BATCH = 4


class Killed(Exception):
    pass


class Images:
    """`batches_from`, which notes what it is asked for, and fails before batch `kill_at`."""

    def __init__(self, kill_at=None):
        self.asked, self.given, self._kill_at = [], [], kill_at

    def __call__(self, start):
        self.asked.append(start)
        for number, first in enumerate(range(start, COUNT, BATCH)):
            if number == self._kill_at:
                raise Killed
            self.given.append(first)
            yield pixels()[first : first + BATCH]


def compute(path, images=None, extractor=None, record=None):
    library.compute(
        images or Images(),
        COUNT,
        extractor or Linear(),
        path,
        batch_size=BATCH,
        record={'dataset': 'noise'} if record is None else record,
    )
    return library.load(path)


def content(path):
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def assert_same_files(a, b):
    a, b = content(a), content(b)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def features_by_hand(name):
    flat = pixels().reshape(COUNT, -1).astype(np.float64) / 255.0
    return flat @ Linear().params[name].astype(np.float64)


def test_statistics_are_numpys(tmp_path):
    reference = compute(tmp_path / 'deep' / 'reference.npz')
    for gaussian, name in ((reference.pooled, 'pooled'), (reference.spatial, 'spatial')):
        rows = features_by_hand(name)
        np.testing.assert_allclose(gaussian.mu, rows.mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gaussian.sigma, np.cov(rows, rowvar=False), rtol=1e-4, atol=1e-6)
        assert gaussian.mu.dtype == gaussian.sigma.dtype == np.float64
    np.testing.assert_allclose(reference.features, features_by_hand('pooled'), rtol=1e-4, atol=1e-5)
    assert reference.features.dtype == np.float32
    assert reference.record['num_images'] == COUNT
    assert reference.record['dataset'] == 'noise'
    assert reference.record['features'] == Linear().provenance()


def test_files_are_as_published_ones(tmp_path):
    """`mu`, `sigma`, `mu_s`, `sigma_s` under their names; the record needs no pickle."""
    reference = compute(tmp_path / 'reference.npz')
    arrays = content(tmp_path / 'reference.npz')
    assert set(arrays) == {'mu', 'sigma', 'mu_s', 'sigma_s', 'features', 'record'}
    np.testing.assert_array_equal(arrays['mu'], reference.pooled.mu)
    np.testing.assert_array_equal(arrays['sigma_s'], reference.spatial.sigma)
    assert json.loads(str(arrays['record']))['dataset'] == 'noise'
    assert [file.name for file in tmp_path.iterdir()] == ['reference.npz']


def test_without_spatial_features(tmp_path):
    path = tmp_path / 'reference.npz'
    assert compute(path, extractor=Linear(spatial=0)).spatial is None
    assert set(content(path)) == {'mu', 'sigma', 'features', 'record'}


def test_features_in_memory_make_the_same_reference(tmp_path):
    computed = compute(tmp_path / 'reference.npz')
    made = library.of_features(
        Features(
            features_by_hand('pooled').astype(np.float32),
            None,
            features_by_hand('spatial').astype(np.float32),
        ),
        {},
    )
    for ours, theirs in ((made.pooled, computed.pooled), (made.spatial, computed.spatial)):
        np.testing.assert_allclose(ours.mu, theirs.mu, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(ours.sigma, theirs.sigma, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(made.features, computed.features, rtol=1e-4, atol=1e-5)
    assert made.record['num_images'] == COUNT
    without = library.of_features(Features(features_by_hand('pooled')), {})
    assert without.spatial is None


@pytest.fixture
def saves_always(monkeypatch):
    monkeypatch.setattr(library, '_SAVE_SECONDS', -1.0)


@pytest.mark.usefixtures('saves_always')
@pytest.mark.parametrize('spatial', [3, 0])
@pytest.mark.parametrize('kept', [7, 10_000])
@pytest.mark.parametrize('kill_at', [2, 3, 5])
def test_a_killed_run_continues_to_the_same_bits(tmp_path, monkeypatch, kill_at, kept, spatial):
    monkeypatch.setattr(library, 'KEPT_FEATURES', kept)
    extractor, whole, path = Linear(spatial), tmp_path / 'whole.npz', tmp_path / 'killed.npz'
    compute(whole, extractor=extractor)
    first = Images(kill_at)
    with pytest.raises(Killed):
        compute(path, first, extractor)
    assert not path.exists()
    # The last batch given out was still on the devices.
    done = (kill_at - 1) * BATCH
    second = Images()
    compute(path, second, extractor)
    assert second.asked == [done]
    assert second.given == list(range(done, COUNT, BATCH))
    assert_same_files(path, whole)
    assert {file.name for file in tmp_path.iterdir()} == {'whole.npz', 'killed.npz'}


@pytest.mark.usefixtures('saves_always')
def test_killed_many_times(tmp_path):
    compute(tmp_path / 'whole.npz')
    for _ in range(3):
        with pytest.raises(Killed):
            compute(tmp_path / 'killed.npz', Images(2))
    images = Images()
    compute(tmp_path / 'killed.npz', images)
    assert images.asked == [3 * BATCH]
    assert_same_files(tmp_path / 'killed.npz', tmp_path / 'whole.npz')


@pytest.mark.usefixtures('saves_always')
def test_killed_before_the_result_was_written(tmp_path, monkeypatch):
    compute(tmp_path / 'whole.npz')
    with monkeypatch.context() as patch:
        patch.setattr(library, 'save', lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            compute(tmp_path / 'killed.npz')
    images = Images()
    compute(tmp_path / 'killed.npz', images)
    assert images.given == []
    assert_same_files(tmp_path / 'killed.npz', tmp_path / 'whole.npz')


@pytest.mark.usefixtures('saves_always')
@pytest.mark.parametrize(
    'other', [{'record': {'dataset': 'other'}}, {'extractor': Linear(sha256='cd' * 32)}]
)
def test_what_another_run_left_is_not_used(tmp_path, other):
    with pytest.raises(Killed):
        compute(tmp_path / 'reference.npz', Images(3))
    images = Images()
    compute(tmp_path / 'reference.npz', images, **other)
    assert images.asked == [0]
    compute(tmp_path / 'whole.npz', **other)
    assert_same_files(tmp_path / 'reference.npz', tmp_path / 'whole.npz')


def test_it_saves_only_now_and_then(tmp_path):
    """Within the first minute there is nothing to continue from."""
    with pytest.raises(Killed):
        compute(tmp_path / 'reference.npz', Images(4))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('kept', [1, 7, 22, 23, 24])
def test_kept_features_are_evenly_spread(tmp_path, monkeypatch, kept):
    everything = compute(tmp_path / 'all.npz').features
    assert len(everything) == COUNT
    monkeypatch.setattr(library, 'KEPT_FEATURES', kept)
    some = compute(tmp_path / 'some.npz').features
    assert len(some) == min(kept, COUNT)
    numbers = [int(np.flatnonzero((everything == row).all(axis=1))[0]) for row in some]
    # Number i of `kept` stands for the images from i / kept to (i + 1) / kept of the set.
    stretches = np.arange(len(some) + 1) * COUNT // len(some)
    assert (stretches[:-1] <= numbers).all() and (numbers < stretches[1:]).all()
    in_memory = library.of_features(Features(everything), {}).features
    np.testing.assert_array_equal(in_memory, some)


@pytest.mark.parametrize('in_turn', [True, False])
def test_kept_features_are_of_all_classes(monkeypatch, in_turn):
    """Also where the classes come in turn, as in balanced samples: every fifth would be of two."""
    monkeypatch.setattr(library, 'KEPT_FEATURES', 1000)
    classes = np.arange(5000) % 10 if in_turn else np.arange(5000) // 500
    kept = library.of_features(Features(classes[:, None].astype(np.float32)), {}).features
    counts = np.bincount(kept[:, 0].astype(int), minlength=10)
    assert counts.sum() == 1000
    assert abs(counts - 100).max() < 40  # four deviations of a draw


def test_saved_references_are_loaded(tmp_path):
    reference = compute(tmp_path / 'reference.npz')
    library.save(tmp_path / 'new' / 'copy.npz', reference)
    copy = library.load(tmp_path / 'new' / 'copy.npz')
    for a, b in ((reference.pooled, copy.pooled), (reference.spatial, copy.spatial)):
        np.testing.assert_array_equal(a.mu, b.mu)
        np.testing.assert_array_equal(a.sigma, b.sigma)
    np.testing.assert_array_equal(reference.features, copy.features)
    assert copy.record == reference.record


def test_hash_is_of_the_statistics(tmp_path):
    """The same in memory, in a file and in a copy with another record; not with other numbers."""
    reference = compute(tmp_path / 'reference.npz')
    digest = reference.record['sha256']
    assert len(digest) == 64
    library.save(tmp_path / 'renamed.npz', reference._replace(record={'dataset': 'renamed'}))
    assert library.load(tmp_path / 'renamed.npz').record['sha256'] == digest
    moved = reference.pooled._replace(mu=reference.pooled.mu + 1e-12)
    library.save(tmp_path / 'moved.npz', reference._replace(pooled=moved))
    assert library.load(tmp_path / 'moved.npz').record['sha256'] != digest


def test_other_weights_are_refused(tmp_path):
    path = tmp_path / 'reference.npz'
    compute(path)
    library.load(path, Linear())
    for other, word in (
        (Linear(sha256='cd' * 32), 'cdcdcdcdcdcd'),
        (Linear(name='other'), 'other'),
    ):
        message = user_error(library.load, path, other)
        assert str(path) in message
        assert 'reference_stats.py' in message
        assert f'than the samples ({word})' in message


def broken(kind):
    """Weights that make features that are not finite, of one image or of all."""
    extractor = Linear()
    extractor.params = {name: weights.copy() for name, weights in extractor.params.items()}
    extractor.params[kind][3, 1] = np.nan
    return extractor


@pytest.mark.parametrize('kind', ['pooled', 'spatial'])
def test_features_that_are_not_finite_make_no_reference(tmp_path, kind):
    message = user_error(compute, tmp_path / 'reference.npz', extractor=broken(kind))
    assert 'not finite numbers' in message
    assert 'number 0 on' in message
    assert not list(tmp_path.iterdir())
    features = Features(features_by_hand('pooled'), None, features_by_hand('spatial'))
    getattr(features, kind)[11, 2] = np.inf
    assert '1 real images from number 11' in user_error(library.of_features, features, {})


@pytest.mark.parametrize(
    ('shape', 'size', 'words'), [((64, 64), 64, '64x64'), ((48, 64), [48, 64], '64x48')]
)
def test_sizes_of_images(shape, size, words):
    """Square ones by their side, as data sets have it; (H, W) is said as width x height."""
    assert library.size_of(shape) == size
    library.check_size({'image_size': size}, size, 'a.npz')
    library.check_size({}, size, 'a.npz')  # published statistics do not know
    message = user_error(library.check_size, {'image_size': 32}, size, 'a.npz')
    assert 'a.npz is of images of 32x32 pixels' in message
    assert f'the samples have {words}' in message
