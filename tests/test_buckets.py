"""gs:// as it is used: train, kill, resume, sweep, export; storage that is away, slow or refused.

The bucket is an emulator on loopback. CFG_JAX_SLOW=1 kills a training 12 times, and takes the
storage away for 20 s.
"""

import os
import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from storage import environment, front as front
from support import (
    ROOT,
    checkpoint_hash,
    logged,
    make_tiny_config,
    run_here,
    script_environment,
    tiny_arguments,
    toy_instead_of_networks,
)

from cfg_jax import files
from cfg_jax.data import pipeline
from cfg_jax.training import loop

LAST = 12
CHANGES = {'train__steps': LAST, 'train__log_every': 1, 'train__checkpoint_every': 4}
CHANGES |= {'train__sample_every': LAST, 'model__attention_resolutions': ()}
SLOW = bool(os.environ.get('CFG_JAX_SLOW'))


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
    """Hash of the last checkpoint of an uninterrupted training on a disk."""
    workdir = tmp_path_factory.mktemp('straight')
    with toy_instead_of_networks():
        loop.train(make_tiny_config(**CHANGES), workdir)
    return checkpoint_hash(workdir, LAST)


def start(front, workdir):
    """Starts a training of a toy, as users start one."""
    command = ['distributed/train_toy.py', '--config=../configs/digits.py', f'--workdir={workdir}']
    return subprocess.Popen(
        [sys.executable, *command, *tiny_arguments(**CHANGES)],
        cwd=ROOT / 'tests',
        env=script_environment(PYTHONPATH=str(ROOT / 'tests'), **environment(front)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def here(tmp_path, workdir):
    """A copy on the disk of the last checkpoint of a gs:// work directory."""

    def copy(path, target):
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            for part in path.iterdir():
                copy(part, target / part.name)
        else:
            target.write_bytes(path.read_bytes())

    copy(files.as_path(workdir) / 'checkpoints' / str(LAST), tmp_path / 'checkpoints' / str(LAST))
    return tmp_path


def test_killed_and_the_storage_away_for_a_moment(front, tmp_path, straight):
    rng, kills, ends = random.Random(0), 0, 0
    workdir = 'gs://bucket/killed_0'
    while kills < (12 if SLOW else 1):
        process = start(front, workdir)
        for line in process.stdout:
            if line.startswith('step'):
                break
        time.sleep(rng.uniform(0.0, 0.8))  # of a save, which takes the most of the time
        process.kill()
        process.communicate()
        kills += process.returncode == -9
        if process.returncode == 0:
            assert checkpoint_hash(here(tmp_path / f'{ends}', workdir), LAST) == straight
            ends += 1
            workdir = f'gs://bucket/killed_{ends}'
    process = start(front, workdir)
    if process.stdout.readline():
        front.away = True
        threading.Timer(20.0 if SLOW else 2.0, lambda: setattr(front, 'away', False)).start()
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert 'could not be saved' not in stderr
    assert checkpoint_hash(here(tmp_path / 'end', workdir), LAST) == straight


@pytest.fixture(scope='module')
def trained(front, toy_for_module):
    """A gs:// work directory with checkpoints 3 and 6."""
    loop.train(make_tiny_config(), 'gs://bucket/run')
    return files.as_path('gs://bucket/run')


@pytest.fixture(scope='module')
def toy_for_module():
    with toy_instead_of_networks():
        yield


def test_sweep_and_export(capsys, monkeypatch, trained):
    monkeypatch.setattr('cfg_jax.metrics.features.classifier._EPOCHS', 5)
    status, _, stderr = run_here(capsys, 'scripts/sweep.py', f'--workdir={trained}', '--name=tiny')
    assert status == 0, stderr
    assert files.read_json(trained / 'sweep' / 'tiny' / 'results.json')['rows']
    assert (trained / 'sweep' / 'tiny' / 'table.md').read_text().startswith('|')
    out = 'gs://bucket/model.safetensors'
    status, _, stderr = run_here(capsys, 'scripts/export.py', f'--model={trained}', f'--out={out}')
    assert status == 0, stderr
    assert files.as_path(out).stat().length > 1000


def test_a_damaged_checkpoint_is_set_aside(trained):
    newest = trained / 'checkpoints' / '6' / 'state'
    for part in (newest / 'd').iterdir():
        part.write_bytes(b'damaged')
    (newest / 'manifest.ocdbt').write_bytes(b'damaged')
    with logged() as lines:
        loop.train(make_tiny_config(), trained)
    assert any('step 6 cannot be read' in line and 'damaged_checkpoints' in line for line in lines)
    assert any('resuming from step 3' in line for line in lines)
    aside = trained / 'damaged_checkpoints' / '6' / 'state'
    assert (aside / 'manifest.ocdbt').read_bytes() == b'damaged'


@pytest.mark.parametrize(
    ('denied', 'workdir', 'line'),
    [
        ((), 'gs://nobody/run', "error: there is no bucket 'nobody'; make it first"),
        (('POST', 'PUT'), 'gs://bucket/new', 'error: gs://bucket/new/.training: no permission'),
        (('GET',), 'gs://bucket/run', 'error: gs://bucket/: no permission'),
    ],
)
def test_what_the_storage_refuses(capsys, front, trained, denied, workdir, line):
    front.denied = denied
    command = ['scripts/train.py', '--config=configs/digits.py', f'--workdir={workdir}']
    status, _, stderr = run_here(capsys, *command, *tiny_arguments())
    front.denied = ()
    assert status == 2
    assert len(stderr) == 1
    assert stderr[0].startswith(line)


def test_refusal_and_outage_are_no_damage(front, trained):
    """A good checkpoint must not be set aside because nobody may read it now."""
    from cfg_jax.training import checkpoints

    forbidden = OSError('Forbidden: http://x/storage/v1/b/bucket/o/run%2Fa\nno access')
    assert files.refusal(forbidden).startswith('gs://bucket/run/a: no permission (no access)')
    for error in (
        forbidden,
        ValueError('PERMISSION_DENIED: Error reading "a"'),
        ValueError('UNAVAILABLE: Error reading "a"'),
    ):
        assert not checkpoints._is_damage(error)
    assert checkpoints._is_damage(ValueError('DATA_LOSS: Error reading "a"'))
    assert files.refusal(PermissionError(13, 'Permission denied')) is None


def test_data_are_read_from_a_bucket(front, digits_dir):
    """The same batches as from the disk, in this process: ArrayRecord has a reader of its own."""
    place = f'gs://bucket/tfds/digits/{digits_dir.name}'
    for path in digits_dir.iterdir():
        (files.as_path(place) / path.name).write_bytes(path.read_bytes())
    (ours,), (theirs,) = (
        pipeline.one_epoch(make_tiny_config(data__name=str(name)).data, 'train', 2000)
        for name in (place, digits_dir)
    )
    np.testing.assert_array_equal(ours['image'], theirs['image'])
    np.testing.assert_array_equal(ours['condition'], theirs['condition'])


def test_slow_storage(front):
    front.delay = 0.05
    before = time.monotonic()
    files.write_json('gs://bucket/slow.json', [1])
    assert files.read_json('gs://bucket/slow.json', list) == [1]
    front.delay = 0.0
    assert time.monotonic() - before > 0.1
