"""How far samples are from a density: total variation against that of true draws, and moments."""

import numpy as np

from figure2_parts.gaussian_mixture import GaussianMixture, class_log_densities, grid
from figure2_parts.triangle import (
    COARSE,
    FINE,
    HALF_WIDTH,
    MIXTURE,
    NUM_CLASSES,
    OUTWARD,
    histogram,
    merge_cells,
)

REPEATS = 200  # histograms of true draws, for the distance by chance
SIGNIFICANT = 3.0  # standard deviations


def total_variation(shares: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """1/2 sum |share - probability|, mean of the classes: [..., K, n, n] -> [...].

    Shares may sum to less than one: what fell outside the cells counts as misplaced.
    """
    outside = 1.0 - shares.sum(axis=(-2, -1))
    distance = 0.5 * (np.abs(shares - cells).sum(axis=(-2, -1)) + outside)
    return distance.mean(axis=-1)


def compare(x: np.ndarray, cells: np.ndarray, rng: np.random.Generator) -> dict[str, float | bool]:
    """Total variation between samples [K, N, 2] and cell probabilities [K, n, n], and by chance.

    By chance: the same distance for `REPEATS` histograms of N true draws a class. The samples are
    within Monte-Carlo error if theirs is less than `SIGNIFICANT` standard deviations above.
    """
    num_samples = x.shape[1]
    draws = [rng.multinomial(num_samples, each.ravel(), size=REPEATS) for each in cells]
    shares = np.stack(draws, axis=1).reshape(REPEATS, *cells.shape) / num_samples
    chance = total_variation(shares, cells)
    distance = float(total_variation(histogram(x, cells.shape[-1]), cells))
    z = (distance - chance.mean()) / chance.std(ddof=1)
    return {
        'tv': distance,
        'tv_by_chance': float(chance.mean()),
        'tv_by_chance_std': float(chance.std(ddof=1)),
        'z': float(z),
        'within_monte_carlo_error': bool(z < SIGNIFICANT),
    }


def moments(x: np.ndarray, weights: np.ndarray) -> dict[str, list[float]]:
    """Mean and standard deviation along each class's axes, the mean of the classes.

    x [K, N, 2] with weights [K, N]. The axes: outward from the centre of the triangle through the
    mean of the class, and across.
    """
    across = np.stack([-OUTWARD[:, 1], OUTWARD[:, 0]], axis=-1)
    along = np.einsum('knd,kad->kna', x, np.stack([OUTWARD, across], axis=1))
    mean = np.einsum('kn,kna->ka', weights, along)
    variance = np.einsum('kn,kna->ka', weights, (along - mean[:, None]) ** 2)
    return {'mean': mean.mean(axis=0).tolist(), 'std': np.sqrt(variance).mean(axis=0).tolist()}


def deviation(x: np.ndarray, mixture: GaussianMixture) -> float:
    """Largest distance of a class's mean or covariance from the exact one, in standard errors.

    x [K, N, D], of the classes N(m_c, s^2 I) themselves: w = 0. Over the K D means and
    K D (D + 1) / 2 covariances; their standard errors are s / sqrt(N), and s^2 / sqrt(N - 1) times
    sqrt(2) on the diagonal.
    """
    num_samples, dimensions = x.shape[1:]
    mean_error = mixture.std / np.sqrt(num_samples)
    covariance_error = mixture.std**2 / np.sqrt(num_samples - 1) * (1.0 + np.eye(dimensions)) ** 0.5
    exact = mixture.std**2 * np.eye(dimensions)
    of_means = (x.mean(axis=1) - mixture.means) / mean_error
    of_covariances = [(np.cov(each, rowvar=False) - exact) / covariance_error for each in x]
    return float(max(np.abs(of_means).max(), np.abs(of_covariances).max()))


def mass(points: np.ndarray) -> np.ndarray:
    """What the exact densities of the classes integrate to on the grid, [K]: not normalised."""
    cell = (2 * HALF_WIDTH / FINE) ** 2
    return cell * np.exp(class_log_densities(MIXTURE, points)).sum(axis=(0, 1))


def measure(x: np.ndarray, x_few: np.ndarray, fine: np.ndarray, seed: int) -> dict:
    """One row of results; x and x_few [K, N, 2] with many and few steps, fine [K, FINE, FINE]."""
    cells = merge_cells(fine, COARSE)
    points = grid(HALF_WIDTH, FINE, 2).reshape(1, -1, 2)
    return {
        **compare(x, cells, np.random.default_rng(seed)),
        'tv_few_steps': float(total_variation(histogram(x_few, COARSE), cells)),
        'outward_and_across': {
            'samples': moments(x, np.full(x.shape[:2], 1 / x.shape[1])),
            'tilted': moments(
                np.broadcast_to(points, (NUM_CLASSES, *points.shape[1:])),
                fine.reshape(NUM_CLASSES, -1),
            ),
        },
    }
