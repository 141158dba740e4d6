"""Rows of metrics: what each is computed from, and what is said when it is not available."""

import subprocess
import sys

import numpy as np
import pytest
from support import ROOT, user_error

from cfg_jax.evaluation import reference as reference_lib, rows as rows_lib
from cfg_jax.metrics import METRICS, Inputs
from cfg_jax.metrics.features import EXTRACTORS, Features
from cfg_jax.metrics.frechet import frechet_distance
from cfg_jax.metrics.frechet_infinity import frechet_infinity
from cfg_jax.metrics.inception_score import bootstrap_error, mean_over_splits
from cfg_jax.metrics.influence import frechet_influence
from cfg_jax.metrics.kernel_distance import kernel_distance
from cfg_jax.metrics.precision_recall import share_in_manifold
from cfg_jax.metrics.statistics import Gaussian, Moments

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


STANDARD = tuple(name for name, metric in METRICS.items() if metric.default)


def row_of(samples, reference, metrics, distance='FID', not_finite=0, **more):
    """The row of `compute_metrics`, without notes."""
    inputs = Inputs(samples, reference, **more)
    row = rows_lib.compute_metrics(inputs, metrics, distance=distance, not_finite=not_finite).row
    return {key: value for key, value in row.items() if key != 'notes'}


def unavailable(samples, reference, splits=10, labels=()):
    """Reasons by metric; of class agreement only without labels, which nearly all tests give."""
    return rows_lib.unavailable_metrics(Inputs(samples, reference, labels=labels, splits=splits))


def singular(samples, reference):
    return rows_lib.notes_on_singular_covariances(Inputs(samples, reference))


def expected_values():
    """Each metric from its own features, computed directly."""
    samples, real = make_features(), make_features(50, seed=1)
    fid = frechet_distance(gaussian(samples.pooled), gaussian(real.pooled))
    sfid = frechet_distance(gaussian(samples.spatial), gaussian(real.spatial))
    inception = mean_over_splits(samples.logits, 3)
    precision = share_in_manifold(samples.pooled, real.pooled, 3)
    recall = share_in_manifold(real.pooled, samples.pooled, 3)
    kid = kernel_distance(samples.pooled, real.pooled)
    infinity = frechet_infinity(samples.pooled, gaussian(real.pooled))
    assert precision != recall
    return {
        'fid': fid,
        'sfid': sfid,
        'is': inception[0],
        'is_std': inception[1],
        'precision': precision,
        'recall': recall,
        'kid': kid[0],
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
        (('kid',), {'kid'}),  # of too few images for a deviation
        (('fid_infinity',), {'fid_infinity'}),
        (
            STANDARD,
            {'fid', 'sfid', 'is', 'is_std', 'precision', 'recall', 'kid'},
        ),
        ((), set()),
    ],
)
def test_rows_hold_what_was_asked_for(metrics, keys):
    row = row_of(make_features(), make_reference(), metrics, splits=3)
    expected = {key: value for key, value in expected_values().items() if key in keys}
    assert row == pytest.approx(expected, rel=1e-9)
    assert all(type(value) is float for value in row.values())


def every_metric(**more):
    labels = {'labels': np.zeros(60, int), 'num_classes': CLASSES}
    return row_of(make_features(), make_reference(), tuple(METRICS), **labels, **more)


def test_every_metric_has_a_key():
    assert set(METRICS) <= set(every_metric())
    assert set(STANDARD) < set(METRICS)
    higher = {name for name, metric in METRICS.items() if metric.higher_is_better}
    assert higher == {'is', 'precision', 'recall', 'class_agreement'}


def test_only_what_is_asked_for_is_needed():
    """Without logits and spatial features, and against statistics alone, FID is available."""
    samples = make_features(logits=False, spatial=False)
    row = row_of(samples, statistics_alone(), ('fid',))
    assert row == pytest.approx({'fid': expected_values()['fid']}, rel=1e-9)


def test_another_distance_has_another_key():
    """FD-768 must not be taken for FID; the other metrics keep their names."""
    plain, other = every_metric(), every_metric(distance='FD-768')
    names = {'fid': 'fd768', 'fid_infinity': 'fd768_infinity'}
    assert other == {names.get(key, key): value for key, value in plain.items()}
    assert METRICS.key('fid', 'FID') == 'fid'
    assert METRICS.key('fid', 'FD-768') == 'fd768'
    assert METRICS.key('sfid', 'FD-768') == 'sfid'


