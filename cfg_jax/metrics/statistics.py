"""Streaming moments of features, in float64 on the host."""

from typing import NamedTuple

import numpy as np


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

    def merge(self, other: 'Moments') -> 'Moments':
        """Moments of both sets together (Chan, Golub & LeVeque 1983)."""
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        between = np.outer(delta, delta) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    def covariance(self) -> np.ndarray:
        """Unbiased covariance [D, D], divided by count - 1; needs two vectors."""
        return self.scatter / (self.count - 1)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Named arrays for an `.npz`."""
        return {'count': np.int64(self.count), 'mean': self.mean, 'scatter': self.scatter}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> 'Moments':
        """The inverse of `to_arrays`."""
        return cls(int(arrays['count']), arrays['mean'], arrays['scatter'])
