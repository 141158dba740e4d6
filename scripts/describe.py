"""What a config costs, as JSON, without running anything.

    python scripts/describe.py --config=configs/imagenet64.py
    python scripts/describe.py --config=configs/imagenet64.py --images_per_second=600

Operations are counted at 2 per multiply-add over convolutions, dense layers and attention; a
training image costs three forward passes. State per device: parameters, EMA and Adam's moments.
"""

import json
from collections.abc import Sequence

from cfg_jax import commands


def main(argv: Sequence[str]) -> None:
    parser = commands.Parser(__doc__)
    parser.add_argument(
        '--images_per_second', type=float, help='training images per second of one device'
    )
    options, config = commands.parse_with_config(parser, argv)

    from cfg_jax import cost

    print(json.dumps(cost.describe(config, options.images_per_second), indent=2))


if __name__ == '__main__':
    commands.run(main)