@pytest.mark.parametrize('strata', [None, np.arange(60) % 3])
def test_standard_errors(strata):
    """Expanded for the distances, bootstrapped for IS; the influences come with the row."""
    samples, reference = make_features(), make_reference()
    inputs = Inputs(samples, reference, splits=3, replicates=7, strata=strata)
    metrics = ('fid', 'sfid', 'is')
    row, influences = rows_lib.compute_metrics(inputs, metrics, distance='FD-768')
    errors = {key: value for key, value in row.items() if key.endswith('_se')}
    expected = {
        key: frechet_influence(rows, Moments.of(rows), gaussian, strata)
        for key, rows, gaussian in (
            ('fd768', samples.pooled, reference.pooled),
            ('sfid', samples.spatial, reference.spatial),
        )
    }
    assert errors == {
        'fd768_se': expected['fd768'].standard_error(),
        'sfid_se': expected['sfid'].standard_error(),
        'is_se': bootstrap_error(samples.logits, 3, 7, strata=strata),
    }
    assert influences.keys() == expected.keys()
    np.testing.assert_array_equal(influences['sfid'].first, expected['sfid'].first)


def test_without_replicates_there_are_no_standard_errors():
    row, influences = rows_lib.compute_metrics(Inputs(make_features(), make_reference()), STANDARD)
    assert not [key for key in row if key.endswith('_se')]
    assert influences == {}


@pytest.mark.parametrize('kind', ['images', 'pooled', 'logits', 'spatial', 'several'])
def test_samples_that_are_not_finite_have_no_metrics(kind):
    """NaN pixels are black after rounding, and their features finite: they are counted before."""
    samples, count = make_features(), {'images': 3, 'several': 4}.get(kind, 1)
    for name in {'several': ('pooled', 'logits')}.get(kind, (kind,)):
        if name != 'images':
            getattr(samples, name)[7, 1] = np.nan
            getattr(samples, name)[7, 2] = np.inf
    if kind == 'several':
        samples.logits[10:13, 0] = -np.inf
    inputs = Inputs(samples, make_reference(), splits=3, replicates=2)
    not_finite = count if kind == 'images' else 0
    row, influences = rows_lib.compute_metrics(inputs, STANDARD, not_finite=not_finite)
    assert all(np.isnan(row[key]) for key in STANDARD)
    assert row['images_not_finite'] == count
    (note,) = row['notes']
    assert f'{count} of 60 samples are not finite' in note
    assert influences == {}
    assert 'images_not_finite' not in row_of(make_features(), make_reference(), STANDARD, splits=3)


def test_notes_of_metrics_are_in_the_row():
    inputs = Inputs(make_features(), make_reference(), splits=3)
    row = rows_lib.compute_metrics(inputs, ('fid', 'kid')).row
    assert ['KID is given without' in note for note in row['notes']] == [True]
    assert 'notes' not in rows_lib.compute_metrics(inputs, ('fid',)).row


def test_metrics_of_a_set_with_itself():
    """All at their best: distances 0, precision and recall 1."""
    samples = make_features(seed=1)
    metrics = ('fid', 'sfid', 'precision', 'recall')
    row = row_of(samples, reference_lib.of_features(samples, {}), metrics)
    assert row == pytest.approx({'fid': 0, 'sfid': 0, 'precision': 1, 'recall': 1}, abs=1e-6)


def test_full_features_allow_everything():
    assert unavailable(make_features(), make_reference()) == {}
    assert singular(make_features(), make_reference()) == {}


