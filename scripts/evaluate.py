"""Compares sets of images with a reference: FID, sFID, IS, precision, recall, KID.

    python scripts/evaluate.py samples.npz VIRTUAL_imagenet64_labeled.npz --inception=fid.npz
    python scripts/evaluate.py folder_a/ folder_b/ train_statistics.npz --inception=fid.npz
    python scripts/evaluate.py a.npz b.npz --inception=fid.npz --features=inception768 --metrics=fid

SAMPLES are folders of PNGs or ADM's batches (.npz with arr_0, uint8 [N, H, W, 3]); REFERENCE, last,
is one of these too, or statistics (.npz with mu and sigma, of pytorch-fid, ADM, EDM or
scripts/reference_stats.py). All sets have one image size. Several sets of samples (seeds) are also
summed up: mean, minimum, standard deviation. Without --metrics all default ones that are available
are computed, and a note says what is left out. The Inception Score's splits follow the file order;
if that depends on the class, as in folders sorted by class, the images are permuted, with a note.

The weights of the FID Inception are yours to bring; scripts/convert_inception.py --help says how.

metrics:
{metrics}

features:
{features}
"""

from collections.abc import Sequence

from cfg_jax import cli
from cfg_jax.metrics import METRICS
from cfg_jax.metrics.features import EXTRACTORS


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__.format(metrics=_metrics(), features=_extractors()))
    parser.add_argument('samples', nargs='+', metavar='SAMPLES', help='sets of images')
    parser.add_argument('reference', metavar='REFERENCE', help='images or statistics')
    parser.add_argument('--inception', required=True, help='.npz of scripts/convert_inception.py')
    parser.add_argument(
        '--features',
        choices=EXTRACTORS.from_files(),
        default='inception',
        help='2,048-d FID, or 768-d FD-768 for weights that end early (default: inception)',
    )
    parser.add_argument('--metrics', type=cli.name_list, default=(), help='such as fid,is,kid')
    parser.add_argument('--splits', type=cli.positive_number, default=10, help='of the IS')
    parser.add_argument(
        '--bootstrap',
        type=cli.natural_number,
        default=0,
        help="replicates of IS's standard error; 0, the default: no standard errors, of FID too",
    )
    parser.add_argument(
        '--dtype',
        choices=('float32', 'bfloat16'),
        default='float32',
        help='bfloat16 is faster and not the protocol; its error is printed',
    )
    parser.add_argument('--batch_size', type=cli.positive_number, help='images at once')
    parser.add_argument('--out', default='', help='a JSON file for the results')
    options = parser.parse_args(argv)
    METRICS.check(options.metrics)
    if options.bootstrap == 1:
        parser.error('--bootstrap is 0 or at least 2')

    import jax

    from cfg_jax import files, provenance
    from cfg_jax.evaluation import comparison, image_sets, tables
    from cfg_jax.metrics.features import inception

    if options.out:
        files.check_writable(options.out)
    extractor = inception.from_file(options.inception, options.features, options.dtype)
    results = comparison.compare(
        options.samples,
        options.reference,
        extractor,
        metrics=options.metrics,
        batch_size=options.batch_size or extractor.chunk * jax.device_count(),
        is_splits=options.splits,
        replicates=options.bootstrap,
    )
    if options.dtype == 'bfloat16':
        images = next(image_sets.open_images(options.samples[0]).batches(extractor.chunk))
        results['bfloat16_error'] = extractor.bfloat16_error(images)
        print(f'bfloat16 moves the features by {results["bfloat16_error"]:.1e} of their length')
    rows = results['rows']
    print('\n' + tables.metric_table(rows, [{'samples': row['images']} for row in rows]))
    if len(rows) > 1:
        print(tables.metric_table([results['summary']], [{'over sets': f'{len(rows)} sets'}]))
    if options.out:
        files.write_json(options.out, results | provenance.describe_environment())
        print(f'written to {options.out}')


def _metrics() -> str:
    """Those that do not need the classes of the samples, which files do not tell."""
    return METRICS.help(name for name in METRICS if 'labels' not in METRICS[name].needs)


def _extractors() -> str:
    return EXTRACTORS.help(EXTRACTORS.from_files())


if __name__ == '__main__':
    cli.run(main)
