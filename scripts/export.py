"""Writes a trained model as one safetensors file, with its config, step and hashes inside.

    python scripts/export.py --model=runs/digits --out=digits.safetensors

The file takes the place of a work directory in sample.py, sweep.py and cfg_jax.load(). It holds the
EMA parameters; tensors are named by their path in the network (docs/extending.md). MODEL_CARD.md is
written beside it: what the model is, how it was trained, how to sample it, and its sweeps' tables.
"""

from collections.abc import Sequence

from cfg_jax import cli


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--model', '--workdir', required=True, help='a work directory')
    parser.add_argument('--step', type=cli.natural_number, help='of the checkpoint (the newest)')
    parser.add_argument('--out', required=True, help='a .safetensors file')
    options = parser.parse_args(argv)

    from cfg_jax import config as config_lib, loading
    from cfg_jax.provenance import describe_environment
    from cfg_jax.report import card
    from cfg_jax.training import export

    params, config, provenance = loading.load_params(options.model, step=options.step)
    metadata = {
        'config': config_lib.to_json(config),
        'step': provenance['checkpoint_step'],
        'weights_sha256': provenance['weights_sha256'],
        'versions': describe_environment()['versions'],
    }
    export.write(options.out, params, metadata)
    sweeps = card.sweeps_of(options.model, provenance['weights_sha256'])
    written = card.write(options.out, params, config, metadata, sweeps)
    print(f'model card written to {written}')
    print(f'step {metadata["step"]} of {options.model} written to {options.out}')


if __name__ == '__main__':
    cli.run(main)
