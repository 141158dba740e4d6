"""Scores of a set of images from its features and logits."""

import numpy as np

from cfg_jax.metrics.statistics import Moments


def frechet_distance(a: Moments, b: Moments) -> float:
    """FID = |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Heusel et al. 2017).

    tr (S_a S_b)^(1/2) is the sum of the square roots of the eigenvalues of the symmetric
    S_a^(1/2) S_b S_a^(1/2), which stays real and finite for singular covariances.
    """
    cov_a, cov_b = a.covariance(), b.covariance()
    values, vectors = np.linalg.eigh(cov_a)
    root_a = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root_a @ cov_b @ root_a)
    trace_root = np.sqrt(np.clip(eigenvalues, 0.0, None)).sum()
    delta = a.mean - b.mean
    return float(delta @ delta + np.trace(cov_a) + np.trace(cov_b) - 2.0 * trace_root)


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
