"""FID of infinitely many samples: free of the bias of finite ones."""

import numpy as np
import pytest
from test_frechet import normal_sets, of, random_features

from cfg_jax.metrics import Inputs, frechet_infinity as library
from cfg_jax.metrics.features import Features
from cfg_jax.metrics.frechet import frechet_distance
from cfg_jax.metrics.frechet_infinity import fid_infinity, frechet_infinity
from cfg_jax.metrics.statistics import Gaussian, Reference


def test_fid_at_infinity_is_free_of_this_bias():
    dim, count = 8, 1000
    reference = Gaussian(np.zeros(dim), np.eye(dim))
    sets = normal_sets(30, count, dim)
    infinity = np.array([frechet_infinity(rows, reference) for rows in sets])
    finite = np.array([frechet_distance(of(rows), reference) for rows in sets])
    assert abs(infinity.mean()) < 0.2 * finite.mean()
    assert np.mean(np.abs(infinity) < finite) > 0.8


def test_fid_at_infinity_of_a_shifted_mean_is_the_squared_shift():
    dim, shift = 6, 0.2
    reference = Gaussian(np.zeros(dim), np.eye(dim))
    sets = normal_sets(100, 300, dim, shift)
    infinity = np.array([frechet_infinity(rows, reference) for rows in sets])
    finite = np.array([frechet_distance(of(rows), reference) for rows in sets])
    truth = dim * shift**2
    error = np.std(infinity, ddof=1) / np.sqrt(len(sets))
    assert infinity.mean() == pytest.approx(truth, abs=3 * error)
    assert finite.mean() > truth + 3 * error  # which the finite one is not


@pytest.mark.parametrize(('count', 'dim'), [(60, 20), (600, 20), (10, 20)])
def test_fid_at_infinity_extends_a_straight_line(monkeypatch, count, dim):
    """Were FID(n) = 3 + 500 / n, it would be 3; the subsets hold n different rows each."""
    subsets = []

    class Counted:
        """Stands for `Moments`; its Gaussian is only the number of rows."""

        @classmethod
        def of_many(cls, rows):
            subsets.append(rows)
            return cls()

        def gaussian(self):
            return len(subsets[-1])

    monkeypatch.setattr(library, 'Moments', Counted)
    monkeypatch.setattr(library, 'distance_from', lambda reference: lambda n: 3.0 + 500.0 / n)
    rows = random_features(count, dim, 0)
    assert frechet_infinity(rows, None) == pytest.approx(3.0, rel=1e-9)
    assert all(len(np.unique(subset, axis=0)) == len(subset) for subset in subsets)
    sizes = [len(subset) for subset in subsets]
    # From N / 10, but above D for the rank, but at most N / 2, to N.
    assert (min(sizes), max(sizes)) == ({60: 21, 600: 60, 10: 5}[count], count)
    if count == 600:  # more than there are sizes to try
        assert len(sizes) == 15


def test_fid_at_infinity_repeats_with_its_seed():
    rows, reference = random_features(200, 4, 0), of(random_features(200, 4, 1))
    first, again, other = (frechet_infinity(rows, reference, seed) for seed in (5, 5, 6))
    assert first == again != other


@pytest.mark.parametrize(('count', 'noted'), [(79, True), (80, False)])
def test_few_images_a_feature_are_noted(count, noted):
    """Below 20: of 10, the extrapolated distance of two equal Gaussians is -0.4, not 0."""
    samples = Features(random_features(count, 4, 0))
    inputs = Inputs(samples, Reference(of(random_features(50, 4, 1)), None, None, {}))
    assert ('too low' in fid_infinity(inputs).note) == noted
