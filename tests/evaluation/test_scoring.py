"""Rows of scores: what each metric is computed from, and what is said when it cannot be had."""

import numpy as np
import pytest
from support import user_error

from cfg_jax.evaluation import (
    reference as reference_lib,
    scoring,
)
from cfg_jax.metrics import (
    bootstrap,
    scores,
)
from cfg_jax.metrics.features import Features
from cfg_jax.metrics.kernel_distance import kernel_distance
from cfg_jax.metrics.precision_recall import precision_recall
from cfg_jax.metrics.statistics import Gaussian

POOLED, SPATIAL, CLASSES = 5, 3, 4


def make_features(count=60, seed=0, logits=True, spatial=True):
    rng = np.random.default_rng(seed)
    return Features(
        (rng.normal(size=(count, POOLED)) + 0.3 * seed).astype(np.float32),
        2 * rng.normal(size=(count, CLASSES)).astype(np.float32) if logits else None,
        rng.normal(size=(count, SPATIAL)).astype(np.float32) * (1 + seed) if spatial else None,
    )


def make_reference(count=50, spatial=True):
    return reference_lib.of_features(make_features(count, seed=1, spatial=spatial), {})


def statistics_alone(spatial=True):
    return make_reference(spatial=spatial)._replace(features=None, record={'sha256': 'ab'})


def gaussian(rows):
    rows = rows.astype(np.float64)
    return Gaussian(rows.mean(axis=0), np.cov(rows, rowvar=False))


def expected_values():
    """Each metric from its own features, computed directly."""
    samples, real = make_features(), make_features(50, seed=1)
    fid = scores.frechet_distance(gaussian(samples.pooled), gaussian(real.pooled))
    sfid = scores.frechet_distance(gaussian(samples.spatial), gaussian(real.spatial))
    inception = scores.inception_score(samples.logits, 3)
    precision, recall = precision_recall(samples.pooled, real.pooled, 3)
    kid = kernel_distance(samples.pooled, real.pooled)
    infinity = scores.frechet_infinity(samples.pooled, gaussian(real.pooled))
    assert precision != recall
    return {
        'fid': fid,
        'sfid': sfid,
        'is': inception[0],
        'is_std': inception[1],
        'precision': precision,
        'recall': recall,
        'kid': kid[0],
        'kid_std': kid[1],
        'fid_infinity': infinity,
    }


@pytest.mark.parametrize(
    ('metrics', 'keys'),
    [
        (('fid',), {'fid'}),
        (('sfid',), {'sfid'}),
        (('is',), {'is', 'is_std'}),
        (('precision',), {'precision'}),
        (('recall',), {'recall'}),
        (('recall', 'precision'), {'precision', 'recall'}),
        (('kid',), {'kid', 'kid_std'}),
        (('fid_infinity',), {'fid_infinity'}),
        (
            scoring.STANDARD,
            {'fid', 'sfid', 'is', 'is_std', 'precision', 'recall', 'kid', 'kid_std'},
        ),
        ((), set()),
    ],
)
def test_rows_hold_what_was_asked_for(metrics, keys):
    row = scoring.score(make_features(), make_reference(), metrics, is_splits=3)
    expected = {key: value for key, value in expected_values().items() if key in keys}
    assert row == pytest.approx(expected, rel=1e-9)
    assert all(type(value) is float for value in row.values())


def test_every_metric_has_a_key():
    row = scoring.score(make_features(), make_reference(), tuple(scoring.METRICS))
    assert set(scoring.METRICS) <= set(row)
    assert set(scoring.STANDARD) < set(scoring.METRICS)
    higher = {metric for metric, better in scoring.METRICS.items() if better}
    assert higher == {'is', 'precision', 'recall'}


def test_only_what_is_asked_for_is_needed():
    """Without logits and spatial features, and against statistics alone, FID can be had."""
    samples = make_features(logits=False, spatial=False)
    row = scoring.score(samples, statistics_alone(), ('fid',))
    assert row == pytest.approx({'fid': expected_values()['fid']}, rel=1e-9)