@pytest.mark.parametrize(
    ('samples', 'reference', 'words'),
    [
        (
            make_features(logits=False),
            make_reference(),
            {'is': 'no logits', 'class_agreement': 'no logits'},
        ),
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
def test_unavailable_metrics(samples, reference, words):
    reasons = unavailable(samples, reference, splits=1)
    reasons.pop('fid_infinity', None)  # of three images: see the next test
    assert reasons.keys() == words.keys()
    assert all(text in reasons[metric] for metric, text in words.items())


@pytest.mark.filterwarnings('ignore:invalid value:RuntimeWarning')  # a covariance of one image
@pytest.mark.parametrize('counts', [(4, 50), (60, 4), (4, 4), (1, 50), (2, 50), (3, 50), (60, 1)])
def test_what_is_available_can_be_computed(counts):
    samples, reference = make_features(counts[0]), make_reference(counts[1])
    labels = np.zeros(counts[0], int)
    missing = unavailable(samples, reference, splits=1, labels=labels)
    if min(counts) >= 4:
        assert not missing
    metrics = [metric for metric in METRICS if metric not in missing]
    row = row_of(samples, reference, metrics, splits=1, labels=labels, num_classes=CLASSES)
    assert np.isfinite(list(row.values())).all()
    assert set(row) >= set(metrics)


def test_fewer_images_than_splits():
    reasons = unavailable(make_features(5), make_reference(), splits=10)
    assert '10 splits' in reasons['is']
    assert 'there are 5' in reasons['is']
    assert 'is' not in unavailable(make_features(10), make_reference(), splits=10)


@pytest.mark.parametrize(
    ('samples', 'reference', 'words'),
    [
        (POOLED + 1, 50, {}),
        (POOLED, 50, {'fid': POOLED, 'fid_infinity': POOLED}),
        (60, POOLED, {'fid': POOLED, 'fid_infinity': POOLED}),
        (SPATIAL, 50, {'fid': SPATIAL, 'fid_infinity': SPATIAL, 'sfid': SPATIAL}),
    ],
)
def test_singular_covariances_are_told(samples, reference, words):
    """A covariance of D features needs D + 1 images: with n it has at most the rank n - 1."""
    reasons = singular(make_features(samples), make_reference(reference))
    assert reasons.keys() == words.keys()
    for metric, there in words.items():
        dim = SPATIAL if metric == 'sfid' else POOLED
        assert f'{dim} features need more than {dim} images' in reasons[metric]
        assert reasons[metric].endswith(f'there are {there}')


def test_statistics_of_unknown_size_are_trusted():
    assert singular(make_features(), statistics_alone()) == {}


def test_large_numbers_are_readable():
    features = Features(np.zeros((1200, 2048), np.float32))
    reason = singular(features, statistics_alone())['fid']
    assert '2,048' in reason
    assert '1,200' in reason


@pytest.mark.parametrize(('kind', 'numbers'), [('pooled', (6, 5)), ('spatial', (4, 3))])
def test_features_of_another_layer_are_refused(kind, numbers):
    samples = make_features()
    wide = np.concatenate([getattr(samples, kind)] * 2, axis=1)[:, : numbers[0]]
    message = user_error(unavailable, samples._replace(**{kind: wide}), make_reference())
    assert f'{numbers[0]} {kind} features' in message
    assert str(numbers[1]) in message


def test_classes_that_are_not_known_have_no_agreement():
    reasons = unavailable(make_features(), make_reference(), labels=None)
    assert reasons.keys() == {'class_agreement'}
    assert 'classes of the samples' in reasons['class_agreement']


def test_names_of_metrics():
    METRICS.check(tuple(METRICS))
    METRICS.check(())
    for wrong in ('FID', 'fd768', 'is_std', ''):
        message = user_error(METRICS.check, ('fid', wrong))
        assert repr(wrong) in message
        assert 'fid, sfid, is' in message


def test_names_are_known_without_numpy_and_jax():
    """`--help` and configs list them; see also the commands' own time."""
    code = (
        'import sys; from cfg_jax.metrics import METRICS; from cfg_jax.metrics.features import'
        ' EXTRACTORS; print(*METRICS, *EXTRACTORS, METRICS.help());'
        " sys.exit(bool({'numpy', 'jax', 'flax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in (*METRICS, *EXTRACTORS))


def test_several_seeds_are_summed_up():
    """1, 2, 6: mean 3, minimum 1, unbiased variance (4 + 1 + 9) / 2."""
    rows = [
        {'fid': 1.0, 'fid_se': 0.1, 'is': 10.0, 'is_std': 1.0},
        {'fid': 2.0, 'fid_se': 0.2, 'is': 10.0, 'is_std': 2.0},
        {'fid': 6.0, 'fid_se': 0.6, 'is': 10.0, 'is_std': 6.0},
    ]
    assert rows_lib.over_seeds(rows) == pytest.approx(
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


def test_seeds_of_which_one_is_invalid():
    """Its mean is invalid too, its count of images and its reason stay."""
    nan = float('nan')
    rows = [{'fid': nan, 'images_not_finite': 2, 'notes': ['why']}, {'fid': 1.0}, {'fid': 2.0}]
    summary = rows_lib.over_seeds(rows)
    assert all(np.isnan(summary[key]) for key in ('fid', 'fid_min', 'fid_seed_std'))
    assert summary['images_not_finite'] == 2
    assert summary['notes'] == ['why']
    both = [{'images_not_finite': 2, 'notes': ['a', 'b']}, {'images_not_finite': 3, 'notes': ['b']}]
    assert rows_lib.over_seeds(both) == {'images_not_finite': 5, 'notes': ['a', 'b']}


def test_one_seed_stays_as_it_is():
    row = {'fid': 1.0, 'is': 2.0, 'is_std': 0.1}
    summary = rows_lib.over_seeds([row])
    assert summary == row
    assert summary is not row


def test_few_samples_are_noted():
    known = make_reference()
    assert rows_lib.notes(10_000, 'FID', known) == []
    ours = known._replace(record={'file': 'a.npz', 'features': {}, 'image_size': 64})
    assert rows_lib.notes(10_000, 'FID', ours) == []
    foreign = known._replace(record={'file': 'a.npz', 'image_size': 64})
    (note,) = rows_lib.notes(10_000, 'FID', foreign)
    assert 'pytorch-fid' in note
    sizeless = known._replace(record={'file': 'a.npz', 'features': {}})
    (note,) = rows_lib.notes(10_000, 'FID', sizeless)
    assert 'does not say the size' in note
    (note,) = rows_lib.notes(9_999, 'FD-768', known)
    assert 'FD-768' in note
    assert '9,999' in note
    assert '50,000' in note
