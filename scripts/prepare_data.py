"""Prepares a TFDS data set as ArrayRecord, the format that training reads.

    python scripts/prepare_data.py --name=cifar10 --data_dir=/data/tfds
    python scripts/prepare_data.py --name=imagenet_resized/64x64 --data_dir=/data/tfds
    python scripts/prepare_data.py --name=imagenet2012 --data_dir=/data/tfds --manual_dir=/archives
    python scripts/prepare_data.py --name=imagenet2012 --data_dir=/data/tfds --resize=64 --workers=8

imagenet2012 reads ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, which its owners give out at
image-net.org after registration, from --manual_dir (by default DATA_DIR/downloads/manual).
Preparing anything but `digits` needs TensorFlow: pip install -e '.[prepare]'. Training does not.

--resize writes a copy of a prepared set, cropped and area-resized as training does, as lossless
PNG: training then decodes tens of times faster (scripts/bench_input.py). The copy's pixels are
rounded to 8 bits, where training on the original keeps the mean's fraction. No TensorFlow needed.
"""

from collections.abc import Sequence

from cfg_jax import cli


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--name', required=True, help="TFDS name, such as 'imagenet2012'")
    parser.add_argument('--data_dir', default='', help="default: TFDS's, ~/tensorflow_datasets")
    parser.add_argument('--manual_dir', default='', help='where hand-downloaded archives lie')
    parser.add_argument(
        '--resize', type=cli.natural_number, help='side in pixels of a resized copy'
    )
    parser.add_argument('--out', default='', help='TFDS directory of the copy; default: DATA_DIR')
    parser.add_argument(
        '--workers', type=cli.natural_number, default=0, help='processes that decode'
    )
    options = parser.parse_args(argv)

    if options.resize is not None:
        from cfg_jax.data import resized

        out = options.out or options.data_dir
        print(resized.prepare(options.name, options.data_dir, options.resize, out, options.workers))
        return

    from cfg_jax.data import sources

    print(sources.prepare_by_name(options.name, options.data_dir, options.manual_dir))


if __name__ == '__main__':
    cli.run(main)
