"""Improved precision and recall (Kynkaanniemi et al. 2019), as ADM computes them."""

import numpy as np

NEIGHBOURS = 3
_BLOCK_BYTES = 2**28  # of one block of distances


def precision_recall(
    samples: np.ndarray, reference: np.ndarray, k: int = NEIGHBOURS
) -> tuple[float, float]:
    """Precision: share of samples in the reference's manifold; recall: the other way round.

    The manifold of a set is the union of balls around its points, each with the distance to the
    point's k-th nearest neighbour in the set (itself not counted) as radius.

    Args:
      samples: features [N, D]; the published protocol takes 50,000.
      reference: features [M, D]; the published protocol takes 10,000 real images.
      k: the neighbour; both sets need more than k points.
    """
    a, b = _Points(samples), _Points(reference)
    return a.share_within(b, b.radii(k)), b.share_within(a, a.radii(k))


class _Points:
    """Features in float64 with their squared lengths; distances come in blocks of rows."""

    def __init__(self, features: np.ndarray):
        self.x = np.asarray(features, np.float64)
        self.squares = np.einsum('nd,nd->n', self.x, self.x)

    def _distances(self, other: '_Points'):
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
