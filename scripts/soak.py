"""Kills training and sweep at random moments, again and again, and compares the end bit for bit.

    python scripts/soak.py --root=runs/soak
    python scripts/soak.py --root=runs/soak2 --processes=2 --rounds=30

A small model of digits is trained and swept once without interruption. Then the same two commands
are started, killed with SIGKILL at a random moment (of starting, training, saving, sweeping) and
started again, --rounds times; whenever they come to their end, parameters, optimiser, data order,
random numbers (all in the checkpoint) and the sweep's table must equal the uninterrupted ones, and
the run starts from scratch. Exit status 1 at the first difference.
"""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cfg_jax import cli

_SCRIPTS = Path(__file__).resolve().parent
_LAST = 24
# Saving at every second step, so that a kill often strikes in the middle of it.
_CONFIG = {
    'model.width': 8,
    'model.norm_groups': 4,
    'model.head_channels': 8,
    'model.channel_mult': '(1,)',
    'model.attention_resolutions': '()',
    'train.steps': _LAST,
    'train.batch_size': 16,
    'train.log_every': 1,
    'train.checkpoint_every': 2,
    'train.sample_every': _LAST,
    'sampler.num_steps': 8,
    'sweep.w': '(0.0,1.0,4.0)',
    'sweep.num_samples': 60,
    'sweep.batch_size': 20,
    'sweep.shard_size': 20,
}


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--root', default='runs/soak', help='a new directory')
    parser.add_argument('--rounds', type=cli.positive_number, default=30, help='kills')
    parser.add_argument('--processes', type=cli.positive_number, default=1, help='of the run')
    parser.add_argument('--seed', type=cli.seed, default=0, help='of when processes are killed')
    options = parser.parse_args(argv)
    root = Path(options.root).expanduser().resolve()  # commands run in another directory
    if root.exists():
        parser.error(f'--root={root} is there already; name a new directory')
    root.mkdir(parents=True)
    cache = root / 'compilations'  # so that a round does not compile for most of its time
    environment = os.environ | {
        'JAX_COMPILATION_CACHE_DIR': str(cache),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'PYTHONUNBUFFERED': '1',
    }
    run_to_the_end(root / 'straight', options.processes, environment)
    started = time.monotonic()
    run_to_the_end(root / 'again', options.processes, environment)  # with all compiled
    length = time.monotonic() - started
    print(f'an uninterrupted run takes {length:.0f} s', flush=True)
    expected = fingerprint(root / 'straight')
    compare(root / 'again', expected)
    soak(root, options, environment, expected, length)


def soak(
    root: Path, options, environment: dict[str, str], expected: dict[str, str], length: float
) -> None:
    """Kills within `length` seconds, restarts and compares."""
    moments = random.Random(options.seed)
    kills = ends = 0
    while kills < options.rounds:
        workdir = root / 'killed'
        for command in job(workdir):
            # Half the time of both, because each is a part of it.
            while not run(
                command,
                options.processes,
                environment,
                moments.uniform(0, length / 2) if kills < options.rounds else None,
            ):
                kills += 1
                print(f'kill {kills} of {options.rounds}: {state_of(workdir)}', flush=True)
        compare(workdir, expected)
        ends += 1
        shutil.rmtree(workdir)
    print(f'{kills} kills, {ends} ends, all bit for bit the uninterrupted run')


def job(workdir: Path) -> list[list[str]]:
    """The two commands."""
    changes = [f'--config.{field}={value}' for field, value in _CONFIG.items()]
    train = ['train.py', '--config=configs/digits.py', f'--workdir={workdir}', *changes]
    return [train, ['sweep.py', f'--workdir={workdir}', '--name=soak']]


def run_to_the_end(workdir: Path, processes: int, environment: dict[str, str]) -> None:
    """Both commands, uninterrupted."""
    for command in job(workdir):
        run(command, processes, environment, None)


def run(
    command: list[str], processes: int, environment: dict[str, str], seconds: float | None
) -> bool:
    """Whether a command came to its end before all its processes were killed after `seconds`."""
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        coordinator = f'127.0.0.1:{found.getsockname()[1]}'
    running = []
    for number in range(processes):
        argv = [sys.executable, str(_SCRIPTS / command[0]), *command[1:]]
        if processes > 1:
            argv += [f'--coordinator={coordinator}', f'--num_processes={processes}']
            argv += [f'--process_id={number}']
        running.append(
            subprocess.Popen(
                argv,
                cwd=_SCRIPTS.parent,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    deadline = None if seconds is None else time.monotonic() + seconds
    for process in running:
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        try:
            _, errors = process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            for other in running:
                other.kill()
            for other in running:
                other.communicate()
            return False
        if process.returncode:
            sys.exit(f'{" ".join(command)} ended with {process.returncode}:\n{errors[-3000:]}')
    return True


def state_of(workdir: Path) -> str:
    """How far a killed run had come."""
    steps = [path.name for path in (workdir / 'checkpoints').glob('*')]
    whole = [int(name) for name in steps if name.isdigit()]
    half = [name for name in steps if not name.isdigit()]
    shards = list((workdir / 'sweep' / 'soak' / 'shards').glob('*.npz'))
    return (
        f'checkpoint {max(whole, default="none")}, {len(half)} half saved, {len(shards)} shards of'
        ' the sweep'
    )


def fingerprint(workdir: Path) -> dict[str, str]:
    """Hashes of the last checkpoint's arrays and data state, and of the sweep's table and rows."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    from cfg_jax import files

    folder = workdir.resolve() / 'checkpoints' / str(_LAST)
    reader = ocp.PyTreeCheckpointer()
    as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)  # of any number of devices
    args = jax.tree.map(lambda _: as_numpy, reader.metadata(folder / 'state').item_metadata.tree)
    tree = reader.restore(folder / 'state', restore_args=args)
    arrays = {jax.tree_util.keystr(p): np.asarray(a) for p, a in jax.tree.leaves_with_path(tree)}
    results = json.loads((workdir / 'sweep' / 'soak' / 'results.json').read_text())
    return {
        'checkpoint': files.sha256_of_arrays(arrays),
        'data order': (folder / 'data' / 'metadata').read_text(),
        'table': files.sha256_of_file(workdir / 'sweep' / 'soak' / 'table.md'),
        'rows': json.dumps(results['rows']),
    }


def compare(workdir: Path, expected: dict[str, str]) -> None:
    """Ends the program where a finished run differs from the uninterrupted one."""
    found = fingerprint(workdir)
    different = [name for name in expected if found[name] != expected[name]]
    if different:
        sys.exit(f'{workdir} differs from the uninterrupted run in: {", ".join(different)}')
    print('the end is bit for bit the uninterrupted run', flush=True)


if __name__ == '__main__':
    cli.run(main)
