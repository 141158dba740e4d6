"""Statistics of features, in float64 on the host: streaming moments, Gaussians, references."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float


class Gaussian(NamedTuple):
    """What the Frechet distance compares: `mu` and `sigma`, as published statistics files name it.

    Attributes:
      mu: float64 [D].
      sigma: unbiased covariance, float64 [D, D].
    """

    mu: np.ndarray
    sigma: np.ndarray


class Reference(NamedTuple):
    """Statistics of the real images.

    Attributes:
      pooled: of the pooled features.
      spatial: of the sFID map; None where there is none.
      features: pooled features of up to 10,000 of the images, evenly spread over the set, float32
        [M, D]; None in a file of statistics alone.
      record: what identifies them: `sha256`, and data set and extractor as far as known.
    """

    pooled: Gaussian
    spatial: Gaussian | None
    features: np.ndarray | None
    record: dict[str, Any]


class Moments(NamedTuple):
    """Count, mean and centred scatter of feature vectors seen so far."""

    count: int
    mean: np.ndarray  # float64 [D]
    scatter: np.ndarray  # float64 [D, D], sum of (f - mean)(f - mean)^T

    @classmethod
    def of(cls, features: Float[np.ndarray, 'n d']) -> 'Moments':
        """Moments of a batch of features, n >= 1."""
        features = np.asarray(features, np.float64)
        mean = features.mean(axis=0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    @classmethod
    def of_many(cls, features: Float[np.ndarray, 'n d'], batch_size: int = 4096) -> 'Moments':
        """`of`, without a float64 copy of all features at once."""
        moments = cls.of(features[:batch_size])
        for start in range(batch_size, len(features), batch_size):
            moments = moments.merge(cls.of(features[start : start + batch_size]))
        return moments

    def merge(self, other: 'Moments') -> 'Moments':
        """Moments of both sets together (Chan, Golub & LeVeque 1983), as processes merge theirs."""
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        between = np.outer(delta, delta) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    def gaussian(self) -> Gaussian:
        """Mean and unbiased covariance, divided by count - 1; needs two vectors."""
        return Gaussian(self.mean, self.scatter / (self.count - 1))

    def to_arrays(self, prefix: str = '') -> dict[str, np.ndarray]:
        """Named arrays for an `.npz`."""
        return {
            f'{prefix}count': np.asarray(self.count, np.int64),
            f'{prefix}mean': self.mean,
            f'{prefix}scatter': self.scatter,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], prefix: str = '') -> 'Moments':
        """The inverse of `to_arrays`."""
        return cls(
            int(arrays[f'{prefix}count']), arrays[f'{prefix}mean'], arrays[f'{prefix}scatter']
        )


def root(covariance: Float[np.ndarray, 'd d']) -> Float[np.ndarray, 'd rank']:
    """R with R R^T = covariance; eigenvalues at the level of rounding are left out."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > len(values) * np.finfo(np.float64).eps * max(values.max(), 0.0)
    return vectors[:, kept] * np.sqrt(values[kept])
