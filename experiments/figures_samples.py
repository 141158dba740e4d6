"""Figures 1, 3, 6, 7, 8: samples of a trained model as w grows, the same noise for every w.

    python experiments/figures_samples.py --workdir=runs/table1/p_uncond_0.1 --figures=1,6
    python experiments/figures_samples.py --workdir=runs/digits --label=8

1      one class (malamute in the paper), a column per w
3, 8   random classes, without guidance and with w = 3
6, 7   random classes and one class, w = 0, 1, 3 (Figure 7: 0, 1, 4)

Writes OUT/figure1.png and so on. Image i has the same noise and the same class in every panel, so a
pair of panels shows what guidance alone does. EMA parameters; the config's sampler.
"""

from collections.abc import Sequence

from cfg_jax import cli

MALAMUTE = 249  # its id among ImageNet's 1,000
ROW_OF_W = (0.0, 0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 4.0)
PANELS = {1: ROW_OF_W, 3: (0.0, 3.0), 6: (0.0, 1.0, 3.0), 7: (0.0, 1.0, 4.0), 8: (0.0, 3.0)}
SIDE = 6  # images along a panel


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    cli.add_pdf_option(parser)
    parser.add_argument(
        '--model', '--workdir', required=True, help='a work directory, or a file of export.py'
    )
    parser.add_argument(
        '--figures', type=cli.integer_list, default=(1, 3, 6), help='out of 1, 3, 6, 7, 8'
    )
    parser.add_argument(
        '--label',
        type=cli.natural_number,
        help="the one class; ImageNet's malamute (249), or the last",
    )
    parser.add_argument('--seed', type=cli.seed, default=0, help='of the images (0)')
    parser.add_argument('--out', default='', help='a folder; default MODEL/figures')
    options = parser.parse_args(argv)
    unknown = [number for number in options.figures if number not in PANELS]
    if unknown:
        parser.error(f'--figures={unknown[0]} is not one of {", ".join(map(str, PANELS))}')

    from cfg_jax import files, loading

    path = files.as_path(options.model)
    default = path.with_suffix('.figures') if path.is_file() else path / 'figures'
    out = files.as_path(options.out) if options.out else default
    model = loading.load(options.model)
    for number in options.figures:
        files.check_writable(out / f'figure{number}.png')
    label = options.label
    if label is None:
        label = min(MALAMUTE, model.config.data.num_classes - 1)
    last = model.config.data.num_classes - 1
    if label > last:
        parser.error(f'--label={label} is not a class; classes are 0..{last}')
    for number in options.figures:
        path = out / f'figure{number}.png'
        draw(path, number, model, label, options.seed)
        print(f'written to {path}')


def draw(path, number: int, model, label: int, seed: int) -> None:
    """One figure: a panel per w; for Figures 6 and 7 a second row with one class."""
    import matplotlib.pyplot as plt
    import numpy as np

    from cfg_jax.data import class_names, images
    from cfg_jax.evaluation import plots

    count = SIDE if number == 1 else SIDE * SIDE
    one = model.conditioning.from_user(np.full(count, label))
    several = model.draw_conditions(seed, np.arange(count), 'uniform')
    name = class_names.readable(model.class_names)[label]
    rows = [(name, one)] if number == 1 else [('random classes', several)]
    rows += [(name, one)] if number in (6, 7) else []

    weights = PANELS[number]
    width = 1.2 if number == 1 else 3.4
    figure, axes = plt.subplots(
        len(rows),
        len(weights),
        figsize=(width * len(weights), (7.0 if number == 1 else 3.7) * len(rows)),
        squeeze=False,
        layout='constrained',
    )
    for i, (title, condition) in enumerate(rows):
        for j, w in enumerate(weights):
            x = model.generate(seed, np.arange(count), condition, w).x
            x = np.asarray(images.to_uint8(x))
            panel = images.grid(x, 1 if number == 1 else SIDE)
            axes[i, j].imshow(panel.squeeze(), cmap='gray', vmin=0, vmax=255)
            axes[i, j].set(xticks=[], yticks=[], title=f'w = {w:g}')
        axes[i, 0].set_ylabel(title)
    plots.save(path, figure)


if __name__ == '__main__':
    cli.run(main)
