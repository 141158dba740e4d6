"""Writes a trained model as one safetensors file, with its config, step and hashes inside.

    python scripts/export.py --model=runs/digits --out=digits.safetensors

The file takes the place of a work directory in sample.py, sweep.py and cfg_jax.load(). It holds the
EMA parameters, rounded to half the bytes with --dtype=bfloat16; tensors are named by their path in
the network (docs/extending.md). MODEL_CARD.md is written beside it: what the model is, how it was
trained, how to sample it, and its sweeps' tables. An imported model keeps the record of its origin
and licence.
"""

from collections.abc import Sequence

from cfg_jax import cli


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        '--model', '--workdir', required=True, help='a work directory, or a file of a model'
    )
    parser.add_argument('--step', type=cli.natural_number, help='of the checkpoint (the newest)')
    parser.add_argument('--out', required=True, help='a .safetensors file')
    parser.add_argument(
        '--dtype', choices=('float32', 'bfloat16'), default='float32', help='of the file (float32)'
    )
    options = parser.parse_args(argv)

    from cfg_jax import files, loading
    from cfg_jax.evaluation import sweep
    from cfg_jax.report import card
    from cfg_jax.training import export, starting

    export.check_suffix(options.out)
    files.check_writable(options.out, source=options.model)
    params, config, provenance = loading.load_params(options.model, step=options.step)
    step = provenance['checkpoint_step']
    metadata = export.write_model(
        options.out,
        params,
        config,
        step,
        options.dtype,
        starts=starting.starts_of(options.model),
        source=provenance.get('source'),
        class_names=loading.class_names_of(options.model),
        weights=provenance['weights'],
    )
    if metadata['weights_sha256'] != provenance['weights_sha256']:
        print('the card has no sweeps: theirs were of the weights before rounding')
    sweeps = []
    if not export.is_published(options.model):  # which nothing sweeps
        sweeps = card.sweeps_of(sweep.workdir_of(options.model), metadata['weights_sha256'])
    written = card.write(options.out, params, config, metadata, sweeps)
    print(f'model card written to {written}')
    what = options.model if 'source' in metadata else f'step {step} of {options.model}'
    print(f'{what} written to {options.out}')


if __name__ == '__main__':
    cli.run(main)
