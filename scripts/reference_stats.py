"""Computes the statistics of a data set that samples are compared with, for FID and sFID.

    python scripts/reference_stats.py --config=configs/imagenet64.py --inception=fid.npz \\
        --out=imagenet64_train.npz --config.data.data_dir=/data/tfds

Every image of config.data.split goes through the training preprocessing, without flips, and the
rounding to uint8 (half up). The file is read by pytorch-fid, ADM's and EDM's evaluators as well;
give it to sweep.py or evaluate.py as reference. A killed run continues where it was. One such file
serves every run on the data set; without it a sweep computes its own.
"""

from collections.abc import Sequence

from cfg_jax import cli
from cfg_jax.metrics.features import EXTRACTORS


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--inception', required=True, help='.npz of scripts/convert_inception.py')
    parser.add_argument('--features', choices=EXTRACTORS.from_files(), default='inception')
    parser.add_argument('--batch_size', type=cli.positive_number, default=256)
    parser.add_argument('--out', required=True, help='the .npz to write')
    options, config = cli.parse_with_config(parser, argv)

    from cfg_jax import files
    from cfg_jax.evaluation import dataset_reference, reference
    from cfg_jax.metrics.features import inception

    if files.as_path(options.out).exists():
        parser.error(f'{options.out} exists already; choose another --out')
    files.check_writable(options.out)
    extractor = inception.from_file(options.inception, options.features)
    dataset_reference.compute(config.data, extractor, options.out, options.batch_size)
    record = reference.load(options.out, extractor).record
    print(f'{record["num_images"]:,} images, SHA-256 {record["sha256"]}, written to {options.out}')


if __name__ == '__main__':
    cli.run(main)
