"""Draws images of chosen classes from a trained model into one picture.

    python scripts/sample.py --workdir=runs/digits --labels=3,3,7 --w=3.0 --seed=0 --out=grid.png

Image i has its own random numbers, from the seed and i alone: the same picture for every batch,
machine and w. --w takes one weight for all images or one per image. Uses EMA parameters.
"""

import math
from collections.abc import Sequence

import numpy as np

from cfg_jax import cli


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--workdir', required=True, help='of a training run')
    parser.add_argument('--labels', type=cli.integer_list, required=True, help='class ids')
    parser.add_argument('--w', type=cli.number_list, default=(0.0,), help='guidance weight')
    parser.add_argument('--seed', type=cli.natural_number, default=0, help='of the images')
    parser.add_argument(
        '--columns',
        type=cli.natural_number,
        default=0,
        help='images per row; 0: about a square',
    )
    parser.add_argument('--out', default='grid.png', help='the PNG to write')
    options = parser.parse_args(argv)

    count = len(options.labels)
    if len(options.w) not in (1, count):
        parser.error(f'--w has {len(options.w)} entries; give one, or one per label ({count})')

    from cfg_jax import trained
    from cfg_jax.data import images

    model = trained.TrainedModel(options.workdir)
    w = options.w[0] if len(options.w) == 1 else options.w
    x = model.generate(options.seed, range(count), options.labels, w)
    columns = options.columns or math.ceil(math.sqrt(count))
    images.save_png(options.out, images.grid(np.asarray(images.to_uint8(x)), columns), min_side=256)
    print(f'{count} images written to {options.out}')


if __name__ == '__main__':
    cli.run(main)
