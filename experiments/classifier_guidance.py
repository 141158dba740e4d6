"""Classifier guidance, which classifier-free guidance replaced, next to it: quality and cost.

    python experiments/classifier_guidance.py --inception=inception.npz \\
        --config.data.data_dir=/data/tfds --classifier.data.data_dir=/data/tfds
    python experiments/classifier_guidance.py --preset=digits --root=runs/guidance-digits (a laptop)
    python experiments/classifier_guidance.py --model=runs/table1/p_uncond_0.1    (a trained model)

Both networks are trained, or resumed, by the same loop. Then, on one set of axes:

* classifier-free guidance over --w; w = 0 is plain class-conditional sampling;
* ADM's noisy classifier over --scales, guiding the conditional and the unconditional model, through
  the mean of ancestral transitions and through eps with DDIM;
* DDIM with classifier-free guidance, what the latter compares with;
* unconditional samples of which a classifier keeps the likeliest: the best N of R x N, --ratios.

Cost per image: evaluations of networks, classifier gradients, operations counted from the
computation itself, and measured seconds. Writes ROOT/table.md, tradeoff.png and results.json.
Samples are kept in ROOT; a killed run continues. The classifier-guided scale counts from the model
that is guided.
"""

from collections.abc import Sequence

from shared_parts import presets

from cfg_jax import cli

W = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
RATIOS = (1.0, 2.0, 4.0, 8.0)


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    cli.add_pdf_option(parser)
    presets.add_options(parser)
    parser.add_argument('--root', default='runs/classifier_guidance', help='what is written')
    parser.add_argument('--model', default='', help='work directory of the model; ROOT/model')
    parser.add_argument(
        '--classifier',
        default='',
        help='work directory of the noisy classifier; ROOT/noisy_classifier',
    )
    parser.add_argument(
        '--w', type=cli.number_list, default=W, help='weights of classifier-free guidance'
    )
    parser.add_argument(
        '--scales', type=cli.number_list, default=SCALES, help='scales of classifier guidance'
    )
    parser.add_argument(
        '--ratios', type=cli.number_list, default=RATIOS, help='samples per sample kept'
    )
    parser.add_argument(
        '--classifier.FIELD', metavar='VALUE', help="sets any field of the classifier's config"
    )
    of_classifier = [a for a in argv if a.startswith('--classifier.')]
    options, overrides = cli.split_config(parser, [a for a in argv if a not in of_classifier])
    if min(options.ratios) < 1.0:
        parser.error(
            f'--ratios are samples per sample kept, at least 1; got {min(options.ratios):g}'
        )
    own = ('sampler.name', 'sampler.options', 'guidance.rule', 'guidance.options')
    presets.refuse(
        overrides, dict.fromkeys(own, 'the curves have their own') | {'sweep.w': 'give --w'}
    )
    config = presets.load(options, 'imagenet64.py', overrides)
    presets.check_metrics(config)
    classifier_config = presets.load_classifier(
        options, [a.replace('--classifier.', '--config.', 1) for a in of_classifier]
    )

    from classifier_guidance_parts import methods, table

    from cfg_jax import files
    from cfg_jax.metrics.features import EXTRACTORS
    from cfg_jax.training import loop

    root = files.as_path(options.root)
    paths = methods.Workdirs(
        files.as_path(options.model or root / 'model'),
        files.as_path(options.classifier or root / 'noisy_classifier'),
    )
    extractor = EXTRACTORS.load(config.sweep.features)(config, root)
    loop.train(config, paths.model)
    loop.train(classifier_config, paths.classifier)
    curves = methods.curves(config, paths, options.w, options.scales)
    measured = [curve.measure(root, extractor) for curve in curves]
    measured.append(methods.filtered(config, paths, options.ratios, root, extractor))
    print('\n' + table.write(root, measured, config))
    print(f'written to {root}')


if __name__ == '__main__':
    cli.run(main)
