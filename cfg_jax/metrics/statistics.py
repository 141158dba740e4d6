"""Streaming moments of features, in float64 on the host, and the Gaussians they make."""

from typing import NamedTuple

import numpy as np


class Gaussian(NamedTuple):
    """What the Frechet distance compares: `mu` and `sigma`, as published statistics files name it.

    Attributes:
      mu: float64 [D].
      sigma: unbiased covariance, float64 [D, D].
    """

    mu: np.ndarray
    sigma: np.ndarray


class Moments(NamedTuple):
    """Count, mean and centred scatter of feature vectors seen so far."""

    count: int
    mean: np.ndarray  # float64 [D]
    scatter: np.ndarray  # float64 [D, D], sum of (f - mean)(f - mean)^T

    @classmethod
    def of(cls, features: np.ndarray) -> 'Moments':
        """Moments of a batch of features [N, D], N >= 1."""
        features = np.asarray(features, np.float64)
        mean = features.mean(axis=0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    @classmethod
    def of_many(cls, features: np.ndarray, batch_size: int = 4096) -> 'Moments':
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
            f'{prefix}count': np.int64(self.count),
            f'{prefix}mean': self.mean,
            f'{prefix}scatter': self.scatter,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], prefix: str = '') -> 'Moments':
        """The inverse of `to_arrays`."""
        return cls(
            int(arrays[f'{prefix}count']), arrays[f'{prefix}mean'], arrays[f'{prefix}scatter']
        )
