"""Bootstrapped standard errors of scores (Efron 1979): images are drawn anew with replacement."""

from collections.abc import Callable

import numpy as np

from cfg_jax.metrics import scores
from cfg_jax.metrics.statistics import Gaussian


def standard_error(
    score: Callable[[np.ndarray], float],
    count: int,
    replicates: int,
    seed: int = 0,
    strata: np.ndarray | None = None,
) -> float:
    """Standard deviation of `score(weights)` over resampled sets.

    Args:
      score: of the set in which image i stands weights[i] times, int64 [count].
      count: images.
      replicates: resampled sets, at least 2; the error's own relative error is about
        1 / sqrt(2 * replicates).
      seed: of the drawing.
      strata: [count]; images are exchanged only for others of the same value. Give the labels of
        samples whose number per class was fixed; otherwise the error would be one of drawn labels.
    """
    rng = np.random.default_rng(seed)
    strata = np.zeros(count, np.int64) if strata is None else np.asarray(strata)
    groups = [np.flatnonzero(strata == value) for value in np.unique(strata)]

    def draw() -> np.ndarray:
        weights = np.zeros(count, np.int64)
        for group in groups:
            weights[group] = rng.multinomial(len(group), np.full(len(group), 1.0 / len(group)))
        return weights

    return float(np.std([score(draw()) for _ in range(replicates)], ddof=1))


def frechet_error(
    features: np.ndarray,
    reference: Gaussian,
    replicates: int,
    seed: int = 0,
    strata: np.ndarray | None = None,
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

    return standard_error(score, len(features), replicates, seed, strata)


def inception_score_error(
    logits: np.ndarray,
    splits: int,
    replicates: int,
    seed: int = 0,
    strata: np.ndarray | None = None,
) -> float:
    """Standard error of the Inception Score's mean over `splits` parts in file order."""
    parts = np.array_split(np.arange(len(logits)), splits)
    errors = []
    for number, rows in enumerate(parts):
        log_p = scores.log_softmax(logits[rows])
        errors.append(
            standard_error(
                lambda weights, log_p=log_p: scores.score_of(log_p, weights / len(log_p)),
                len(rows),
                replicates,
                seed + number,
                None if strata is None else strata[rows],
            )
        )
    return float(np.linalg.norm(errors) / splits)
