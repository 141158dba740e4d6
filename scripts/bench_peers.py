"""Ours and openai/guided-diffusion's U-Net in PyTorch, one after the other on this machine.

    git clone https://github.com/openai/guided-diffusion /tmp/guided-diffusion
    python scripts/bench_peers.py --peer=/tmp/guided-diffusion --config=configs/digits.py \\
        --train_batch=128 --sample_batch=250 --num_steps=20
    python scripts/bench_peers.py --peer=/tmp/guided-diffusion --config=configs/imagenet64.py \\
        --train_batch=128 --sample_batch=128 --num_steps=16 --out=results/bench/h200

The same shapes, hyper-parameters and weights; the largest difference of the two outputs is printed.
Training is Algorithm 1's whole step on random images, sampling Algorithm 2 with both branches in
one batch. Each side runs in a process of its own, --repeats times by turns; the medians of its
rounds are compared. Writes OUT/peers.json and OUT/table.md. --python is an interpreter with
PyTorch, which need not have JAX.
"""

import concurrent.futures
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cfg_jax import (
    cli,
    config as config_lib,
    files,
)
from cfg_jax.errors import UserError

VARIANTS = ('eager', 'tuned', 'compile')
WORK = ('training', 'sampling')
SAME = 1e-3  # of the largest output; in float32 they differ by a thousandth of that


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    number = cli.positive_number
    parser.add_argument('--peer', required=True, help='a checkout of openai/guided-diffusion')
    parser.add_argument('--python', default=sys.executable, help='an interpreter with PyTorch')
    parser.add_argument('--out', default='runs/bench_peers', help='where the results go')
    parser.add_argument('--train_batch', type=number, default=8, help='images (8)')
    parser.add_argument('--sample_batch', type=number, default=8, help='images (8)')
    parser.add_argument('--num_steps', type=number, default=8, help='levels of a trajectory (8)')
    parser.add_argument('--steps', type=number, default=5, help='training steps in a round (5)')
    parser.add_argument('--rounds', type=number, default=3, help='timed rounds (3)')
    parser.add_argument('--repeats', type=number, default=2, help='of each side, by turns (2)')
    parser.add_argument(
        '--variants', type=cli.name_list, default=VARIANTS, help='of the peer: eager,compile'
    )
    parser.add_argument(
        '--work', type=cli.name_list, default=WORK, help='what is measured (training,sampling)'
    )
    options, config = cli.parse_with_config(parser, argv)
    check(parser, options, config)
    config.train.batch_size, config.train.grad_accum = options.train_batch, 1
    config.sweep.batch_size = options.sample_batch
    config.sampler.num_steps = options.num_steps
    config_lib.validate(config)
    with tempfile.TemporaryDirectory() as case:
        in_a_process(write_case, config_lib.to_json(config), vars(options), case)
        turns: list[dict] = []
        for _ in range(options.repeats):
            turns.append(our_turn(config_lib.to_json(config), vars(options)))
            write(options.out, argv, turns)
            turns.append(theirs(options, case))
            write(options.out, argv, turns)
    print(table(compare(turns)), end='')


def check(parser: cli.Parser, options, config) -> None:
    """Ends at what makes no sense, or is not the same on both sides."""
    if not (Path(options.peer) / 'guided_diffusion' / 'unet.py').is_file():
        parser.error(f'--peer={options.peer} is not a checkout of openai/guided-diffusion')
    if unknown := set(options.variants) - set(VARIANTS):
        parser.error(f'--variants are out of {", ".join(VARIANTS)}; got {unknown.pop()}')
    if not options.work or set(options.work) - set(WORK):
        parser.error(f'--work is out of {", ".join(WORK)}; got {",".join(options.work) or "none"}')
    if config.model.kind != 'unet':
        parser.error(f'{options.config} is a classifier; the peer measured here is a U-Net')
    peers = {
        'model.resblock_updown': True,
        'model.scale_shift_norm': True,
        'model.remat': 'none',
        'model.patch': 1,
        'sampler.name': 'ancestral',
        'sampler.clip': True,
        'sampler.grid': 'schedule',
        'sampler.options': '',
        'train.optimizer': 'adam',
        'train.averages_every': 0,
        'train.weight_decay': 0.0,
        'train.anneal_steps': 0,
        'condition': 'label',
        'target': 'eps',
        'loss_weighting': 'eps',
        'diffusion.schedule': 'cosine',
        'diffusion.scaling': 'variance_preserving',
        'guidance.rule': 'classifier_free',
    }
    ours = dict(config_lib.flatten(config))
    for name, value in peers.items():
        if ours[name] != value:
            parser.error(f'the peer has {name}={value} only; got {ours[name]}')
    files.check_writable(files.as_path(options.out) / 'peers.json')
    try:
        torch = subprocess.run(
            [options.python, '-c', 'import torch'], capture_output=True, check=False
        )
    except OSError as error:
        parser.error(f'--python={options.python}: {error.strerror}')
    if torch.returncode:
        parser.error(f'--python={options.python} has no PyTorch; name an interpreter that has')


def write(out: str, argv: Sequence[str], turns: Sequence[dict]) -> None:
    """OUT/peers.json and OUT/table.md of the turns so far; a later one may fail."""
    compared = compare(turns)
    result = {'command': ['scripts/bench_peers.py', *argv], 'turns': turns, 'compared': compared}
    files.write_json(files.as_path(out) / 'peers.json', result)
    files.write_bytes(files.as_path(out) / 'table.md', table(compared).encode())
    print(json.dumps(turns[-1]), flush=True)


