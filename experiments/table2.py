"""Table 2 and Figure 5: FID and IS over w for T = 128, 256, 1024; ImageNet 128x128.

    python experiments/table2.py --root=runs/table2 --inception=inception.npz \\
        --config.data.data_dir=/data/tfds                      (the paper's size; one long training)
    python experiments/table2.py --preset=digits --root=runs/table2-digits   (minutes on a laptop)

Trains one model, or resumes it, sweeps the 14 values of w with three numbers of sampling steps, and
writes ROOT/table.md, curves.png and results.json: ours, the paper's, the difference. Every finished
shard is kept; call it again after any interruption. Once the model is trained several machines may
share ROOT: --only=1024 takes one column, --w=0,0.1 some cells; whoever ends last writes the whole
table. The small presets take T = 4, 8, 32 for the paper's 128, 256, 1024.

The paper does not say p_uncond for this table: p_uncond, 0.1 here. Other gaps and what fills them:
the header of configs/imagenet128.py.
"""

from collections.abc import Sequence

from shared_parts import presets

from cfg_jax import cli

STEPS = (128, 256, 1024)
SMALL_STEPS = (4, 8, 32)


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    cli.add_pdf_option(parser)
    presets.add_options(parser)
    parser.add_argument('--root', default='runs/table2', help='where everything is written')
    parser.add_argument('--only', type=cli.number_list, default=(), help='such as 128,256')
    parser.add_argument('--w', type=cli.number_list, default=(), help='cells of this job')
    cli.add_process_options(parser)
    options, overrides = cli.split_config(parser, argv)
    presets.refuse(overrides, {'sampler.num_steps': 'the columns have their own (--only)'})
    cli.start_processes(options, options.root)

    from shared_parts import paper
    from tables_parts import layout

    from cfg_jax import files

    root = files.as_path(options.root)
    toy = options.preset != 'paper'
    columns = []
    for steps, paper_steps in zip(SMALL_STEPS if toy else STEPS, STEPS, strict=True):
        trained = presets.load(options, 'imagenet128.py', overrides)
        config = trained.copy_and_resolve_references()
        config.sampler.num_steps = steps
        config.sweep.w = options.w or config.sweep.w
        name = f'table2-T{steps}'
        columns.append(layout.Column(steps, paper_steps, trained, config, root / 'model', name))
    presets.check_metrics(columns[0].config)
    title = f'Table 2: {columns[0].config.data.name}, by T'
    layout.run(root, title, paper.load('table2'), columns, options)


if __name__ == '__main__':
    cli.run(main)
