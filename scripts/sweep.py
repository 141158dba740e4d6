"""Sweeps the guidance weight w over a trained model and measures every w.

    python scripts/sweep.py --model=runs/digits
    python scripts/sweep.py --model=runs/in64 --w=0,0.1,0.2,0.3,1,4 --num_samples=50000
    python scripts/sweep.py --model=runs/digits --guidance=interval:highest=5 --sampler=ddim
    python scripts/sweep.py --model=runs/digits --ema=0.05,0.1,0.15

Convention: eps = (1 + w) eps_cond - w eps_uncond; w = 0 is unguided; the scale of many other
codebases is s = 1 + w. Uses EMA parameters, of the newest checkpoint or of --step. Options not
given are the config's. Writes MODEL/sweep/NAME/: results.json, table.md, tradeoff.png, samples.png
(of an exported file NAME.safetensors: NAME.sweep/sweep/). A killed sweep continues where it was
when the same command runs again; other w join the table of the same --name; other metrics over
finished samples cost no sampling.

--ema sweeps w at several lengths of the average, from what training kept (scripts/ema.py), and
prints one table of all; each length is the sweep NAME-emaLENGTH.

ImageNet configs measure with the FID Inception, whose weights you bring: --inception=PATH
(docs/metrics.md). --features=inception768 does with weights that end before the last blocks.
"""

from collections.abc import Sequence

from cfg_jax import cli


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    cli.add_model_options(parser)
    parser.add_argument('--w', type=cli.number_list, help='such as 0,0.1,0.5')
    parser.add_argument('--num_samples', type=int, help='images per w')
    parser.add_argument('--v', type=float, help='variance exponent of the ancestral sampler')
    parser.add_argument('--seed', type=cli.seed, help='of the samples')
    parser.add_argument('--batch_size', type=int, help='images generated at once')
    parser.add_argument('--repeats', type=int, help='sets of samples: seeds SEED, SEED + 1, ...')
    parser.add_argument('--features', help='classifier, inception or inception768')
    parser.add_argument('--inception', help="path of the FID Inception's weights")
    parser.add_argument('--reference', help='path of statistics; else those of the training set')
    parser.add_argument('--data', help='where the training set is, if not as in training')
    parser.add_argument('--rounding', help="of samples to uint8: round, or truncate as ADM's")
    parser.add_argument('--metrics', type=cli.name_list, help='such as fid,sfid,is,precision')
    parser.add_argument('--bootstrap', type=int, help='replicates for standard errors; 0: none')
    parser.add_argument(
        '--save_samples',
        action='store_true',
        default=None,
        help="also write NAME/batches/*.npz in ADM's format",
    )
    parser.add_argument('--ema', type=cli.number_list, help='lengths sigma_rel, such as 0.05,0.1')
    cli.add_pdf_option(parser)
    parser.add_argument('--name', default='', help='of the directory below MODEL/sweep')
    cli.add_process_options(parser)
    options = parser.parse_args(argv)
    if options.name in ('.', '..') or '/' in options.name:
        parser.error(f'--name={options.name} is no name of a directory below MODEL/sweep')

    from cfg_jax import loading
    from cfg_jax.evaluation import sweep, tables
    from cfg_jax.metrics.features import EXTRACTORS

    cli.start_processes(options, sweep.workdir_of(options.model))
    config = loading.read_config(options.model)
    cli.apply_model_options(config, options)
    if options.data is not None:
        config.data.name = options.data
    if options.v is not None:
        config.sampler.v = options.v
    for field in config.sweep:
        if getattr(options, field, None) is not None:
            config.sweep[field] = getattr(options, field)
    rows, leading = [], []
    for ema in options.ema or (None,):
        model, workdir, name = sweep.prepare(config, options.model, options.name, options.step, ema)
        extractor = EXTRACTORS.load(config.sweep.features)(config, workdir)
        results = sweep.measure(model, workdir, name, extractor)
        directory = sweep.write(results, model, workdir / 'sweep' / name)
        if results is not None:  # on process 0
            rows += results['rows']
            leading += [{'sigma_rel': str(ema), 'w': f'{row["w"]:g}'} for row in results['rows']]
            if not options.ema:
                print((directory / 'table.md').read_text())
            print(f'written to {directory}')
    if rows and options.ema:
        print('\n' + tables.metric_table(rows, leading))


if __name__ == '__main__':
    cli.run(main)
