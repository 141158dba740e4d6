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
as the total-variation distance of histogram and density, next to the distance of a histogram of
as many true draws.
"""

import time
from collections.abc import Sequence

from cfg_jax import cli

W = (0.0, 1.0, 10.0, 100.0, 1000.0)


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    cli.add_pdf_option(parser)
    parser.add_argument('--out', default='runs/figure2', help='directory of the picture and JSON')
    parser.add_argument(
        '--num_samples', type=cli.positive_number, default=20_000, help='per class and w'
    )
    parser.add_argument('--seed', type=cli.seed, default=0, help='of all noise')
    options = parser.parse_args(argv)
    if options.num_samples < 2:
        parser.error('--num_samples must be at least 2')

    import numpy as np
    from figure2_parts import comparison, picture, samples, table
    from figure2_parts.gaussian_mixture import grid, tilted_cells
    from figure2_parts.triangle import FINE, HALF_WIDTH, MIXTURE

    from cfg_jax import files
    from cfg_jax.evaluation import plots

    files.check_writable(files.as_path(options.out) / 'figure2.json')
    start = time.monotonic()
    points = grid(HALF_WIDTH, FINE, 2)
    rows, densities, drawn = [], [], []
    for w in W:
        densities.append(tilted_cells(MIXTURE, points, w))
        many, few = (
            samples.sample(options.seed, options.num_samples, w, steps)
            for steps in (samples.NUM_STEPS, samples.FEW_STEPS)
        )
        drawn.append(many)
        rows.append({'w': w, **comparison.measure(many, few, densities[-1], options.seed)})
        print(f'w = {w:g}: samples and tilted density {table.verdict(rows[-1])}', flush=True)
    exactness = {
        'mass_error': float(np.abs(comparison.mass(points) - 1.0).max()),
        'deviation_at_w_0': comparison.deviation(drawn[W.index(0.0)], MIXTURE),
    }
    directory = files.as_path(options.out)
    plots.save(directory / 'figure2.png', picture.draw(rows, densities, drawn))
    results = _results(rows, options.num_samples, options.seed) | exactness
    files.write_json(directory / 'figure2.json', results)
    print(f'\n{table.markdown(rows)}\n')
    print(f'exact densities of the classes integrate to 1 within {exactness["mass_error"]:.1e}')
    print(
        'at w = 0 means and covariances of the classes are within'
        f' {exactness["deviation_at_w_0"]:.2f} standard errors of the exact ones'
    )
    print(f'written: {directory}/figure2.png and {directory}/figure2.json')
    print(f'took {time.monotonic() - start:.0f} s')


def _results(rows: Sequence[dict], num_samples: int, seed: int) -> dict:
    from figure2_parts.comparison import REPEATS
    from figure2_parts.samples import FEW_STEPS, NUM_STEPS, V
    from figure2_parts.triangle import COARSE, HALF_WIDTH, MIXTURE

    from cfg_jax import provenance

    return {
        'mixture': {'means': MIXTURE.means.tolist(), 'std': MIXTURE.std},
        'num_samples': num_samples,
        'sampler': {'name': 'ancestral', 'num_steps': NUM_STEPS, 'v': V, 'clip': False},
        'few_steps': FEW_STEPS,
        'histogram': {'half_width': HALF_WIDTH, 'cells': COARSE, 'true_draws': REPEATS},
        'seed': seed,
        'convention': 'eps = (1 + w) eps_cond - w eps_uncond',
        'rows': rows,
        **provenance.describe_environment(),
    }


if __name__ == '__main__':
    cli.run(main)
