"""The paper's findings on real photographs: Tiny ImageNet at 64x64, a model of half an hour.

    python experiments/tiny_imagenet64.py --data=tiny_imagenet64/1.0.0 \\
        --inception=inception768.npz --googlenet=googlenet.npz --root=runs/tiny --minutes=20
    the same with --preset=toy       (every path of it on a CPU, in minutes; nothing is learned)

Trains configs/tiny_imagenet64.py for --minutes, or continues it, and measures --parts:

  train       alone: trains and measures nothing, for a machine lent for minutes
  sweep       the paper's 14 w; for scale real images, a second seed and an untrained network
  steps       the config's sampler, a quarter of its NFE, DDIM at a quarter
  p_uncond    models of p_uncond = 0.1, 0.2, 0.5     T    a quarter, half and all of the steps
  branches    the same for less: each for --branch_steps from the main model's weights
  rules       guidance interval, projected guidance, autoguidance
  classifier  classifier guidance

Training stops at --minutes with everything saved; the same command trains on, for as long again,
and measures the checkpoint that it reaches, as ROOT/results/model-STEP.safetensors: EMA weights in
bfloat16, which --model=FILE measures anywhere, without training. --minutes=0 measures what there
is. What is finished is kept in ROOT; ROOT/results holds what is worth publishing. --judge=RUN adds
the scores of a classifier of the data set's own classes (configs/tiny_imagenet32.py:judge).
"""

from collections.abc import Sequence

from tiny_imagenet64_parts import sizes

from cfg_jax import cli, files
from cfg_jax.errors import UserError

COMPARED_W = (0.0, 0.1, 0.3, 1.0, 4.0)
PARTS = ('train', 'sweep', 'steps', 'p_uncond', 'branches', 'T', 'rules', 'classifier')


def main(argv: Sequence[str]) -> None:
    options, overrides = parse(argv)

    from tiny_imagenet64_parts import (
        budget as budget_lib,
        exported,
        extractor as extractor_lib,
        parts as part_lib,
        pictures,
        publication,
        rows,
    )

    from cfg_jax import loading
    from cfg_jax.data import sources
    from cfg_jax.perf import xla

    root = files.as_path(options.root)
    out = files.as_path(options.out) if options.out else root / 'results'
    # Several compilations of minutes, the same in every call on a machine.
    xla.keep_compilations(root, on_cpu=True)
    config = sizes.load(options, options.config, overrides)
    count, classes = sizes.reference_count(options), sources.label_names(options.data)
    rows.check_counts(config.sweep.num_samples, count)
    if options.label is not None and options.label >= len(classes):
        raise UserError(
            f'--label={options.label} is not a class; classes are 0..{len(classes) - 1}'
        )
    of_data = [override for override in overrides if override.startswith('--config.data.')]
    judge = extractor_lib.Judge(options.judge, config) if options.judge else None
    extractor = extractor_lib.load(
        options.inception, options.googlenet, classes, config.sweep.dtype, judge
    )
    if options.guide:
        loading.read_config(options.guide)  # a wrong path must not wait for work
    budget = budget_lib.Budget(options.minutes)
    if options.model:
        path = files.as_path(options.model)
        exported.check(path, loading.read_config(path), config, exported.OF_TRAINING)
    else:
        budget_lib.train(config, root / 'model', budget)
        path = exported.of_workdir(root / 'model', out)
    model = loading.load(path, config=config)
    parts = [part for part in options.parts if part != 'train']
    if not parts:
        return
    references = rows.references(config, root, extractor, count)
    bench = part_lib.Bench(
        config=config,
        root=root,
        model=path,
        trained=not options.model,
        step=model.provenance()['checkpoint_step'],
        weights=options.w,
        load=lambda name: sizes.load(options, sizes.variant(options.config, name), of_data),
        guide=options.guide,
        branch_steps=options.branch_steps,
        curves=rows.Curves(root, extractor, references),
        budget=budget,
    )
    for part in parts:
        part_lib.measure(bench, part)
        if part == 'sweep':
            pictures.grids(out, model, options.label)
        table = publication.Publication(bench, out, argv).write()
    print(f'\n{table}')
    print(f'written to {out}')


def parse(argv: Sequence[str]):
    """Options and overrides.

    Raises:
      UserError: unknown ones, or values that make no sense.
    """
    parser = cli.Parser(__doc__)
    cli.add_pdf_option(parser)
    parser.add_argument('--data', required=True, help='directory of the prepared TFDS data set')
    parser.add_argument('--inception', required=True, help='.npz of scripts/convert_inception.py')
    parser.add_argument('--googlenet', required=True, help=".npz of BVLC GoogLeNet's weights")
    parser.add_argument('--root', default='runs/tiny_imagenet64', help='where everything is kept')
    parser.add_argument('--out', default='', help='what is worth publishing; ROOT/results')
    parser.add_argument(
        '--minutes', type=cli.real, default=20.0, help='of training in this call (20)'
    )
    parser.add_argument('--preset', choices=sizes.PRESETS, default='gpu')
    parser.add_argument('--config', default=sizes.CONFIG, help='of the main model')
    parser.add_argument('--parts', type=cli.name_list, default=('sweep',), help=', '.join(PARTS))
    parser.add_argument('--w', type=cli.number_list, default=COMPARED_W, help='of comparisons')
    parser.add_argument('--real', type=cli.natural_number, help='images a reference; 0: all')
    parser.add_argument(
        '--branch_steps', type=cli.positive_number, default=2000, help='of branches (2,000)'
    )
    parser.add_argument('--label', type=cli.natural_number, help='class of one_class.png')
    parser.add_argument('--model', default='', help='an exported model, in place of training one')
    parser.add_argument('--guide', default='', help='of autoguidance: a model')
    parser.add_argument('--judge', default='', help='a classifier, trained or exported')
    options, overrides = cli.split_config(parser, argv)
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown or not options.parts:
        raise UserError(f'--parts are out of {", ".join(PARTS)}; got {",".join(unknown) or "none"}')
    if options.model and 'train' in options.parts:
        raise UserError('--model is measured, not trained; leave train out of --parts')
    if files.is_remote(options.out or options.root):
        raise UserError('the results are written to this machine: give --out a local directory')
    if not 0 <= options.minutes < float('inf'):
        raise UserError(f'--minutes is a number of at least 0; got {options.minutes:g}')
    return options, overrides


if __name__ == '__main__':
    cli.run(main)
