"""Sweeps the guidance weight w over a trained model and scores every w.

    python scripts/sweep.py --workdir=runs/digits
    python scripts/sweep.py --workdir=runs/in64 --w=0,0.1,0.2,0.3,1,4 --num_samples=50000

Convention: eps = (1 + w) eps_cond - w eps_uncond; w = 0 is unguided; the scale of many other
codebases is s = 1 + w. Uses the newest checkpoint's EMA parameters. Options not given are the
config's. Writes WORKDIR/sweep/NAME/: results.json, table.md, tradeoff.png, samples.png. A killed
sweep goes on where it was when the same command runs again; other metrics over finished samples
cost no sampling.

ImageNet configs measure with the FID Inception, whose weights you bring: --inception=PATH (README,
"Metrics"). --features=inception768 does with weights that end before the last blocks.
"""

from collections.abc import Sequence

from cfg_jax import cli


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--workdir', required=True, help='of a training run')
    parser.add_argument('--w', type=cli.number_list, help='such as 0,0.1,0.5')
    parser.add_argument('--num_samples', type=int, help='images per w')
    parser.add_argument('--sampler', help='ancestral or ddim')
    parser.add_argument('--num_steps', type=int, help='T, levels of log-SNR')
    parser.add_argument('--v', type=float, help='variance exponent of the ancestral sampler')
    parser.add_argument('--seed', type=cli.natural_number, help='of the samples')
    parser.add_argument('--batch_size', type=int, help='images generated at once')
    parser.add_argument('--repeats', type=int, help='sets of samples: seeds SEED, SEED + 1, ...')
    parser.add_argument('--features', help='classifier, inception or inception768')
    parser.add_argument('--inception', help="path of the FID Inception's weights")
    parser.add_argument('--reference', help='path of statistics; else those of the training set')
    parser.add_argument('--metrics', type=cli.name_list, help='such as fid,sfid,is,precision')
    parser.add_argument('--bootstrap', type=int, help='replicates for standard errors; 0: none')
    parser.add_argument(
        '--save_samples',
        action='store_true',
        default=None,
        help="also write NAME/batches/*.npz in ADM's format",
    )
    parser.add_argument('--name', default='', help='of the directory below WORKDIR/sweep')
    cli.add_process_options(parser)
    options = parser.parse_args(argv)

    from cfg_jax.distributed import multihost
    from cfg_jax.evaluation import sweep
    from cfg_jax.training import workdirs

    cli.start_processes(options, options.workdir)
    config = workdirs.read_config(options.workdir)
    of_the_run = ('workdir', 'name', *cli.PROCESS_OPTIONS)
    for field, value in vars(options).items():
        group = 'sampling' if field in config.sampling else 'sweep'
        if value is not None and field not in of_the_run:
            config[group][field] = value
    directory = sweep.run(config, options.workdir, name=options.name)
    if multihost.is_process_zero():
        print((directory / 'table.md').read_text())
        print(f'written to {directory}')


if __name__ == '__main__':
    cli.run(main)
