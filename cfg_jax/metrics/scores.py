"""Scores of a set of images from its features and logits."""

from collections.abc import Callable

import numpy as np

from cfg_jax.metrics.statistics import (
    Gaussian,
    Moments,
)

_INFINITY_SIZES = 15  # as Chong & Forsyth 2020


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """FID = |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Heusel et al. 2017), never < 0.

    tr (S_a S_b)^(1/2) is the sum of the singular values of R_a^T R_b with S = R R^T: real, finite
    and free of square roots of rounding errors, for singular covariances too.
    """
    return distance_from(b)(a)


def distance_from(reference: Gaussian) -> Callable[[Gaussian], float]:
    """`frechet_distance` from one reference, whose root is computed once."""
    root = _root(reference.sigma)

    def distance(other: Gaussian) -> float:
        trace_root = np.linalg.svd(_root(other.sigma).T @ root, compute_uv=False).sum()
        delta = other.mu - reference.mu
        traces = np.trace(other.sigma) + np.trace(reference.sigma)
        return float(max(delta @ delta + traces - 2.0 * trace_root, 0.0))

    return distance


def _root(covariance: np.ndarray) -> np.ndarray:
    """R [D, rank] with R R^T = covariance; eigenvalues at the level of rounding are left out."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > len(values) * np.finfo(np.float64).eps * max(values.max(), 0.0)
    return vectors[:, kept] * np.sqrt(values[kept])


def frechet_infinity(features: np.ndarray, reference: Gaussian, seed: int = 0) -> float:
    """FID of infinitely many samples (Chong & Forsyth 2020): FID(N) is nearly linear in 1 / N.

    Fits FID(n) = a + b / n over random subsets of `features` [N, D], of sizes from N / 10 (but
    above D, where the covariance has its full rank) to N, and returns a.
    """
    count, dim = features.shape
    smallest = min(max(count // 10, dim + 1), count // 2)
    sizes = np.unique(np.linspace(smallest, count, _INFINITY_SIZES).astype(int))
    rng = np.random.default_rng(seed)
    distance = distance_from(reference)
    distances = [
        distance(Moments.of_many(features[rng.choice(count, n, replace=False)]).gaussian())
        for n in sizes
    ]
    return float(np.polyfit(1.0 / sizes, distances, 1)[1])


def inception_score(logits: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """Mean and standard deviation over splits of IS = exp(mean KL(p(y|x) || p(y))).

    Salimans et al. 2016. The splits are consecutive parts of `logits` [N, K], in file order, of
    equal size up to one.
    """
    scores = [
        score_of(log_p := log_softmax(part), np.full(len(log_p), 1.0 / len(log_p)))
        for part in np.array_split(logits, splits)
    ]
    return float(np.mean(scores)), float(np.std(scores))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log p(y|x), float64 [N, K]."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def score_of(log_p: np.ndarray, share: np.ndarray) -> float:
    """exp(KL) of one split; `share` [N] is each image's part of it and sums to 1."""
    p = np.exp(log_p)
    marginal = share @ p
    log_marginal = np.log(np.clip(marginal, np.finfo(np.float64).tiny, None))
    return float(np.exp(share @ (p * (log_p - log_marginal)).sum(axis=1)))


def class_agreement(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose largest logit is their label."""
    return float(np.mean(np.argmax(logits, axis=1) == labels))
