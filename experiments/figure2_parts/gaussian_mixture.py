"""Mixtures of Gaussians in closed form: the exact eps, and the densities that guidance aims at.

Class c is N(m_c, s^2 I) and all K classes are equally likely. Densities are float64 NumPy, because
w multiplies their logarithms; the exact eps is JAX, because samplers call it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax import diffusion

# eps_theta(z [B, D], logsnr [B], label int32 [B]) -> eps [B, D]
EpsTheta = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class GaussianMixture(NamedTuple):
    """p(x) = 1/K sum_c N(x; m_c, s^2 I)."""

    means: np.ndarray  # m_c, [K, D]
    std: float  # s


def class_log_densities(mixture: GaussianMixture, x: np.ndarray) -> np.ndarray:
    """log p(x | c) of every class: x [..., D] -> [..., K]."""
    squared = np.sum((x[..., None, :] - mixture.means) ** 2, axis=-1)
    dimensions = mixture.means.shape[1]
    normaliser = 0.5 * dimensions * np.log(2 * np.pi * mixture.std**2)
    return -0.5 * squared / mixture.std**2 - normaliser


def log_tilted(mixture: GaussianMixture, x: np.ndarray, w: float) -> np.ndarray:
    """log p(x | c) p(c | x)^w of every class, not normalised: x [..., D] -> [..., K].

    The paper's sections 3.1 and 3.2: eps~ = (1 + w) eps(z, c) - w eps(z) belongs to
    p(z | c)^(1 + w) / p(z)^w, which is p(z | c) p(c | z)^w up to the constant p(c)^w.
    """
    log_given_class = class_log_densities(mixture, x)
    log_sum = np.logaddexp.reduce(log_given_class, axis=-1, keepdims=True)
    return log_given_class + w * (log_given_class - log_sum)


def grid(half_width: float, count: int, dimensions: int) -> np.ndarray:
    """Centres of count^D equal cells that fill [-half_width, half_width]^D: [count, ..., D]."""
    edges = np.linspace(-half_width, half_width, count + 1)
    centres = 0.5 * (edges[:-1] + edges[1:])
    return np.stack(np.meshgrid(*[centres] * dimensions, indexing='ij'), axis=-1)


def tilted_cells(mixture: GaussianMixture, points: np.ndarray, w: float) -> np.ndarray:
    """Probability of each cell of `grid` under p(x | c) p(c | x)^w, normalised for each class.

    points [count, ..., D] -> [K, count, ...]. The midpoint rule: an error of the cell's width
    squared in each cell, far less in the normalisation, if the grid holds all that matters.
    """
    logs = np.moveaxis(log_tilted(mixture, points, w), -1, 0)
    axes = tuple(range(1, logs.ndim))
    weights = np.exp(logs - logs.max(axis=axes, keepdims=True))
    return weights / weights.sum(axis=axes, keepdims=True)


def exact_eps(mixture: GaussianMixture) -> EpsTheta:
    """eps(z, c) = -sigma grad log q(z | c), and eps(z) = -sigma grad log q(z) for label K.

    q(z | c) = N(alpha m_c, (alpha^2 s^2 + sigma^2) I), hence
    eps(z, c) = sigma (z - alpha m_c) / (alpha^2 s^2 + sigma^2), and eps(z) = sum_c q(c | z)
    eps(z, c). This is a perfect network, K its null label.
    """
    means = jnp.asarray(mixture.means, jnp.float32)
    num_classes = len(means)

    def eps_theta(z: jax.Array, logsnr: jax.Array, label: jax.Array) -> jax.Array:
        alpha = diffusion.alpha(logsnr)[:, None]  # [B, 1]
        sigma = diffusion.sigma(logsnr)[:, None]
        variance = (alpha * mixture.std) ** 2 + sigma**2
        z_means = alpha[..., None] * means  # [B, K, D]
        log_q = -0.5 * jnp.sum((z[:, None] - z_means) ** 2, axis=-1) / variance
        weights = jnp.where(
            (label == num_classes)[:, None],
            jax.nn.softmax(log_q),
            jax.nn.one_hot(label, num_classes),
        )  # [B, K]
        return sigma * (z - jnp.sum(weights[..., None] * z_means, axis=1)) / variance

    return eps_theta
