"""Kernel Inception Distance (Binkowski et al. 2018): unbiased, so that small sets compare."""

import numpy as np

SUBSETS = 100
SUBSET_SIZE = 1000


def kernel_distance(
    samples: np.ndarray,
    reference: np.ndarray,
    *,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
) -> tuple[float, float]:
    """Mean and standard deviation over random subsets of the unbiased MMD^2.

    The kernel is k(x, y) = (x . y / D + 1)^3. Subsets are drawn without replacement and are no
    larger than the smaller of `samples` [N, D] and `reference` [M, D].
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


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased MMD^2 of two sets of one size [n, D] (Gretton et al. 2012, Lemma 6)."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    within = _mean_of_others(_kernel(x, x)) + _mean_of_others(_kernel(y, y))
    return float(within - 2.0 * _kernel(x, y).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _mean_of_others(gram: np.ndarray) -> float:
    n = len(gram)
    return (gram.sum() - np.trace(gram)) / (n * (n - 1))
