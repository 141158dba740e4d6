"""One device against four: the same training, the same pictures."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from support import ROOT, script_environment

from cfg_jax.distributed import devices


@pytest.fixture(scope='module')
def recorded(tmp_path_factory):
    """What `multi_device.py` finds on 1 and on 4 devices."""
    folder = tmp_path_factory.mktemp('devices')
    processes = {}
    for count in (1, 4):
        flags = f'--xla_force_host_platform_device_count={count}'
        processes[count] = subprocess.Popen(
            [sys.executable, 'multi_device.py', str(count), folder / f'{count}.npz'],
            cwd=ROOT / 'tests',
            env=script_environment(XLA_FLAGS=flags, JAX_PLATFORMS='cpu'),
            stderr=subprocess.PIPE,
            text=True,
        )
    for process in processes.values():
        _, stderr = process.communicate(timeout=400)
        assert process.returncode == 0, stderr
    return {count: np.load(folder / f'{count}.npz') for count in processes}


def test_the_same_loss_at_every_step(recorded):
    one, four = recorded[1], recorded[4]
    assert one['losses'].shape == (20,)
    np.testing.assert_allclose(four['losses'], one['losses'], atol=1e-4)
    np.testing.assert_allclose(four['norms'], one['norms'], rtol=1e-2)
    assert one['losses'].std() > 1e-2  # they are not all the same


def test_the_same_parameters(recorded):
    one, four = recorded[1], recorded[4]
    np.testing.assert_array_equal(one['start_params'], four['start_params'])
    moved = np.linalg.norm(one['params'] - one['start_params'])
    apart = np.linalg.norm(four['params'] - one['params'])
    assert moved > 1.0
    assert apart < 1e-2 * moved


def test_random_numbers_do_not_depend_on_devices_or_batches(recorded):
    one, four = recorded[1], recorded[4]
    for name in ('labels', 'start'):
        np.testing.assert_array_equal(one[f'{name}_64'], four[f'{name}_64'])
        np.testing.assert_array_equal(one[f'{name}_7'], four[f'{name}_7'])
        np.testing.assert_array_equal(one[f'{name}_64'][:7], one[f'{name}_7'])
    assert len(set(one['labels_64'].tolist())) > 5
    noise = one['start_64']
    assert len(np.unique(noise)) > 0.99 * noise.size
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)


def test_images_do_not_depend_on_devices_or_batches(recorded):
    images = [recorded[count][f'images_{batch}'] for count in (1, 4) for batch in (64, 7)]
    for other in images:
        assert np.isfinite(other).all()
        np.testing.assert_allclose(other, images[0][: len(other)], atol=2e-3)
    reference = images[0]
    assert np.abs(reference).max() <= 1.0
    inside = np.abs(reference) < 0.99
    assert inside.mean() > 0.1  # not merely all clipped to the same ends
    assert np.abs(reference[0] - reference[1]).max() > 0.1


def test_features_do_not_depend_on_devices(recorded):
    for found in recorded.values():
        expected = 3.0 * found['pixels'].reshape(23, -1)
        np.testing.assert_array_equal(found['features'], expected)


def test_rows_of_two_processes_match_the_data(recorded):
    """Device d of process p holds the local rows d, d+2, d+4; local row i is global row p + 2i."""
    rows = recorded[4]['rows']
    for process in range(2):
        for device in range(2):
            local = device + 2 * np.arange(3)
            np.testing.assert_array_equal(rows[2 * process + device], process + 2 * local)
    assert sorted(rows.ravel()) == list(range(12))


def test_split_batch(monkeypatch):
    monkeypatch.setattr(jax, 'local_device_count', lambda: 4)
    batch = {'image': np.arange(24).reshape(8, 3), 'label': np.arange(8)}
    split = devices.split_batch(batch)
    assert split['image'].shape == (4, 2, 3)
    np.testing.assert_array_equal(split['label'], [[0, 4], [1, 5], [2, 6], [3, 7]])
    np.testing.assert_array_equal(split['image'], batch['image'][split['label']])
