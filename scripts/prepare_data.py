"""Prepares a TFDS data set as ArrayRecord, the format that training reads.

    python scripts/prepare_data.py --name=cifar10 --data_dir=/data/tfds
    python scripts/prepare_data.py --name=imagenet_resized/64x64 --data_dir=/data/tfds
    python scripts/prepare_data.py --name=imagenet2012 --data_dir=/data/tfds --manual_dir=/archives

imagenet2012 reads ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, which its owners give out at
image-net.org after registration, from --manual_dir (by default DATA_DIR/downloads/manual).
Preparing anything but `digits` needs TensorFlow: pip install -e '.[prepare]'. Training does not.
"""

from collections.abc import Sequence

from cfg_jax import commands


def main(argv: Sequence[str]) -> None:
    parser = commands.Parser(__doc__)
    parser.add_argument('--name', required=True, help="TFDS name, such as 'imagenet2012'")
    parser.add_argument('--data_dir', default='', help="default: TFDS's, ~/tensorflow_datasets")
    parser.add_argument('--manual_dir', default='', help='where hand-downloaded archives lie')
    options = parser.parse_args(argv)

    from cfg_jax import datasets

    print(datasets.prepare_by_name(options.name, options.data_dir, options.manual_dir))


if __name__ == '__main__':
    commands.run(main)
