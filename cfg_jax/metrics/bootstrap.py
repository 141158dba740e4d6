"""Bootstrapped standard errors (Efron 1979): images are resampled with replacement.

Of m images in a stratum m - 1 are drawn, each counting m / (m - 1) times (Rao & Wu 1988): so the
variance of a stratum's mean is unbiased, where m draws make it too small by 1 / m, a half for two
images of a class.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Integer

from cfg_jax.metrics import strata as strata_lib


def standard_error(
    metric: Callable[[Float[np.ndarray, ' n']], float],
    count: int,
    replicates: int,
    seed: int = 0,
    strata: Integer[np.ndarray, ' n'] | None = None,
) -> float:
    """Standard deviation of `metric(weights)` over resampled sets.

    Args:
      metric: of the set in which image i stands weights[i] times, which sum to `count`.
      count: images.
      replicates: resampled sets, at least 2; the error's own relative error is about
        1 / sqrt(2 * replicates).
      seed: of the drawing.
      strata: images are exchanged only for others of the same value, see `strata.groups`. Give the
        labels of samples whose number per class was fixed; otherwise the error would be one of
        drawn labels.
    """
    rng = np.random.default_rng(seed)
    strata = np.zeros(count, np.int64) if strata is None else np.asarray(strata)
    rows = strata_lib.groups(strata)

    def draw() -> np.ndarray:
        weights = np.ones(count)
        for group in rows:
            if (m := len(group)) > 1:
                weights[group] = rng.multinomial(m - 1, np.full(m, 1.0 / m)) * (m / (m - 1))
        return weights

    return float(np.std([metric(draw()) for _ in range(replicates)], ddof=1))