def test_another_distance_has_another_key():
    """FD-768 must not be taken for FID; the other metrics keep their names."""
    plain = scoring.score(make_features(), make_reference(), tuple(scoring.METRICS))
    other = scoring.score(
        make_features(), make_reference(), tuple(scoring.METRICS), distance='FD-768'
    )
    names = {'fid': 'fd768', 'fid_infinity': 'fd768_infinity'}
    assert other == {names.get(key, key): value for key, value in plain.items()}
    assert scoring.distance_key('FID') == 'fid'
    assert scoring.distance_key('FD-768') == 'fd768'


def test_standard_errors_are_bootstrapped():
    samples, reference = make_features(), make_reference()
    row = scoring.score(
        samples,
        reference,
        ('fid', 'sfid', 'is'),
        distance='FD-768',
        is_splits=3,
        replicates=7,
    )
    errors = {key: value for key, value in row.items() if key.endswith('_se')}
    assert errors == {
        'fd768_se': bootstrap.frechet_error(samples.pooled, reference.pooled, 7),
        'sfid_se': bootstrap.frechet_error(samples.spatial, reference.spatial, 7),
        'is_se': bootstrap.inception_score_error(samples.logits, 3, 7),
    }


def test_scores_of_a_set_with_itself():
    """All at their best: distances 0, precision and recall 1."""
    samples = make_features(seed=1)
    row = scoring.score(
        samples, reference_lib.of_features(samples, {}), ('fid', 'sfid', 'precision', 'recall')
    )
    assert row == pytest.approx({'fid': 0, 'sfid': 0, 'precision': 1, 'recall': 1}, abs=1e-6)


def test_nothing_is_in_the_way_of_full_features():
    assert scoring.obstacles(make_features(), make_reference()) == {}
    assert scoring.singular(make_features(), make_reference()) == {}


@pytest.mark.parametrize(
    ('samples', 'reference', 'told'),
    [
        (make_features(logits=False), make_reference(), {'is': 'no logits'}),
        (
            make_features(spatial=False),
            make_reference(),
            {'sfid': 'the extractor gives no spatial'},
        ),
        (make_features(), make_reference(spatial=False), {'sfid': 'mu_s, sigma_s'}),
        (
            make_features(),
            statistics_alone(),
            dict.fromkeys(('precision', 'recall', 'kid'), 'statistics alone'),
        ),
        (
            make_features(3),
            make_reference(),
            dict.fromkeys(('precision', 'recall', 'kid'), '4 images a side'),
        ),
        (
            make_features(),
            make_reference(3),
            dict.fromkeys(('precision', 'recall', 'kid'), '4 images a side'),
        ),
        (make_features(4), make_reference(4), {}),
    ],
)
def test_obstacles(samples, reference, told):
    reasons = scoring.obstacles(samples, reference, is_splits=1)
    reasons.pop('fid_infinity', None)  # of three images: see the next test
    assert reasons.keys() == told.keys()
    assert all(text in reasons[metric] for metric, text in told.items())


@pytest.mark.filterwarnings('ignore:invalid value:RuntimeWarning')  # a covariance of one image
@pytest.mark.parametrize('counts', [(4, 50), (60, 4), (4, 4), (1, 50), (2, 50), (3, 50), (60, 1)])
def test_what_has_no_obstacle_can_be_computed(counts):
    samples, reference = make_features(counts[0]), make_reference(counts[1])
    obstacles = scoring.obstacles(samples, reference, is_splits=1)
    if min(counts) >= 4:
        assert not obstacles
    metrics = [metric for metric in scoring.METRICS if metric not in obstacles]
    row = scoring.score(samples, reference, metrics, is_splits=1)
    assert np.isfinite(list(row.values())).all()
    assert set(row) >= set(metrics)


def test_fewer_images_than_splits():
    reasons = scoring.obstacles(make_features(5), make_reference(), is_splits=10)
    assert '10 splits' in reasons['is']
    assert 'there are 5' in reasons['is']
    assert 'is' not in scoring.obstacles(make_features(10), make_reference(), is_splits=10)


