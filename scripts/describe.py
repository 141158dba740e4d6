"""What a config costs, as JSON, without running anything.

    python scripts/describe.py --config=configs/imagenet64.py
    python scripts/describe.py --config=configs/imagenet64.py --images_per_second=600
    python scripts/describe.py --config=configs/imagenet64.py --accelerator=a100
    python scripts/describe.py --model=adm64.safetensors --preset=adm64 --accelerator=a100

With a throughput or an accelerator it reports device-days of the training and device-hours of the
full sweep; those of an accelerator are an estimate, a share (--utilisation) of its peak, and come
with the share of its memory that the training state takes. With --decode_rate it also reports how
many cores must decode to keep one device busy.

What the compilers say, for machines that are not here (memory, bytes, collectives), is
scripts/compile_for.py's.

Operations are counted at 2 per multiply-add over convolutions, dense layers and attention; a
training image costs three forward passes. State per device: parameters, EMA and the moments of the
optimizer.
"""

import json
from collections.abc import Sequence

from cfg_jax import cli
from cfg_jax.perf.accelerators import ACCELERATORS


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        '--images_per_second',
        type=cli.positive_real,
        help='training images per second of one device',
    )
    parser.add_argument('--accelerator', help=', '.join(ACCELERATORS))
    parser.add_argument(
        '--utilisation',
        type=cli.positive_real,
        default=0.4,
        help="share of the accelerator's peak (0.4)",
    )
    parser.add_argument(
        '--decode_rate',
        type=cli.positive_real,
        help='images per second of one core, of bench_input.py',
    )
    parser.add_argument('--config', metavar='FILE', help='such as configs/digits.py')
    parser.add_argument('--model', help='in place of --config: a work directory or a file')
    parser.add_argument('--preset', help='settings of a published number, with --model')
    options, overrides = cli.split_config(parser, argv)
    if (options.config is None) == (options.model is None):
        parser.error('give one of --config and --model')
    if options.model and overrides:
        parser.error(f'{overrides[0]} is for --config')

    from cfg_jax import config_files, loading
    from cfg_jax.perf import cost
    from cfg_jax.pretrained import presets

    if options.model:
        config = loading.read_config(options.model)
    else:
        config = config_files.load_config(options.config, overrides)
    if options.preset is not None:
        presets.apply(config, options.preset)

    if options.accelerator is not None and options.accelerator not in ACCELERATORS:
        parser.error(f'--accelerator is one of {", ".join(ACCELERATORS)}')
    if options.accelerator is not None and options.images_per_second is not None:
        parser.error('--images_per_second is measured, --accelerator estimated; give one of them')
    if options.decode_rate is not None and not (options.images_per_second or options.accelerator):
        parser.error('--decode_rate needs --images_per_second or --accelerator')
    description = cost.describe(
        config,
        options.images_per_second,
        options.accelerator,
        options.utilisation,
        options.decode_rate,
    )
    print(json.dumps(description, indent=2))


if __name__ == '__main__':
    cli.run(main)
