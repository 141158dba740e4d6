"""Every guidance rule and every sampler on one trained model, measured against each other.

    python experiments/guidance_zoo.py                        (digits: trains what it needs)
    python experiments/guidance_zoo.py --root=runs/zoo-in64 --model=runs/in64 \\
        --guide=runs/in64-guide --classifier=runs/in64-classifier --inception=inception.npz

Three --parts, all with the same noise and conditions, so that differences are paired:

* samplers: each over numbers of evaluations, with the paper's rule at --w;
* together: rules with fast samplers, at a tenth of the paper's evaluations or less;
* rules: each over its own strengths, with DDIM at --num_steps.

A rule beats plain classifier-free guidance if at one of its strengths FID is lower than plain
guidance has it at the same IS, by more than two standard errors of the paired difference. Rules
that ask for something else than the data's own distribution (negative, composition) or for other
conditions (two_conditions) are not measured. Autoguidance needs --guide and classifier guidance
--classifier; without them they are left out, and said to be. On digits all are trained.

Writes ROOT/results: table.md, rules.md, zoo.png, samplers.png, results.json. Samples are kept in
ROOT/sweep; a killed run continues.
"""

from collections.abc import Sequence

from shared_parts import presets

from cfg_jax import cli

PARTS = ('samplers', 'together', 'rules')


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    cli.add_pdf_option(parser)
    parser.add_argument('--root', default='runs/guidance_zoo', help='where everything is written')
    parser.add_argument('--model', '--workdir', default='', help='a trained model; else digits')
    parser.add_argument('--guide', default='', help='of autoguidance: a worse model')
    parser.add_argument('--classifier', default='', help='of noisy images, for its guidance')
    parser.add_argument('--inception', default='', help="the FID Inception's weights")
    parser.add_argument(
        '--parts',
        type=cli.name_list,
        default=PARTS,
        help=f'{PARTS[0]}, and out of {", ".join(PARTS[1:])}',
    )
    parser.add_argument('--num_samples', type=cli.positive_number, help='a row')
    parser.add_argument('--num_steps', type=cli.positive_number, default=20, help='of the rules')
    parser.add_argument('--paper_steps', type=cli.positive_number, default=256, help='T, Table 2')
    parser.add_argument('--w', type=cli.real, default=0.3, help='where samplers are compared')
    options, overrides = cli.split_config(parser, argv)
    if not set(options.parts) <= set(PARTS) or 'samplers' not in options.parts:
        parser.error(
            f'--parts are samplers, with which all are compared, and out of {", ".join(PARTS[1:])}'
        )
    own = 'the settings that are compared have their own'
    fields = ('metrics', 'labels', 'w')
    presets.refuse(
        overrides,
        {f'sweep.{field}': own for field in fields}
        | {f'sampler.{field}': own for field in ('name', 'num_steps', 'grid')}
        | {f'guidance.{field}': own for field in ('rule', 'options')},
    )

    from guidance_zoo_parts import measurement, networks, publication, settings, verdicts

    from cfg_jax import files
    from cfg_jax.metrics.features import EXTRACTORS

    root = files.as_path(options.root)
    files.check_writable(root / 'results' / 'table.md')
    digits = presets.CONFIGS / 'digits.py'
    paths = networks.prepare(root, digits, overrides, options)
    config = networks.config_of(paths, options)
    extractor = EXTRACTORS.load(config.sweep.features)(config, root)
    bench = measurement.Bench(config, root, paths, extractor)
    chosen = [s for s in settings.all_settings(config, options) if s.part in options.parts]
    points = [point for setting in chosen for point in bench.measure(setting)]
    found = verdicts.Verdicts(points)
    out = root / 'results'
    print('\n' + publication.write(out, found, config, bench.left_out, bench.record))
    print(f'written to {out}')


if __name__ == '__main__':
    cli.run(main)
