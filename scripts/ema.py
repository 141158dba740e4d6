"""Reconstructs averages of parameters of any length from what training kept, as exported files.

    python scripts/train.py --config=configs/digits.py --workdir=runs/x \\
        --config.train.averages_every=50
    python scripts/ema.py runs/x --sigma_rel=0.03,0.07,0.15
    python scripts/sweep.py --model=runs/x --ema=0.03,0.07,0.15      (all of them, without files)

The length sigma_rel is the deviation of the power-function profile as a share of the training
(Karras et al. 2024); a run of t steps averages over about sigma_rel t of them. Writes
WORKDIR/ema/sigma_rel_LENGTH-stepN.safetensors, which takes the place of a work directory in
sample.py, sweep.py and cfg_jax.load(). The line that it prints says how well the profile is met;
more frequent averages in training meet it better.
"""

from collections.abc import Sequence

from cfg_jax import cli


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('workdir', metavar='WORKDIR', help='of a training with averages')
    parser.add_argument(
        '--sigma_rel', type=cli.number_list, required=True, help='lengths, in (0, 0.28]'
    )
    parser.add_argument('--step', type=cli.natural_number, help='of the averages (the last)')
    options = parser.parse_args(argv)

    from cfg_jax import files, loading
    from cfg_jax.training import export, starting

    workdir = files.as_path(options.workdir)
    starts, names = starting.starts_of(workdir), loading.class_names_of(workdir)
    for sigma_rel in options.sigma_rel:
        params, config, provenance = loading.load_params(workdir, step=options.step, ema=sigma_rel)
        step = provenance['checkpoint_step']
        out = workdir / 'ema' / f'sigma_rel_{sigma_rel:g}-step{step}.safetensors'
        export.write_model(
            out,
            params,
            config,
            step,
            starts=starts,
            class_names=names,
            weights=provenance['weights'],
        )
        print(f'written to {out}')


if __name__ == '__main__':
    cli.run(main)
