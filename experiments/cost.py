"""What Tables 1 and 2 of the paper cost: device-days, kWh, and how that scales with devices.

    python experiments/cost.py                                  # writes experiments/cost.md
    python experiments/cost.py --measured=results/bench/h100/train.json

Operations are counted (cfg_jax/perf/cost.py). A throughput is estimated as a share of a chip's
peak, --utilisation, or measured: --measured takes files of scripts/bench_train.py. An evaluation in
the sweep takes a third of a training image. kWh are device-days times the makers' board power,
without hosts and cooling. All-reduce: 4 bytes a parameter, (n - 1) / n of them twice over
--allreduce GB/s, nothing overlapped.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shared_parts import paper

from cfg_jax import cli, config as config_lib, config_files, files
from cfg_jax.errors import UserError
from cfg_jax.perf.accelerators import ACCELERATORS, of_device

CHIPS = {name: ACCELERATORS[name] for name in ('v100', 'a100', 'h100', 'h200')}
DEVICES = (1, 8, 32, 128)
_ROOT = Path(__file__).resolve().parents[1]


class Job(NamedTuple):
    """A table of the paper.

    Attributes:
      models: trained for it.
      adm_rate: images/s of one V100 that ADM's authors give for this size (their Table 7,
        optimised); the paper's authors do not say what theirs cost.
    """

    table: str
    config: str
    models: int
    adm_rate: float


JOBS = (
    Job('table1', 'configs/imagenet64.py', 3, 74.1),
    Job('table2', 'configs/imagenet128.py', 1, 24.8),
)


class Work(NamedTuple):
    """What a job needs, in images and in evaluations of the network."""

    job: Job
    forward_flops: int
    parameters: int
    batch_size: int
    training_images: int
    sweep_nfe: int

    def days(self, images_per_second: float) -> tuple[float, float]:
        """Device-days of training and of the sweep."""
        seconds = self.training_images / images_per_second
        return seconds / 86400, self.sweep_nfe / (3 * images_per_second) / 86400


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--out', default=str(_ROOT / 'experiments' / 'cost.md'))
    parser.add_argument(
        '--utilisation', type=cli.positive_real, default=0.4, help='share of the peak (0.4)'
    )
    parser.add_argument(
        '--allreduce', type=cli.positive_real, default=100.0, help='GB/s, assumed (100)'
    )
    parser.add_argument('--measured', nargs='*', default=(), help='JSON of bench_train.py')
    options = parser.parse_args(argv)
    if options.utilisation > 1:
        parser.error(
            f'--utilisation is a share of the peak, at most 1; got {options.utilisation:g}'
        )
    files.check_writable(options.out)
    measured = [read_measured(path) for path in options.measured]
    for path, result in zip(options.measured, measured, strict=True):
        if not any(same_network(result['config'], job.config) for job in JOBS):
            raise UserError(f'{path} is of another network than those of the tables')
    works = [work_of(job) for job in JOBS]
    text = '\n'.join(
        [
            '# What the tables cost',
            '',
            f'Written by `python experiments/cost.py {" ".join(argv)}`'.rstrip(' `') + '`.',
            '',
            *costs(works, options.utilisation, measured),
            '',
            *scaling(works, options.utilisation, options.allreduce),
        ]
    )
    files.write_bytes(options.out, f'{text}\n'.encode())
    print(text)


def work_of(job: Job) -> Work:
    """Counted for a job: nothing is run."""
    from cfg_jax.perf import cost
    from cfg_jax.settings import make_rule

    config = config_files.load_config(_ROOT / job.config)
    rule = make_rule(config)
    table = paper.load(job.table)
    nfe = 0
    for column, rows in table.rows.items():
        steps = int(column) if table.columns == 'T' else config.sampler.num_steps
        nfe += steps * sum(rule.nfe_per_level(row['w']) for row in rows)
    described = cost.describe(config)
    return Work(
        job,
        round(described['forward_gflop_per_image'] * 1e9),
        described['parameters'],
        config.train.batch_size,
        job.models * described['training_images'],
        config.sweep.num_samples * nfe,
    )


def costs(works: Sequence[Work], utilisation: float, measured: Sequence[dict]) -> list[str]:
    """A row per table and throughput."""
    lines = [
        '| table | throughput | training images/s | device-days training | sweep | kWh |',
        '|---|---|---|---|---|---|',
    ]
    for work in works:
        rates = [('v100', "V100, ADM's paper (Table 7)", work.job.adm_rate)]
        for name, chip in CHIPS.items():
            flops = utilisation * chip.peak_tflops * 1e12
            label = f'{name.upper()}, {utilisation:.0%} of the peak, estimated'
            rates.append((name, label, flops / (3 * work.forward_flops)))
        for result in measured:
            if same_network(result['config'], work.job.config):
                kind = result['device']['kind']
                name = next((name for name, chip in CHIPS.items() if chip is of_device(kind)), '')
                best = max(row['images_per_second'] for row in result['training'])
                rates.append((name, f'{kind}, measured', best / result['device']['count']))
        for name, label, rate in rates:
            training, sweep = work.days(rate)
            kwh = f'{(training + sweep) * 24 * CHIPS[name].watts / 1000:,.0f}' if name else '-'
            lines.append(
                f'| {work.job.table} | {label} | {rate:,.1f} | {training:,.1f} | {sweep:,.1f}'
                f' | {kwh} |'
            )
    return lines


def read_measured(path: str) -> dict[str, Any]:
    """What bench_train.py wrote.

    Raises:
      UserError: another file.
    """
    try:
        result = json.loads(files.as_path(path).read_text())
        if result['training'] and result['config'] and result['device']:
            return result
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f'{path} is not what scripts/bench_train.py --out writes')


def same_network(measured: dict[str, Any], path: str) -> bool:
    """Whether a measured config is the network and the images of the one at `path`, however it is
    computed."""
    images = ('image_size', 'channels', 'num_classes')
    computed = dict.fromkeys(('remat', 'attention'))
    ours, theirs = (
        (config.model.to_dict() | computed, [config.data[name] for name in images])
        for config in (config_files.load_config(_ROOT / path), config_lib.from_json(measured))
    )
    return ours == theirs


def scaling(works: Sequence[Work], utilisation: float, allreduce: float) -> list[str]:
    """Days of one model's training on many H200, ideal and with the gradients' all-reduce."""
    lines = [
        f'One model on many H200 at {utilisation:.0%} of the peak; all-reduce at an assumed'
        f' {allreduce:g} GB/s (none has been measured):',
        '',
        '| table | devices | images a device | days, ideal | days with all-reduce | efficiency |',
        '|---|---|---|---|---|---|',
    ]
    for work in works:
        rate = utilisation * CHIPS['h200'].peak_tflops * 1e12 / (3 * work.forward_flops)
        steps = work.training_images / work.job.models / work.batch_size
        for count in DEVICES:
            compute = work.batch_size / count / rate
            reduce = 2 * (count - 1) / count * 4 * work.parameters / (allreduce * 1e9)
            ideal, real = (steps * seconds / 86400 for seconds in (compute, compute + reduce))
            lines.append(
                f'| {work.job.table} | {count} | {work.batch_size / count:g} | {ideal:.2f}'
                f' | {real:.2f} | {ideal / real:.1%} |'
            )
    return lines


if __name__ == '__main__':
    cli.run(main)
