"""The loss of EMA weights on images that training has not seen: does it still learn?

    python scripts/validate.py --model=runs/in64
    python scripts/validate.py --model=runs/in64 --steps=100000,200000,300000 --out=losses.json
    python scripts/validate.py --model=model.safetensors --data=tiny_imagenet64/1.0.0

Prints the mean of the training's objective over the first images of each split, without dropout,
for every checkpoint that is there (the newest, and those of `train.keep_period`), or for --steps.
All of them see the same images, noise levels and noise: the last column is the mean change on the
last split since the row above, image by image, and its standard error. A network that overfits
has a loss that falls on `train` and rises on `validation`. Not for imported
networks, whose training had another objective.
"""

from collections.abc import Sequence
from typing import Any

from cfg_jax import cli


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        '--model', '--workdir', required=True, help='a work directory, or an exported model'
    )
    parser.add_argument('--steps', type=cli.integer_list, default=(), help='of kept checkpoints')
    parser.add_argument(
        '--splits', type=cli.name_list, default=(), help='(train, and validation, val or test)'
    )
    parser.add_argument(
        '--num_images', type=cli.positive_number, default=5000, help='of each split (5,000)'
    )
    parser.add_argument(
        '--batch_size', type=cli.positive_number, default=128, help='images at once (128)'
    )
    parser.add_argument('--data', default='', help='where the data are, if not as in training')
    parser.add_argument('--seed', type=cli.seed, default=0, help='of noise levels and noise (0)')
    parser.add_argument('--out', default='', help='a JSON file for the results')
    options = parser.parse_args(argv)

    from cfg_jax import files, provenance
    from cfg_jax.training import held_out

    if options.out:
        files.check_writable(options.out)

    def keep(results: dict[str, Any]) -> None:
        if options.out:
            files.write_json(options.out, results | provenance.describe_environment())

    results = held_out.measure(
        options.model,
        steps=options.steps,
        splits=options.splits,
        count=options.num_images,
        batch_size=options.batch_size,
        data=options.data,
        seed=options.seed,
        on_row=keep,
    )
    print(held_out.table(results))
    if options.out:
        print(f'written to {options.out}')


if __name__ == '__main__':
    cli.run(main)
