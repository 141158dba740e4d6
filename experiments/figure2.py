"""Figure 2: guidance on three Gaussians, and whether guided sampling draws what the figure shows.

    python experiments/figure2.py

The paper's figure shows p(x|c) p(c|x)^w, normalised, for three Gaussian classes and growing w. Its
text gives neither w nor the means; 0, 10, 100, 1000 and a triangle of circumradius 1.79 standard
deviations are a fit to the picture, and w = 1 is added because practice lives there. Below each
density stand samples of our ancestral sampler, guided by the same w, with the exact eps(z, c) and
eps(z): no network, no training, no clipping.

The samples agree with the density only at w = 0. eps~ is at each noise level the score of
q(z|c)^(1+w) / q(z)^w, made of blurred densities; to sample p(x|c) p(c|x)^w one would need the score
of that density, blurred. Tilting and blurring do not commute. How far apart the two are is measured
as the total-variation distance of histogram and density, beside the distance of a histogram of as
many true draws.
"""

import functools
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from gaussian_mixture import GaussianMixture, class_log_densities, exact_eps, grid, tilted_cells
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cfg_jax import cli, files, guidance, keys as keys_lib, provenance
from cfg_jax.evaluation import plots
from cfg_jax.samplers.ancestral import Ancestral
from cfg_jax.samplers.loop import follow

W = (0.0, 1.0, 10.0, 100.0, 1000.0)
NUM_STEPS = 512
FEW_STEPS = 128  # four times fewer: shows that the steps are not what separates the two
V = 1.0  # with s = 1 the reverse transition of one class is then exact at every number of steps
CIRCUMRADIUS = 1.79
ANGLES = np.deg2rad([90.0, 210.0, 330.0])
OUTWARD = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=-1)  # unit vectors, [K, 2]
MIXTURE = GaussianMixture(means=CIRCUMRADIUS * OUTWARD, std=1.0)
NUM_CLASSES = len(OUTWARD)

HALF_WIDTH = 10.0  # of the square that is cut into cells; samples outside it count as misses
FINE = 400  # cells a side where the density is evaluated
COARSE = 40  # cells a side where histograms are compared: 0.5 standard deviations wide
DRAWN = 80  # cells a side of the histograms that are drawn
REPEATS = 200  # histograms of true draws, for the distance by chance
SIGNIFICANT = 3.0  # standard deviations

COLORS = np.array([[0x00, 0x72, 0xB2], [0xD5, 0x5E, 0x00], [0x00, 0x9E, 0x73]]) / 255
WINDOW = (-6.6, 6.6, -5.0, 8.2)  # left, right, bottom, top


def sample(seed: int, num_samples: int, w: float, num_steps: int) -> np.ndarray:
    """Guided samples of every class, [K, num_samples, 2]; the same noise for every w."""
    label = np.repeat(np.arange(NUM_CLASSES), num_samples)
    x = _sample(keys_lib.image_keys(seed, np.arange(len(label))), label, w, num_steps)
    return np.asarray(x, np.float64).reshape(NUM_CLASSES, num_samples, 2)


@functools.partial(jax.jit, static_argnames='num_steps')
def _sample(keys: jax.Array, label: jax.Array, w: jax.Array, num_steps: int) -> jax.Array:
    eps_theta, null = exact_eps(MIXTURE), jnp.full_like(label, NUM_CLASSES)

    def eps_fn(z: jax.Array, logsnr: jax.Array) -> jax.Array:
        levels = jnp.broadcast_to(logsnr, z.shape[:1])
        return guidance.guide(eps_theta(z, levels, label), eps_theta(z, levels, null), w)

    z = keys_lib.per_image_noise(keys, (2,))
    return follow(Ancestral(num_steps, clip=False, v=V), eps_fn, z, keys)


def merge_cells(cells: np.ndarray, count: int) -> np.ndarray:
    """Sums square blocks of probabilities [K, n, n] into [K, count, count]."""
    block = cells.shape[1] // count
    return cells.reshape(len(cells), count, block, count, block).sum(axis=(2, 4))


def histogram(x: np.ndarray, count: int) -> np.ndarray:
    """Share of samples [K, N, 2] in each of count^2 cells, [K, count, count]."""
    edges = np.linspace(-HALF_WIDTH, HALF_WIDTH, count + 1)
    return np.stack([np.histogram2d(*each.T, bins=(edges, edges))[0] / len(each) for each in x])


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


def verdict(row: dict) -> str:
    """What a row says, in a few words."""
    if row['within_monte_carlo_error']:
        return f'agree within Monte-Carlo error (z = {row["z"]:.1f})'
    return f'do not agree (z = {row["z"]:.0f})'


def tables(rows: Sequence[dict]) -> str:
    """Two Markdown tables: the distances with their verdicts, and the moments."""
    lines = [
        f'| w | TV(samples, tilted) | in {FEW_STEPS} steps | TV of true draws | verdict |',
        '|---|---|---|---|---|',
    ]
    for row in rows:
        chance = f'{row["tv_by_chance"]:.4f} ± {row["tv_by_chance_std"]:.4f}'
        few = f'{row["tv_few_steps"]:.4f}'
        lines.append(f'| {row["w"]:g} | {row["tv"]:.4f} | {few} | {chance} | {verdict(row)} |')
    lines += [
        '',
        '| w | mean outward: samples, tilted | std outward | std across |',
        '|---|---|---|---|',
    ]
    for row in rows:
        ours, exact = (row['outward_and_across'][name] for name in ('samples', 'tilted'))
        pairs = [(ours[key][i], exact[key][i]) for key, i in (('mean', 0), ('std', 0), ('std', 1))]
        cells = ' | '.join(f'{a:.3f}, {b:.3f}' for a, b in pairs)
        lines.append(f'| {row["w"]:g} | {cells} |')
    return '\n'.join(lines)


