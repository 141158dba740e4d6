"""Prepares a data set as ArrayRecord, the format that training reads fastest.

    python scripts/prepare_data.py --name=cifar10 --data_dir=/data/tfds
    python scripts/prepare_data.py --name=imagenet_resized/64x64 --data_dir=/data/tfds
    python scripts/prepare_data.py --name=imagenet2012 --data_dir=/data/tfds --manual_dir=/archives
    python scripts/prepare_data.py --name=imagenet2012 --data_dir=/data/tfds --resize=64 --workers=8
    python scripts/prepare_data.py --folder=/data/pets --data_dir=/data/tfds --validation=0.05

imagenet2012 reads ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, which its owners give out at
image-net.org after registration, from --manual_dir (by default DATA_DIR/downloads/manual).
Preparing a TFDS set other than `digits` needs TensorFlow: pip install -e '.[prepare]'. Training,
--folder and --resize do not.

--folder takes JPEG, PNG and WebP files, a sub-directory per class. --validation is the share that
becomes the split 'validation', chosen by the files' names, of each class alike; a folder with
train/, val/ and so on keeps its own splits. Files that cannot be decoded are named and left out.
(Training can also read the folder as it is: --config.data.name=folder:PATH.)

--resize writes a copy of a prepared set or of a folder, cropped and area-resized as training does,
as lossless PNG: training then decodes about ten times faster (scripts/bench_input.py). The copy's
pixels are rounded to 8 bits, where training on the original keeps the mean's fraction. Interrupted
or killed, the same command goes on from the last few thousand images (until the copy is written,
they lie beside it and take its size again). It tells how many images each class has.
"""

import argparse
from collections.abc import Sequence

from cfg_jax import cli

_VALIDATION = 0.05


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--name', default='', help="TFDS name, such as 'imagenet2012'")
    parser.add_argument('--folder', default='', help='directory of images, in place of --name')
    parser.add_argument('--data_dir', default='', help="default: TFDS's, ~/tensorflow_datasets")
    parser.add_argument('--manual_dir', default='', help='where hand-downloaded archives lie')
    parser.add_argument(
        '--validation',
        type=float,
        help=f'share of a folder that becomes its validation split; default {_VALIDATION}',
    )
    parser.add_argument(
        '--resize', type=cli.positive_number, help='side in pixels of a resized copy'
    )
    parser.add_argument('--out', default='', help='TFDS directory of the copy; default: DATA_DIR')
    parser.add_argument(
        '--workers', type=cli.natural_number, default=0, help='processes that decode'
    )
    options = parser.parse_args(argv)
    if bool(options.name) == bool(options.folder):
        parser.error('give one of --name and --folder')
    if options.validation is not None and not options.folder:
        parser.error('--validation is for a --folder')
    if options.resize is None and not options.folder:
        for option in ('out', 'workers'):
            if getattr(options, option):
                parser.error(f'--{option} is for --resize or a --folder')
    elif options.manual_dir:
        parser.error('--manual_dir is for a --name without --resize')
    print(prepare(options))


def prepare(options: argparse.Namespace) -> str:
    """Does what the options say; returns a sentence that says where the data set is."""
    out = options.out or options.data_dir
    validation = _VALIDATION if options.validation is None else options.validation
    if options.resize is not None:
        from cfg_jax.data import copies

        if options.folder:
            name, data_dir = f'folder:{options.folder}', ''
        else:
            name, data_dir, validation = options.name, options.data_dir, 0.0
        return copies.resize(name, data_dir, options.resize, out, options.workers, validation)
    if options.folder:
        from cfg_jax.data import copies

        return copies.copy_folder(options.folder, out, options.workers, validation)

    from cfg_jax.data import tfds_sets

    return tfds_sets.prepare_by_name(options.name, options.data_dir, options.manual_dir)


if __name__ == '__main__':
    cli.run(main)
