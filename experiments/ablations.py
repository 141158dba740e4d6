"""What the guidance rule itself does: what was expected and what came out, on digits, in minutes.

    python experiments/ablations.py
    python experiments/ablations.py --root=runs/table1-digits    (with the models of that table)

A model is trained for each p_uncond and sampled in the ways that the paper and its readers wonder
about: interpolation instead of extrapolation (w in [-1, 0]), huge w with and without clipping,
noise in the place of the unconditional prediction, other v, other T, DDIM. An expectation is a set
of inequalities between rows; one that differs by less than two standard errors counts as undecided.

Writes ROOT/ablations/table.md, ablations.png and results.json. FID and IS are made with the digits'
classifier, so their scale is their own. Models and samples are kept; a killed run
continues.
"""

from collections.abc import Sequence

from shared_parts import presets

from cfg_jax import cli, files


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    cli.add_pdf_option(parser)
    parser.add_argument('--root', default='runs/ablations', help='where everything is written')
    options, overrides = cli.split_config(parser, argv)
    own = ('p_uncond', 'sweep.w', 'guidance.rule', 'guidance.options')
    own += tuple(f'sampler.{field}' for field in ('name', 'options', 'num_steps', 'clip', 'v'))
    presets.refuse(overrides, dict.fromkeys(own, 'the rows have their own'))
    config = presets.digits(overrides)
    presets.check_metrics(config)

    from ablations_parts import rows as row_lib, table

    from cfg_jax.errors import UserError
    from cfg_jax.metrics.features import EXTRACTORS
    from cfg_jax.training import loop

    root = files.as_path(options.root)
    files.check_writable(root / 'ablations' / 'table.md')
    extractor = EXTRACTORS.load(config.sweep.features)(config, root)
    if extractor.distance != 'FID':
        raise UserError(
            f'sweep.features={config.sweep.features} gives {extractor.distance}, and the expected'
            ' rows are of FID'
        )
    presets.check_labels(extractor)
    measured = {}
    for group in row_lib.groups():
        settings = group.config(config)
        workdir = root / f'p_uncond_{group.p_uncond:g}'
        trained = config.copy_and_resolve_references()
        trained.p_uncond = group.p_uncond
        loop.train(trained, workdir)
        measured |= table.measure(group, settings, workdir, root, extractor)
    ordered = [(row, measured[row.name]) for row in row_lib.ROWS]
    print('\n' + table.write(root / 'ablations', ordered, config))
    print(f'written to {root / "ablations"}')


if __name__ == '__main__':
    cli.run(main)