def mix_colors(cells: np.ndarray, peak: float) -> np.ndarray:
    """Classes as inks on white: densities [K, n, n] over `peak` -> uint8 [n, n, 3], rows are y."""
    ink = np.einsum('kxy,kc->yxc', np.clip(cells / peak, 0.0, 1.0), 1.0 - COLORS)
    return np.round(255.0 * np.clip(1.0 - ink, 0.0, 1.0)).astype(np.uint8)


def mass_level(cells: np.ndarray, mass: float) -> float:
    """The value above which cells [n, n] hold `mass` of the probability."""
    ordered = np.sort(cells.ravel())[::-1]
    return float(ordered[np.searchsorted(np.cumsum(ordered), mass * ordered.sum())])


def draw(rows: Sequence[dict], fine: Sequence[np.ndarray], x: Sequence[np.ndarray]) -> Figure:
    """The picture: exact densities above, our samples below, one column for each w.

    A column has one scale of colour, that of its density, as the paper scales each panel.
    """
    figure = Figure(figsize=(2.5 * len(rows) + 0.3, 5.7), layout='constrained')
    axes = figure.subplots(2, len(rows), squeeze=False)
    for j, row in enumerate(rows):
        drawn = merge_cells(fine[j], DRAWN)
        peak = drawn.max()
        finest = fine[j] * (FINE / DRAWN) ** 2
        _draw_panel(axes[0, j], mix_colors(finest, peak), fine[j])
        _draw_panel(axes[1, j], mix_colors(histogram(x[j], DRAWN), peak), fine[j])
        axes[0, j].set_title(f'$w = {row["w"]:g}$', fontsize=13)
        axes[1, j].set_xlabel(
            f'TV {row["tv"]:.3f}  (true draws {row["tv_by_chance"]:.3f})', fontsize=10.5
        )
    axes[0, 0].set_ylabel(r'exact  $p(x|c)\,p(c|x)^w$', fontsize=12)
    axes[1, 0].set_ylabel('our guided samples', fontsize=12)
    figure.supxlabel(
        '+ means of the classes      — in both rows: 90 % of the mass of the exact density',
        fontsize=10,
        color='0.3',
    )
    return figure


def _draw_panel(axes: Axes, picture: np.ndarray, fine: np.ndarray) -> None:
    extent = (-HALF_WIDTH, HALF_WIDTH, -HALF_WIDTH, HALF_WIDTH)
    axes.imshow(picture, extent=extent, origin='lower', interpolation='nearest')
    centres = grid(HALF_WIDTH, FINE, 1)[:, 0]
    for cells, color in zip(fine, COLORS, strict=True):
        level = mass_level(cells, 0.9)
        axes.contour(centres, centres, cells.T, levels=[level], colors=[0.6 * color], linewidths=1)
    axes.plot(*MIXTURE.means.T, '+', color='black', markersize=7, markeredgewidth=1)
    axes.set(xlim=WINDOW[:2], ylim=WINDOW[2:], xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color('0.8')


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--out', default='runs/figure2', help='directory of the picture and JSON')
    parser.add_argument(
        '--num_samples', type=cli.natural_number, default=20_000, help='per class and w'
    )
    parser.add_argument('--seed', type=cli.natural_number, default=0, help='of all noise')
    options = parser.parse_args(argv)
    if options.num_samples < 2:
        parser.error('--num_samples must be at least 2')

    start = time.monotonic()
    points = grid(HALF_WIDTH, FINE, 2)
    rows, densities, samples = [], [], []
    for w in W:
        densities.append(tilted_cells(MIXTURE, points, w))
        samples.append(sample(options.seed, options.num_samples, w, NUM_STEPS))
        few = sample(options.seed, options.num_samples, w, FEW_STEPS)
        rows.append({'w': w, **measure(samples[-1], few, densities[-1], options.seed)})
        print(f'w = {w:g}: samples and tilted density {verdict(rows[-1])}', flush=True)
    unguided = samples[W.index(0.0)]
    exactness = {
        'mass_error': float(np.abs(mass(points) - 1.0).max()),
        'deviation_at_w_0': deviation(unguided, MIXTURE),
    }
    directory = files.as_path(options.out)
    plots.save(directory / 'figure2.png', draw(rows, densities, samples))
    results = _results(rows, options.num_samples, options.seed) | exactness
    files.write_json(directory / 'figure2.json', results)
    print(f'\n{tables(rows)}\n')
    print(f'exact densities of the classes integrate to 1 within {exactness["mass_error"]:.1e}')
    print(
        'at w = 0 means and covariances of the classes are within'
        f' {exactness["deviation_at_w_0"]:.2f} standard errors of the exact ones'
    )
    print(f'written: {directory}/figure2.png and {directory}/figure2.json')
    print(f'took {time.monotonic() - start:.0f} s')


def _results(rows: Sequence[dict], num_samples: int, seed: int) -> dict:
    return {
        'mixture': {'means': MIXTURE.means.tolist(), 'std': MIXTURE.std},
        'num_samples': num_samples,
        'sampler': {'sampler': 'ancestral', 'num_steps': NUM_STEPS, 'v': V, 'clip': False},
        'few_steps': FEW_STEPS,
        'histogram': {'half_width': HALF_WIDTH, 'cells': COARSE, 'true_draws': REPEATS},
        'seed': seed,
        'convention': 'eps = (1 + w) eps_cond - w eps_uncond',
        'rows': rows,
        **provenance.describe_environment(),
    }


if __name__ == '__main__':
    cli.run(main)
