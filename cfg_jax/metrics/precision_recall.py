"""Improved precision and recall (Kynkaanniemi et al. 2019), as ADM computes them."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from cfg_jax.metrics import Inputs, Value, given

NEIGHBOURS = 3
_BLOCK_BYTES = 2**28  # of one block of distances


def precision(inputs: Inputs) -> Value:
    """Share of samples in the manifold of the real images' pooled features."""
    reference = given(inputs.reference.features, 'images')
    return Value(share_in_manifold(np.asarray(inputs.samples.pooled), reference))


def recall(inputs: Inputs) -> Value:
    """Share of real images in the manifold of the samples' pooled features."""
    reference = given(inputs.reference.features, 'images')
    return Value(share_in_manifold(reference, np.asarray(inputs.samples.pooled)))


def share_in_manifold(
    points: Float[np.ndarray, 'n d'], others: Float[np.ndarray, 'm d'], k: int = NEIGHBOURS
) -> float:
    """Share of `points` in the manifold of `others`, in [0, 1].

    The manifold of a set is the union of balls around its points, each with the distance to the
    point's k-th nearest neighbour in the set (itself not counted) as radius. `others` needs more
    than k points. The published protocol takes 50,000 samples and 10,000 real images.
    """
    a, b = _Points(points), _Points(others)
    return a.share_within(b, b.radii(k))


class _Points:
    """Features in float64 with their squared lengths; distances come in blocks of rows."""

    def __init__(self, features: Float[np.ndarray, 'n d']):
        self.x = np.asarray(features, np.float64)
        self.squares = np.einsum('nd,nd->n', self.x, self.x)

    def _distances(self, other: '_Points') -> Iterator[tuple[slice, np.ndarray]]:
        """Yields (rows, squared distances [rows, M]) for all rows of self."""
        rows = max(1, _BLOCK_BYTES // (8 * len(other.x)))
        for start in range(0, len(self.x), rows):
            part = slice(start, start + rows)
            block = self.x[part] @ other.x.T  # [rows, M]
            block *= -2.0
            block += self.squares[part, None]
            block += other.squares
            yield part, np.maximum(block, 0.0, out=block)

    def radii(self, k: int) -> np.ndarray:
        """Squared distance of each point to its k-th nearest other point [N]."""
        radii = np.empty(len(self.x))
        for part, block in self._distances(self):
            rows = np.arange(len(block))
            block[rows, part.start + rows] = -1.0  # itself: first of all, whatever the rounding
            block.partition(k, axis=1)
            radii[part] = block[:, k]
        return radii

    def share_within(self, other: '_Points', radii: np.ndarray) -> float:
        """Share of these points inside any ball around the others."""
        inside = sum((block <= radii).any(axis=1).sum() for _, block in self._distances(other))
        return float(inside / len(self.x))
