"""Table 1 and Figure 4: FID and IS over w for p_uncond = 0.1, 0.2, 0.5; ImageNet 64x64.

    python experiments/table1.py --root=runs/table1 --inception=inception.npz \\
        --config.data.data_dir=/data/tfds                   (the paper's size; three long trainings)
    python experiments/table1.py --preset=digits --root=runs/table1-digits   (minutes on a laptop)

Trains three models, or resumes them, sweeps the 14 values of w, and writes ROOT/table.md,
curves.png and results.json: ours, the paper's, the difference. Every finished shard is kept; call
it again after any interruption. Several machines may share ROOT: --only=0.2 takes one column,
--w=0,0.1 some cells (of a model that is trained); whoever ends last writes the whole table.

The paper does not say T for this table: sampler.num_steps, 256 here, its good balance at 128x128.
Other gaps and what fills them: the header of configs/imagenet64.py.
"""

from collections.abc import Sequence

from shared_parts import presets

from cfg_jax import cli

P_UNCOND = (0.1, 0.2, 0.5)


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    cli.add_pdf_option(parser)
    presets.add_options(parser)
    parser.add_argument('--root', default='runs/table1', help='where everything is written')
    parser.add_argument('--only', type=cli.number_list, default=(), help='such as 0.1,0.5')
    parser.add_argument('--w', type=cli.number_list, default=(), help='cells of this job')
    cli.add_process_options(parser)
    options, overrides = cli.split_config(parser, argv)
    presets.refuse(overrides, {'p_uncond': 'the columns have their own (--only)'})
    cli.start_processes(options, options.root)

    from shared_parts import paper
    from tables_parts import layout

    from cfg_jax import files

    root = files.as_path(options.root)
    columns = []
    for p_uncond in P_UNCOND:
        trained = presets.load(options, 'imagenet64.py', overrides)
        trained.p_uncond = p_uncond
        config = trained.copy_and_resolve_references()
        config.sweep.w = options.w or config.sweep.w
        workdir = root / f'p_uncond_{p_uncond:g}'
        columns.append(layout.Column(p_uncond, p_uncond, trained, config, workdir, 'table1'))
    presets.check_metrics(columns[0].config)
    title = f'Table 1: {columns[0].config.data.name}, by p_uncond'
    layout.run(root, title, paper.load('table1'), columns, options)


if __name__ == '__main__':
    cli.run(main)
