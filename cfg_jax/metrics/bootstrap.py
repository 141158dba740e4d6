"""Bootstrapped standard errors of scores (Efron 1979): images are drawn anew with replacement."""

from collections.abc import Callable

import numpy as np

from cfg_jax.metrics import scores
from cfg_jax.metrics.statistics import Gaussian


def standard_error(
    score: Callable[[np.ndarray], float], count: int, replicates: int, seed: int = 0
) -> float:
    """Standard deviation of `score(weights)` over resampled sets.

    Args:
      score: of the set in which image i stands weights[i] times, int64 [count].
      count: images.
      replicates: resampled sets, at least 2; the error's own relative error is about
        1 / sqrt(2 * replicates).
      seed: of the drawing.
    """
    rng = np.random.default_rng(seed)
    even = np.full(count, 1.0 / count)
    values = [score(rng.multinomial(count, even)) for _ in range(replicates)]
    return float(np.std(values, ddof=1))


def frechet_error(
    features: np.ndarray, reference: Gaussian, replicates: int, seed: int = 0
) -> float:
    """Standard error of the Frechet distance of `features` [N, D]; the reference is taken as exact.

    A resampled set has fewer distinct images and so a higher distance than the set itself: this is
    the spread, not an interval around the score.
    """
    features = np.asarray(features, np.float64)
    distance = scores.distance_from(reference)

    def score(weights: np.ndarray) -> float:
        mu = weights @ features / len(features)
        centred = (features - mu) * np.sqrt(weights)[:, None]
        return distance(Gaussian(mu, centred.T @ centred / (len(features) - 1)))

    return standard_error(score, len(features), replicates, seed)


def inception_score_error(logits: np.ndarray, splits: int, replicates: int, seed: int = 0) -> float:
    """Standard error of the Inception Score's mean over `splits` parts in file order."""
    parts = [scores.log_softmax(part) for part in np.array_split(logits, splits)]
    errors = [
        standard_error(
            lambda weights, log_p=log_p: scores.score_of(log_p, weights / len(log_p)),
            len(log_p),
            replicates,
            seed + number,
        )
        for number, log_p in enumerate(parts)
    ]
    return float(np.sqrt(np.sum(np.square(errors))) / splits)
