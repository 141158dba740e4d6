"""How fast a config trains on this machine: images/s, TFLOP/s, memory, time to compile.

    python scripts/bench_train.py --config=configs/imagenet64.py --batch_sizes=64,128,256
    python scripts/bench_train.py --config=configs/digits.py --input --out=bench.json

Whole steps: Algorithm 1, gradient, clip, Adam, EMA. --batch_sizes are images of all devices in one
pass, tried in turn until one does not fit; the largest that fits gives the `grad_accum` with which
the config's own batch fits. --input measures the config's input pipeline in front of the steps too;
--profile lists the kernels that take most of each size's time. The last line printed is JSON; --out
writes it to a file.
"""

import json
from collections.abc import Sequence

from cfg_jax import cli
from cfg_jax.errors import UserError


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        '--batch_sizes', type=cli.integer_list, help="such as 64,128,256; the config's"
    )
    parser.add_argument('--steps', type=cli.positive_number, default=10, help='in a round')
    parser.add_argument('--rounds', type=cli.positive_number, default=5, help='timed')
    parser.add_argument('--input', action='store_true', help='with the input pipeline too')
    parser.add_argument('--profile', action='store_true', help='kernels by time')
    parser.add_argument('--out', default='', help='a file for the JSON')
    options, config = cli.parse_with_config(parser, argv)

    import jax

    from cfg_jax import (
        config as config_lib,
        files,
        provenance,
    )
    from cfg_jax.data import sources
    from cfg_jax.perf import benchmark

    if options.out:
        files.check_writable(options.out)
    # All of it before the first measurement, which may take a while.
    sizes = options.batch_sizes or (config.train.batch_size,)
    configs = [of_size(config, size) for size in sizes]
    for tried in configs:
        config_lib.validate(tried)
        config_lib.check_devices(tried, jax.device_count())
    if options.input:
        sources.data_source(config.data, config.data.split)
    rows = []
    for size, tried in zip(sizes, configs, strict=True):
        try:
            row = benchmark.training(tried, options.steps, options.rounds, profile=options.profile)
        except jax.errors.JaxRuntimeError as error:
            if not benchmark.is_out_of_memory(error):
                raise
            print(f'{size} images do not fit')
            break
        rows.append(row)
        print(line(row), flush=True)
        for kernel in row.get('kernels', ()):
            print('  {share:6.1%} {milliseconds:9.2f} ms {calls:6d} x {kernel}'.format(**kernel))
    if not rows:
        raise UserError(f'{size} images do not fit; name smaller ones in --batch_sizes')
    result = {'command': ['scripts/bench_train.py', *argv], 'training': rows}
    result['config'] = config_lib.to_json(config)
    most = max(row['batch_size'] for row in rows)
    result['fits'] = fitting(config.train.batch_size, most, jax.device_count())
    if options.input:
        result['with_input'] = with_input(config, rows, options)
        print(f'with the input pipeline: {line(result["with_input"])}')
    result |= provenance.describe_environment()
    if options.out:
        files.write_json(options.out, result)
    print(json.dumps(result))


def of_size(config, size: int):
    """The config with `size` images of all devices in one pass."""
    copy = config.copy_and_resolve_references()
    copy.train.batch_size, copy.train.grad_accum = size, 1
    return copy


def fitting(batch_size: int, fits: int, devices: int) -> dict[str, int]:
    """How the config's batch is cut where `fits` images fit on all devices at once."""
    of_device = batch_size // devices
    parts = range(-(-batch_size // fits), of_device)
    accum = next((number for number in parts if of_device % number == 0), of_device)
    return {'batch_size': batch_size, 'grad_accum': accum, 'images_at_once': batch_size // accum}


def with_input(config, rows: Sequence[dict], options) -> dict:
    """The fastest batch again, with batches of the input pipeline."""
    import contextlib

    from cfg_jax.data import pipeline
    from cfg_jax.perf import benchmark

    best = max(rows, key=lambda row: row['images_per_second'])
    batches = pipeline.TrainingBatches(config.data, batch_size=best['batch_size'], seed=config.seed)
    with contextlib.closing(batches):
        config = of_size(config, best['batch_size'])
        return benchmark.training(config, options.steps, options.rounds, batches)


def line(row: dict) -> str:
    """A row for people."""
    share = f' ({row["share_of_peak"]:.1%} of the peak)' if 'share_of_peak' in row else ''
    return (
        f'batch {row["batch_size"]}: {row["images_per_second"]:,.1f} images/s,'
        f' {row["tflops"]:.3g} TFLOP/s{share}, {row["planned_memory_gib"]:.2f} GiB a device,'
        f' compiled in {row["compile_seconds"]:.0f} s'
    )


if __name__ == '__main__':
    cli.run(main)
