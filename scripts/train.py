"""Trains a classifier-free guided diffusion model, or goes on with one.

    python scripts/train.py --config=configs/digits.py --workdir=runs/digits
    python scripts/train.py --config=configs/imagenet64.py --workdir=gs://bucket/in64 \\
        --config.p_uncond=0.2 --config.data.data_dir=/data/tfds

Writes into the work directory: config.json, checkpoints/, metrics.jsonl (loss, loss per log-SNR
bin, norms, images/s) and samples/ (a row per class; w = 0, 1, 3). Run the same command again to
resume from the newest checkpoint.
"""

from collections.abc import Sequence

from cfg_jax import commands


def main(argv: Sequence[str]) -> None:
    parser = commands.Parser(__doc__)
    parser.add_argument('--workdir', required=True, help='a local path or gs://')
    options, config = commands.parse_with_config(parser, argv)

    from cfg_jax import training  # after the checks: Orbax, TFDS and Grain are slow to import

    training.train(config, options.workdir)


if __name__ == '__main__':
    commands.run(main)
