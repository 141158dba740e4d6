"""Scores of a set of images from its features and logits."""

import numpy as np

from cfg_jax.metrics.statistics import Moments


def frechet_distance(a: Moments, b: Moments) -> float:
    """FID = |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Heusel et al. 2017).

    tr (S_a S_b)^(1/2) is the sum of the singular values of R_a^T R_b with S = R R^T: real, finite
    and free of square roots of rounding errors, for singular covariances too.
    """
    cov_a, cov_b = a.covariance(), b.covariance()
    trace_root = np.linalg.svd(_root(cov_a).T @ _root(cov_b), compute_uv=False).sum()
    delta = a.mean - b.mean
    return float(delta @ delta + np.trace(cov_a) + np.trace(cov_b) - 2.0 * trace_root)


def _root(covariance: np.ndarray) -> np.ndarray:
    """R [D, D] with R R^T = covariance; eigenvalues at the level of rounding count as 0."""
    values, vectors = np.linalg.eigh(covariance)
    noise = len(values) * np.finfo(np.float64).eps * max(values.max(), 0.0)
    return vectors * np.sqrt(np.where(values > noise, values, 0.0))


def inception_score(logits: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """Mean and standard deviation over splits of IS = exp(mean KL(p(y|x) || p(y))).

    Salimans et al. 2016. The splits are consecutive parts of `logits` [N, K], in file order, of
    equal size up to one.
    """
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    scores = [_score(part) for part in np.array_split(log_p, splits)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(log_p: np.ndarray) -> float:
    p = np.exp(log_p)
    marginal = p.mean(axis=0)
    log_marginal = np.log(np.clip(marginal, np.finfo(np.float64).tiny, None))
    return float(np.exp((p * (log_p - log_marginal)).sum(axis=1).mean()))


def class_agreement(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose largest logit is their label."""
    return float(np.mean(np.argmax(logits, axis=1) == labels))
