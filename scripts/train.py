"""Trains a classifier-free guided diffusion model, or resumes one.

    python scripts/train.py --config=configs/digits.py --workdir=runs/digits
    python scripts/train.py --config=configs/imagenet64.py --workdir=gs://bucket/in64 \\
        --config.p_uncond=0.2 --config.data.data_dir=/data/tfds

Writes into the work directory: config.json, checkpoints/, metrics.jsonl (loss, loss per log-SNR
bin, norms, images/s) and samples/ (ten classes; w = 0, 1, 3). Run the same command again to
resume from the newest checkpoint. SIGTERM finishes the step, saves and exits with status 75: start
the same command again. A checkpoint that cannot be read is set aside, and the one before is used.
--config.train.start_from=MODEL begins with the weights of another work directory or exported file,
which WORKDIR/started_from.json names; every process reads it (files of gs:// are copied first).

Many processes: the same command on each. TPU pods, Slurm and Open MPI are recognised; elsewhere
give --coordinator, --num_processes and --process_id. The batch size is of all of them together.
"""

from collections.abc import Sequence

from cfg_jax import cli


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--workdir', required=True, help='a local path or gs://')
    parser.add_argument(
        '--profile',
        type=cli.step_range,
        default=range(0),
        metavar='FIRST:LAST',
        help="steps of which JAX's profiler writes a trace to WORKDIR/profile, without LAST",
    )
    cli.add_process_options(parser)
    options, config = cli.parse_with_config(parser, argv)

    from cfg_jax.training import loop  # after the checks: Orbax, TFDS and Grain are slow to import

    cli.start_processes(options, options.workdir)
    loop.train(config, options.workdir, profile=options.profile)


if __name__ == '__main__':
    cli.run(main)
