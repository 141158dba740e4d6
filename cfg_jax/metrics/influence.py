"""Standard errors of the Frechet distance, and of differences of two, without resampling.

A bootstrap is wrong near distance 0: it takes the sample's own distance from the reference, which
is mostly noise there, for a fact. Here the distance T of a sample is expanded around the truth,

    T = T0 + 1/n sum_i f(x_i) + 1/(2 n^2) sum_ij g(x_i, x_j),

so Var T = E f^2 / n + E g^2 / (2 n^2). The first-order term is known only at the sample, where its
mean square is E f^2 + E g^2 / n: too much, by twice the second-order variance. Both derivatives of
the Frechet distance have a closed form, so E g^2 is estimated and the excess taken off.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from cfg_jax.metrics.statistics import Gaussian, Moments, root
from cfg_jax.metrics.strata import groups

_BLOCK = 2048  # rows at once, which bounds the memory
_MOST_PAIRS = 10_000
_SEED = 0


@dataclass(frozen=True)
class Influence:
    """How a metric depends on each image of its set.

    The influences of two sets whose images go together (image i from the same noise and label, at
    two guidance weights) can be subtracted; the result is the influence on the difference.

    Attributes:
      first: first-order influence of each image, float64 [n]; a constant does not matter.
      second: second-order influence of random pairs of images, each less what its strata explain,
        float64 [pairs].
      strata: int [n]; the number of images of each value is fixed.
    """

    first: np.ndarray
    second: np.ndarray
    strata: np.ndarray

    def standard_error(self) -> float:
        """Standard deviation of the metric over sets drawn like this one."""
        count = len(self.first)
        variance = 0.0
        for group in groups(self.strata):
            variance += len(group) * self.first[group].var(ddof=1) / count**2
        second = np.square(self.second).mean() / (8.0 * count**2) if len(self.second) else 0.0
        return float(np.sqrt(max(variance - 2.0 * second, 0.0) + second))

    def __sub__(self, other: 'Influence') -> 'Influence':
        if not np.array_equal(self.strata, other.strata):
            raise ValueError('differences need sets of the same number of images and strata')
        return Influence(self.first - other.first, self.second - other.second, self.strata)


def frechet_influence(
    features: Float[np.ndarray, 'n d'],
    moments: Moments,
    reference: Gaussian,
    strata: Integer[np.ndarray, ' n'] | None = None,
) -> Influence:
    """The influence of each image on the Frechet distance from an exact reference; n >= 2.

    Args:
      features: of the images.
      moments: of `features`.
      reference: what they are compared with.
      strata: see `Influence`; None where all images are drawn alike.
    """
    count = len(features)
    strata = np.zeros(count, np.int64) if strata is None else np.asarray(strata)
    expansion = _Expansion(moments, reference)
    first = np.concatenate([expansion.first(rows) for rows in _blocks(features)])
    x, x_like, y, y_like = _pairs(strata)
    parts = [
        expansion.second(*(features[index[block]] for index in (x, x_like, y, y_like)))
        for block in _blocks(np.arange(len(x)))
    ]
    return Influence(first, np.concatenate([np.zeros(0), *parts]), strata)


class _Expansion:
    """Derivatives of the Frechet distance in the sample's distribution, at the sample.

    With c = x - mean, u = c W the coordinates in which the sample's covariance S is the identity
    and the optimal transport to the reference is diagonal, s the eigenvalues of (R^T S R)^(1/2):

        f(x) = 2 c . delta + |c|^2 - sum_k s_k u_k^2
        g(x, y) = 2 sum_k s_k u_k u'_k + sum_kl L_kl u_k u_l u'_k u'_l + terms of x or y alone,
        L_kl = s_k s_l / (s_k + s_l).
    """

    def __init__(self, moments: Moments, reference: Gaussian):
        self._count, self._mean = moments.count, moments.mean
        self._delta = moments.mean - reference.mu
        root_of_reference = root(reference.sigma)
        product = root_of_reference.T @ moments.gaussian().sigma @ root_of_reference
        values, vectors = np.linalg.eigh(product)
        floor = len(values) * np.finfo(np.float64).eps * values.max(initial=0.0)
        kept = values > floor
        self._s = np.sqrt(values[kept])
        self._w = root_of_reference @ vectors[:, kept] / self._s
        self._l = self._s[:, None] * self._s / (self._s[:, None] + self._s)

    def first(self, x: np.ndarray) -> np.ndarray:
        """f(x) [n], without g(x, x) / (2 n): half of what an image adds to its own derivative."""
        c = np.asarray(x, np.float64) - self._mean
        squares = np.square(c @ self._w)
        transported = squares @ self._s
        at_sample = 2.0 * c @ self._delta + np.einsum('nd,nd->n', c, c) - transported
        own = np.einsum('nk,nk->n', squares @ self._l, squares) + transported
        return at_sample - own / (2.0 * self._count)

    def second(
        self, x: np.ndarray, x_like: np.ndarray, y: np.ndarray, y_like: np.ndarray
    ) -> np.ndarray:
        """g(x, y) - g(x', y) - g(x, y') + g(x', y') [n]: what x' and y' explain is taken off.

        Its mean square is 4 times that of g less its means over the strata of x and y.
        """
        ux, ux_like, uy, uy_like = (
            (np.asarray(rows, np.float64) - self._mean) @ self._w for rows in (x, x_like, y, y_like)
        )
        result = 2.0 * ((ux - ux_like) * (uy - uy_like)) @ self._s
        for sign, u, v in (
            (1.0, ux, uy),
            (-1.0, ux_like, uy),
            (-1.0, ux, uy_like),
            (1.0, ux_like, uy_like),
        ):
            z = u * v
            result += sign * np.einsum('nk,nk->n', z @ self._l, z)
        return result


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK))


def _pairs(strata: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of images x, y in random pairs, and of others x', y' out of their strata.

    The same for the same strata, so that differences of influences go together.
    """
    rng = np.random.default_rng(_SEED)
    like = np.empty(len(strata), np.int64)
    for group in groups(strata):
        shuffled = rng.permutation(group)
        like[shuffled] = np.roll(shuffled, 1)
    x = rng.permutation(len(strata))
    y = np.roll(x, 1)
    distinct = (x != like[y]) & (y != like[x]) & (like[x] != like[y]) & (x != y)
    x, y = x[distinct][:_MOST_PAIRS], y[distinct][:_MOST_PAIRS]
    return x, like[x], y, like[y]
