"""The three classes of the figure, and the square that is cut into cells."""

import numpy as np

from figure2_parts.gaussian_mixture import GaussianMixture

CIRCUMRADIUS = 1.79
ANGLES = np.deg2rad([90.0, 210.0, 330.0])
OUTWARD = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=-1)  # unit vectors, [K, 2]
MIXTURE = GaussianMixture(means=CIRCUMRADIUS * OUTWARD, std=1.0)
NUM_CLASSES = len(OUTWARD)

HALF_WIDTH = 10.0  # of the square; samples outside of it count as misses
FINE = 400  # cells a side where the density is evaluated
COARSE = 40  # cells a side where histograms are compared: 0.5 standard deviations wide
DRAWN = 80  # cells a side of the histograms that are drawn


def merge_cells(cells: np.ndarray, count: int) -> np.ndarray:
    """Sums square blocks of probabilities [K, n, n] into [K, count, count]."""
    block = cells.shape[1] // count
    return cells.reshape(len(cells), count, block, count, block).sum(axis=(2, 4))


def histogram(x: np.ndarray, count: int) -> np.ndarray:
    """Share of samples [K, N, 2] in each of count^2 cells, [K, count, count]."""
    edges = np.linspace(-HALF_WIDTH, HALF_WIDTH, count + 1)
    return np.stack([np.histogram2d(*each.T, bins=(edges, edges))[0] / len(each) for each in x])
