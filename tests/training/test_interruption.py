"""Killed without warning, anywhere, and started again: the same end, bit for bit."""

import json
import shutil
import signal
import time

import numpy as np
from support import (
    TOY_TRAINING,
    checkpoint_hash,
    checkpoint_steps,
    make_tiny_config,
    run_script,
    start_script,
    tiny_arguments,
)

from cfg_jax.training import (
    loop,
    writers,
)

LAST = 24
# Saving at every second step, so that a kill often strikes in the middle of it.
CHANGES = {
    'train__steps': LAST,
    'train__log_every': 1,
    'train__checkpoint_every': 2,
    'train__sample_every': LAST,
}


def kill_after(seconds, awaited, *command):
    """Starts a script, kills it so long after a line that begins with `awaited`.

    Returns the exit status: -9, or 0 where a fast machine was done before.
    """
    process = start_script('', *command)
    if any(line.startswith(awaited) for line in process.stdout):
        time.sleep(seconds)
        process.kill()
    _, stderr = process.communicate()
    assert process.returncode in (0, -9), stderr
    return process.returncode


def test_training(tmp_path, toy_networks):
    straight, killed = tmp_path / 'straight', tmp_path / 'killed'
    loop.train(make_tiny_config(**CHANGES), straight)
    command = [TOY_TRAINING, '--config=configs/digits.py', f'--workdir={killed}']
    command += tiny_arguments(**CHANGES)
    assert kill_after(np.random.default_rng().uniform(0.0, 0.3), 'step', *command) == -9
    reached = max(checkpoint_steps(killed), default=0)
    assert reached < LAST
    status, stdout, stderr = run_script('', *command)
    assert status == 0, stderr
    if reached:
        assert f'resuming from step {reached}' in stdout
    assert checkpoint_hash(killed, LAST) == checkpoint_hash(straight, LAST)
    rows, expected = writers.read_metrics(killed), writers.read_metrics(straight)
    assert [row['step'] for row in rows] == list(range(1, LAST + 1))
    assert [row['loss'] for row in rows] == [row['loss'] for row in expected]
    pictures = [folder / 'samples' / f'step_{LAST:08d}.png' for folder in (straight, killed)]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_a_second_training_and_ctrl_c(tmp_path):
    """The second is refused by name; the first finishes its step, saves and says which."""
    workdir = tmp_path / 'run'
    changes = CHANGES | {'train__steps': 100_000, 'train__checkpoint_every': 100_000}
    command = [TOY_TRAINING, '--config=configs/digits.py', f'--workdir={workdir}']
    command += tiny_arguments(**changes)
    first = start_script('', *command)
    assert any(line.startswith('step 1/') for line in first.stdout)
    status, _, stderr = run_script('', *command)
    assert status == 2
    (line,) = stderr.splitlines()
    assert f'{workdir} is being trained by process {first.pid} on ' in line
    first.send_signal(signal.SIGINT)
    _, stderr = first.communicate(timeout=100)
    assert first.returncode == 130
    notice, line = stderr.splitlines()
    assert notice == 'stopping after this step; Ctrl-C again stops at once'
    (step,) = checkpoint_steps(workdir)
    assert line == (
        f'stopped after step {step} on request; it is saved; the same command continues from here'
    )
    assert not (workdir / '.training').exists()


def test_sweep(swept_workdir, tmp_path):
    workdir = shutil.copytree(swept_workdir, tmp_path / 'run')
    shutil.rmtree(workdir / 'sweep')
    shutil.rmtree(workdir / 'reference')
    command = ['sweep.py', f'--workdir={workdir}', '--name=tiny']
    # Between the rows: a reference, a row and its shards are there, another row is begun.
    assert kill_after(np.random.default_rng().uniform(0.0, 0.2), 'w = 0', *command) == -9
    status, _, stderr = run_script('', *command)
    assert status == 0, stderr
    ours, straight = workdir / 'sweep' / 'tiny', swept_workdir / 'sweep' / 'tiny'
    assert (ours / 'table.md').read_bytes() == (straight / 'table.md').read_bytes()
    results, expected = (json.loads((d / 'results.json').read_text()) for d in (ours, straight))
    # On CPUs the command samples on several devices, the fixture on one.
    assert results['device'].pop('count') >= expected['device'].pop('count') == 1
    assert results == expected
    assert sorted(path.name for path in (ours / 'shards').iterdir()) == sorted(
        path.name for path in (straight / 'shards').iterdir()
    )