def in_a_process(function, *args) -> Any:
    """Calls it in a new process, where JAX starts again and gives the device back at the end."""
    spawn = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *args).result()


def write_case(values: dict, options: dict, case: str) -> None:
    """CASE/case.json and case.npz: shapes, our parameters, an input, and our output for it."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from cfg_jax.models import networks
    from cfg_jax.perf import benchmark

    config = config_lib.from_json(values)
    # Compared in float32, whatever type is timed.
    exact = config.copy_and_resolve_references()
    exact.model.dtype = 'float32'
    params = benchmark.random_params(exact)
    rng = np.random.default_rng(0)
    data = config.data
    z = rng.normal(size=(2, data.image_size, data.image_size, data.channels)).astype(np.float32)
    logsnr = np.asarray(networks.make_schedule(config)(jnp.asarray([0.2, 0.7])), np.float32)
    label = np.asarray([0, data.num_classes], np.int32)
    with jax.default_matmul_precision('highest'):
        eps = jax.jit(networks.make_unet(exact).apply)(params, z, logsnr, label)
    arrays = {'z': z, 'logsnr': logsnr, 'label': label, 'eps': np.asarray(eps)}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        arrays['/'.join(key.key for key in path)] = np.asarray(leaf)
    np.savez(Path(case) / 'case.npz', **arrays)
    shapes = {
        **config.model.to_dict(),
        **{key: data[key] for key in ('image_size', 'channels', 'num_classes')},
        **config.diffusion.to_dict(),
        **{key: config.train[key] for key in ('learning_rate', 'beta1', 'beta2', 'adam_eps')},
        **{key: config.train[key] for key in ('grad_clip', 'ema_decay')},
        **{key: options[key] for key in ('train_batch', 'sample_batch', 'steps', 'rounds', 'work')},
        'num_steps': options['num_steps'],
        'v': config.sampler.v,
        'w': 1.0,
        'p_uncond': config.p_uncond,
    }
    (Path(case) / 'case.json').write_text(json.dumps(shapes))


def our_turn(values: dict, options: dict) -> dict:
    """Our rates, each work in a process as the commands for it start one, and on what."""
    rates, environment = {}, {}
    for work in options['work']:
        rates[work], environment = in_a_process(ours, work, values, options)
    return {'variants': {'ours': rates}} | environment


def ours(work: str, values: dict, options: dict) -> tuple[dict, dict]:
    """The rates of one kind of work, and what they were measured on.

    Raises:
      UserError: several devices, where the peer has one.
    """
    import jax

    from cfg_jax import provenance
    from cfg_jax.perf import benchmark

    if jax.device_count() != 1:
        raise UserError('the peer runs on one device; set CUDA_VISIBLE_DEVICES=0')

    config = config_lib.from_json(values)
    if work == 'sampling':
        rates = benchmark.Sampling(config).measure(1.0, options['rounds'])
    else:
        rates = benchmark.training(config, options['steps'], options['rounds'])
    return rates, provenance.describe_environment()


def theirs(options, case: str) -> dict:
    """The peer's rates.

    Raises:
      UserError: its process failed, or its U-Net computes something else than ours.
    """
    command = [options.python, str(Path(__file__).with_name('torch_peer.py'))]
    command += [f'--peer={options.peer}', f'--case={case}']
    command += [f'--variants={",".join(options.variants)}']
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UserError(
            f'{" ".join(command)} ended with status {done.returncode}, see above; --python names an'
            ' interpreter with PyTorch'
        )
    turn = json.loads(done.stdout.splitlines()[-1])
    for name, measured in turn['variants'].items():
        if measured['max_difference'] > SAME:
            raise UserError(
                f'{name} computes something else: it differs by {measured["max_difference"]:.1e}'
            )
    return turn


def compare(turns: Sequence[dict]) -> dict[str, dict[str, Any]]:
    """Per variant the median images/s over all rounds of all turns, and ours over each."""
    rounds: dict[str, dict[str, list[float]]] = {}
    differences = {}
    for turn in turns:
        for name, measured in turn['variants'].items():
            for work in filter(measured.__contains__, WORK):
                rates = rounds.setdefault(name, {}).setdefault(work, [])
                rates += measured[work]['rounds']
            if 'max_difference' in measured:
                differences[name] = measured['max_difference']
    medians = {
        name: {work: statistics.median(rates) for work, rates in by_work.items()}
        for name, by_work in rounds.items()
    }
    return {
        name: {
            **median,
            **{
                f'ours_over_it_{work}': medians['ours'][work] / rate
                for work, rate in median.items()
            },
            'max_difference': differences.get(name, 0.0),
        }
        for name, median in medians.items()
    }


def table(compared: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row per variant."""
    lines = [
        '| | training images/s | ours is | guided images/s | ours is | output differs by |',
        '|---|---|---|---|---|---|',
    ]
    for name, row in compared.items():
        cells = ['ours (JAX)' if name == 'ours' else f'guided-diffusion, {name}']
        for work in WORK:
            measured = work in row
            cells.append(f'{row[work]:.4g}' if measured else '-')
            cells.append(f'{row[f"ours_over_it_{work}"]:.2f} x' if measured else '-')
        lines.append(f'| {" | ".join(cells)} | {row["max_difference"]:.1e} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    cli.run(main)
