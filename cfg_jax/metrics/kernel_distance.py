"""Kernel Inception Distance (Binkowski et al. 2018): unbiased, so that small sets compare."""

import numpy as np
from jaxtyping import Float

from cfg_jax.metrics import Inputs, Value, given

SUBSETS = 100
SUBSET_SIZE = 1000


def kid(inputs: Inputs) -> Value:
    """The Kernel Inception Distance of the pooled features; its deviation is over subsets.

    Subsets of more than half of a set share most of their images, and their deviation says nothing
    about the distance: it is left out, with a note.
    """
    samples = np.asarray(inputs.samples.pooled)
    reference = given(inputs.reference.features, 'images')
    fewest = min(len(samples), len(reference))
    size = min(SUBSET_SIZE, fewest)
    mean, deviation = kernel_distance(samples, reference, subset_size=size)
    if 2 * size > fewest:
        note = (
            f'KID is given without deviation: its subsets hold {size:,} of {fewest:,} images, so'
            f' they are nearly the same; {2 * SUBSET_SIZE:,} images a side are needed'
        )
        return Value(mean, note=note)
    return Value(mean, deviation=deviation)


def kernel_distance(
    samples: Float[np.ndarray, 'n d'],
    reference: Float[np.ndarray, 'm d'],
    *,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
) -> tuple[float, float]:
    """Mean and standard deviation over random subsets of the unbiased MMD^2.

    The kernel is k(x, y) = (x . y / d + 1)^3. Subsets are drawn without replacement and are no
    larger than the smaller of both sets, of which they then are the whole.
    """
    size = min(subset_size, len(samples), len(reference))
    rng = np.random.default_rng(seed)
    estimates = [
        squared_mmd(
            samples[rng.choice(len(samples), size, replace=False)],
            reference[rng.choice(len(reference), size, replace=False)],
        )
        for _ in range(subsets)
    ]
    return float(np.mean(estimates)), float(np.std(estimates))


def squared_mmd(x: Float[np.ndarray, 'n d'], y: Float[np.ndarray, 'n d']) -> float:
    """Unbiased MMD^2 of two sets of one size (Gretton et al. 2012, Lemma 6); n >= 2."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    within = _mean_of_others(_kernel(x, x)) + _mean_of_others(_kernel(y, y))
    return float(within - 2.0 * _kernel(x, y).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _mean_of_others(gram: np.ndarray) -> float:
    n = len(gram)
    return (gram.sum() - np.trace(gram)) / (n * (n - 1))
