"""FID of infinitely many samples (Chong & Forsyth 2020), by extrapolation."""

import numpy as np
from jaxtyping import Float

from cfg_jax.metrics import Inputs, Value
from cfg_jax.metrics.frechet import distance_from
from cfg_jax.metrics.statistics import Gaussian, Moments

_SIZES = 15  # as Chong & Forsyth 2020
# Then the smallest size has two a feature. From 10 on the error is a third of the bias of 1 / N.
_IMAGES_PER_FEATURE = 20


def fid_infinity(inputs: Inputs) -> Value:
    """`frechet_infinity` of the pooled features."""
    features = np.asarray(inputs.samples.pooled)
    count, dim = features.shape
    enough = _IMAGES_PER_FEATURE * dim
    note = (
        f'the extrapolated distance is too low, even below 0: from {count:,} images of {dim:,}'
        f' features it is not linear in 1 / N; give {enough:,} images or more'
    )
    value = frechet_infinity(features, inputs.reference.pooled)
    return Value(value, note='' if count >= enough else note)


def frechet_infinity(
    features: Float[np.ndarray, 'n d'], reference: Gaussian, seed: int = 0
) -> float:
    """The constant a of the line FID(n) = a + b / n; FID is nearly linear in 1 / n.

    The line is fitted over random subsets of sizes from n / 10 (but above d, where the covariance
    has its full rank) to n. Needs 4 images.
    """
    count, dim = features.shape
    smallest = min(max(count // 10, dim + 1), count // 2)
    sizes = np.unique(np.linspace(smallest, count, _SIZES).astype(int))
    rng = np.random.default_rng(seed)
    distance = distance_from(reference)
    distances = [
        distance(Moments.of_many(features[rng.choice(count, n, replace=False)]).gaussian())
        for n in sizes
    ]
    return float(np.polyfit(1.0 / sizes, distances, 1)[1])
