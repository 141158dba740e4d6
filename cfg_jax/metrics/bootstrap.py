"""Bootstrapped standard errors (Efron 1979): images are resampled with replacement."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Integer


def standard_error(
    metric: Callable[[Integer[np.ndarray, ' n']], float],
    count: int,
    replicates: int,
    seed: int = 0,
    strata: Integer[np.ndarray, ' n'] | None = None,
) -> float:
    """Standard deviation of `metric(weights)` over resampled sets.

    Args:
      metric: of the set in which image i stands weights[i] times.
      count: images.
      replicates: resampled sets, at least 2; the error's own relative error is about
        1 / sqrt(2 * replicates).
      seed: of the drawing.
      strata: images are exchanged only for others of the same value. Give the labels of samples
        whose number per class was fixed; otherwise the error would be one of drawn labels.
    """
    rng = np.random.default_rng(seed)
    strata = np.zeros(count, np.int64) if strata is None else np.asarray(strata)
    groups = [np.flatnonzero(strata == value) for value in np.unique(strata)]

    def draw() -> np.ndarray:
        weights = np.zeros(count, np.int64)
        for group in groups:
            weights[group] = rng.multinomial(len(group), np.full(len(group), 1.0 / len(group)))
        return weights

    return float(np.std([metric(draw()) for _ in range(replicates)], ddof=1))
