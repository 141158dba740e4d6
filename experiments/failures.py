"""What guidance does to a class that is rare in training, and to one that was never seen: digits.

    python experiments/failures.py

Two models of the same size and length: one trained on all digits, one on a set without the digit 9
in which the digit 8 is 1 % of the images. Both are asked for all ten digits over --w. Of the
frequent digits, the rare and the unseen one: the share that a classifier of real digits finds to be
of the class asked for; precision and recall among all real digits of that class; and whether
samples are copies of training images: the share that lies nearer to one of the rare digit's
training images than to one of as many that were held out, beside that of the model of all digits,
which had both (so few images of each are not alike, and 0.5 is no measure of no copies).

Writes ROOT/results: table.md, failures.png, results.json. Models are kept; a killed run continues.
"""

from collections.abc import Sequence

from shared_parts import presets

from cfg_jax import cli

W = (0.0, 0.3, 1.0, 3.0)


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    cli.add_pdf_option(parser)
    parser.add_argument('--root', default='runs/failures', help='where everything is written')
    parser.add_argument('--w', type=cli.number_list, default=W, help='guidance weights')
    parser.add_argument('--count', type=cli.positive_number, default=200, help='images a digit')
    options, overrides = cli.split_config(parser, argv)
    own = dict.fromkeys(
        ('sweep.seed', 'sweep.labels'), 'the digits and their seed are the same in all'
    )
    presets.refuse(overrides, {'sweep.w': 'give --w', 'sweep.num_samples': 'give --count'} | own)
    presets.check_count(parser, options.count)  # before anything is trained

    from failures_parts import long_tail, measurement, publication

    from cfg_jax import config_files, files, loading
    from cfg_jax.metrics.features import EXTRACTORS
    from cfg_jax.training import loop

    root = files.as_path(options.root)
    files.check_writable(root / 'results' / 'table.md')
    config = config_files.load_config(presets.CONFIGS / 'digits.py', overrides)
    extractor = EXTRACTORS.load(config.sweep.features)(config, root)
    presets.check_labels(extractor)
    digits = long_tail.Digits(config)
    rare = long_tail.write(digits, root / 'data')
    models = {
        'all digits': (config, root / 'all'),
        'long tail': (long_tail.config(config, root / 'data'), root / 'long_tail'),
    }
    groups, provenance = [], {}
    for name, (settings, workdir) in models.items():
        loop.train(settings, workdir)
        model = loading.load(workdir)
        provenance[name] = model.provenance()
        groups += measurement.measure(
            name, model, digits, rare, extractor, options.w, options.count
        )
    record = {'models': provenance} | measurement.record(config, digits, extractor)
    print('\n' + publication.write(root / 'results', groups, config, options.count, record))
    print(f'written to {root / "results"}')


if __name__ == '__main__':
    cli.run(main)