@pytest.mark.parametrize(
    ('samples', 'reference', 'told'),
    [
        (POOLED + 1, 50, {}),
        (POOLED, 50, {'fid': POOLED, 'fid_infinity': POOLED}),
        (60, POOLED, {'fid': POOLED, 'fid_infinity': POOLED}),
        (SPATIAL, 50, {'fid': SPATIAL, 'fid_infinity': SPATIAL, 'sfid': SPATIAL}),
    ],
)
def test_singular_covariances_are_told(samples, reference, told):
    """A covariance of D features needs D + 1 images: with n it has at most the rank n - 1."""
    reasons = scoring.singular(make_features(samples), make_reference(reference))
    assert reasons.keys() == told.keys()
    for metric, there in told.items():
        dim = SPATIAL if metric == 'sfid' else POOLED
        assert f'{dim} features need more than {dim} images' in reasons[metric]
        assert reasons[metric].endswith(f'there are {there}')


def test_statistics_of_unknown_size_are_trusted():
    assert scoring.singular(make_features(), statistics_alone()) == {}


def test_large_numbers_are_readable():
    features = Features(np.zeros((1200, 2048), np.float32))
    reason = scoring.singular(features, statistics_alone())['fid']
    assert '2,048' in reason
    assert '1,200' in reason


@pytest.mark.parametrize(('kind', 'numbers'), [('pooled', (6, 5)), ('spatial', (4, 3))])
def test_features_of_another_layer_are_refused(kind, numbers):
    samples = make_features()
    wide = np.concatenate([getattr(samples, kind)] * 2, axis=1)[:, : numbers[0]]
    message = user_error(scoring.obstacles, samples._replace(**{kind: wide}), make_reference())
    assert f'{numbers[0]} {kind} features' in message
    assert str(numbers[1]) in message


def test_names_of_metrics():
    scoring.check_names(tuple(scoring.METRICS))
    scoring.check_names(())
    for wrong in ('FID', 'fd768', 'is_std', ''):
        message = user_error(scoring.check_names, ('fid', wrong))
        assert repr(wrong) in message
        assert 'fid, sfid, is' in message


def test_several_seeds_are_summed_up():
    """1, 2, 6: mean 3, minimum 1, unbiased variance (4 + 1 + 9) / 2."""
    rows = [
        {'fid': 1.0, 'fid_se': 0.1, 'is': 10.0, 'is_std': 1.0},
        {'fid': 2.0, 'fid_se': 0.2, 'is': 10.0, 'is_std': 2.0},
        {'fid': 6.0, 'fid_se': 0.6, 'is': 10.0, 'is_std': 6.0},
    ]
    assert scoring.over_seeds(rows) == pytest.approx(
        {
            'fid': 3.0,
            'fid_min': 1.0,
            'fid_seed_std': np.sqrt(7.0),
            'fid_se': np.sqrt(0.1**2 + 0.2**2 + 0.6**2) / 3,  # of the mean of independent sets
            'is': 10.0,
            'is_min': 10.0,
            'is_seed_std': 0.0,
            'is_std': 3.0,
        }
    )


def test_one_seed_stays_as_it_is():
    row = {'fid': 1.0, 'is': 2.0, 'is_std': 0.1}
    summary = scoring.over_seeds([row])
    assert summary == row
    assert summary is not row


def test_few_samples_are_noted():
    known = make_reference()
    assert scoring.notes(10_000, 'FID', known) == []
    ours = known._replace(record={'file': 'a.npz', 'features': {}})
    assert scoring.notes(10_000, 'FID', ours) == []
    foreign = known._replace(record={'file': 'a.npz'})
    assert 'pytorch-fid' in scoring.notes(10_000, 'FID', foreign)[0]
    (note,) = scoring.notes(9_999, 'FD-768', known)
    assert 'FD-768' in note
    assert '9,999' in note
    assert '50,000' in note
