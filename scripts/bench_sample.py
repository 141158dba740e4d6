"""How fast a config samples on this machine: w = 0, guided, guided in an interval, with features.

    python scripts/bench_sample.py --config=configs/imagenet64.py --config.sampler.num_steps=64
    python scripts/bench_sample.py --config=configs/digits.py --workdir=runs/quickstart --features

Whole trajectories with random parameters, `sweep.batch_size` images at a time, to uint8 on the
host, by turns, --rounds times. It prints what w = 0 costs of a guided image, and what guidance in
the middle half of the steps saves, next to the share of evaluations (nfe) it saves. --features also
runs the config's extractor on the device instead of fetching images, and reports what a sweep's
features and metrics add; the digits' classifier is taken from --workdir, or trained there. The last
line printed is JSON; --out writes it to a file.
"""

import json
import statistics
from collections.abc import Mapping, Sequence

from cfg_jax import cli

WITH_FEATURES = 'guided, with features'


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--w', type=cli.real, default=1.0, help='guidance weight (1)')
    parser.add_argument('--rounds', type=cli.positive_number, default=3, help='timed')
    parser.add_argument('--features', action='store_true', help='with features and metrics too')
    parser.add_argument('--workdir', default='runs/bench', help='where the extractor lies')
    parser.add_argument('--out', default='', help='a file for the JSON')
    options, config = cli.parse_with_config(parser, argv)
    if not options.w:
        parser.error('--w is not 0')
    if 'sampler' not in config:
        parser.error(f'{options.config} is a classifier: it samples nothing')

    from cfg_jax import (
        config as config_lib,
        files,
        provenance,
    )
    from cfg_jax.metrics.features import EXTRACTORS
    from cfg_jax.perf import benchmark

    if options.out:
        files.check_writable(options.out)
    rule, saved = benchmark.interval_rule(config)
    plain = benchmark.Sampling(config)
    trajectories = {
        'w = 0': benchmark.Trajectory(plain, 0.0),
        'guided': benchmark.Trajectory(plain, options.w),
        'interval': benchmark.Trajectory(
            benchmark.Sampling(config, rule), options.w, nfe_saved=saved
        ),
    }
    if options.features:
        workdir = files.as_path(options.workdir)
        extractor = EXTRACTORS.load(config.sweep.features)(config, workdir)
        trajectories[WITH_FEATURES] = benchmark.Trajectory(plain, options.w, extractor)
    rows = benchmark.by_turns(trajectories, options.rounds)
    for name, row in rows.items():
        print(line(name, row), flush=True)
    result = {
        'command': ['scripts/bench_sample.py', *argv],
        'config': config_lib.to_json(config),
        'sampling': rows,
        'unguided_over_guided': over_guided(rows, 'w = 0'),
        'interval_saves': 1.0 - over_guided(rows, 'interval'),
        'interval_saves_nfe': saved,
    }
    print(f'w = 0 takes {result["unguided_over_guided"]:.3f} of a guided image')
    print(f'the interval saves {result["interval_saves"]:.1%} of the time, {saved:.1%} of the nfe')
    if options.features:
        metrics = benchmark.metrics_milliseconds(config, extractor)
        result['features_add'] = over_guided(rows, WITH_FEATURES) - 1.0
        result['metrics_milliseconds'] = metrics
        result['metrics_add'] = metrics / rows['guided']['milliseconds']
        print(f'features add {result["features_add"]:.2%}, metrics {result["metrics_add"]:.2%}')
    result |= provenance.describe_environment()
    if options.out:
        files.write_json(options.out, result)
    print(json.dumps(result))


def over_guided(rows: Mapping[str, dict], name: str) -> float:
    """Time of a guided image that one of `name` takes: median over rounds, each by itself."""
    rounds = zip(rows['guided']['rounds'], rows[name]['rounds'], strict=True)
    return statistics.median(guided / rate for guided, rate in rounds)


def line(name: str, row: dict) -> str:
    """A row for people."""
    share = f' ({row["share_of_peak"]:.1%} of the peak)' if 'share_of_peak' in row else ''
    return (
        f'{name}: {row["images_per_second"]:,.2f} images/s at T = {row["num_steps"]},'
        f' {row["milliseconds"]:,.2f} ms an image, {row["tflops"]:.3g} TFLOP/s{share}'
    )


if __name__ == '__main__':
    cli.run(main)
