"""The command lines, as a user runs them."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from support import ROOT, run_here, run_script, tiny_arguments

from cfg_jax import loading
from cfg_jax.data import images

# torch_peer.py belongs to bench_peers.py and needs PyTorch.
SCRIPTS = {path.name for path in (ROOT / 'scripts').glob('*.py')} - {'torch_peer.py'}
OPTIONS = {
    'train.py': ['--config', '--workdir', '--profile', '--coordinator', '--num_processes'],
    'sweep.py': ['--workdir', '--w', '--num_samples', '--sampler', '--name', '--coordinator'],
    'sample.py': ['--workdir', '--labels', '--w', '--seed', '--out'],
    'ema.py': ['WORKDIR', '--sigma_rel', '--step'],
    'validate.py': ['--workdir', '--steps', '--splits', '--num_images', '--data', '--out'],
    'export.py': ['--workdir', '--step', '--out'],
    'explore.py': ['MODEL', '--port', '--step', '--guidance_network', 'loopback'],
    'report.py': ['RUN', '--out', '--label', '--images'],
    'describe.py': ['--config', '--model', '--images_per_second', '--accelerator', '--decode_rate'],
    'compile_for.py': ['--config', '--topology', '--remat', '--images_at_once', '--tables'],
    'import_checkpoint.py': ['FILE', '--out', '--set', "openai/guided-diffusion's U-Nets"],
    'prepare_data.py': ['--name', '--data_dir', '--manual_dir', '--resize'],
    'bench_input.py': ['--config', '--workers', '--seconds'],
    'bench_train.py': ['--config', '--batch_sizes', '--steps', '--rounds', '--input', '--out'],
    'bench_sample.py': ['--config', '--w', '--rounds', '--features', '--workdir', '--out'],
    'bench_peers.py': ['--peer', '--python', '--train_batch', '--sample_batch', '--repeats'],
    'soak.py': ['--root', '--rounds', '--processes'],
    'evaluate.py': ['SAMPLES', 'REFERENCE', '--inception', '--metrics', '--out'],
    'reference_stats.py': ['--config', '--inception', '--out'],
    'convert_inception.py': ['SOURCE', 'OUT', '--accept_unknown', 'fid_weights'],
}


def test_every_script_is_listed():
    assert OPTIONS.keys() == SCRIPTS


@pytest.mark.parametrize('name', OPTIONS)
def test_help_of_every_script(capfd, name):
    status, lines, errors = run_here(capfd, f'scripts/{name}', '--help')
    stdout = '\n'.join(lines)
    assert (status, errors) == (0, [])
    assert f'usage: {name}' in stdout
    assert f'python scripts/{name}' in stdout  # an example to copy
    for option in OPTIONS[name]:
        assert option in stdout


@pytest.mark.parametrize(
    ('name', 'parameters'), [('imagenet64', 295_900_035), ('imagenet128', 421_523_715)]
)
def test_describe(capfd, name, parameters):
    status, lines, errors = run_here(
        capfd,
        'scripts/describe.py',
        f'--config={ROOT}/configs/{name}.py',
        '--images_per_second=100',
    )
    assert (status, errors) == (0, [])
    described = json.loads('\n'.join(lines))
    assert described['parameters'] == parameters
    state = 4 * 4 * parameters  # parameters, EMA and two moments, float32
    assert state <= described['state_bytes_per_device'] <= state + 64
    days = described['training_images'] / 100 / 86400
    assert described['device_days'] == pytest.approx(days)
    forward = described['forward_gflop_per_image']
    assert described['training_gflop_per_image'] == pytest.approx(3 * forward)


def test_prepare_data(tmp_path):
    arguments = ('', 'prepare_data.py', '--name=digits', f'--data_dir={tmp_path}')
    status, stdout, stderr = run_script(*arguments)
    assert status == 0, stderr
    assert f'digits is prepared in {tmp_path}/digits/1.0.0' in stdout
    status, stdout, _ = run_script(*arguments)
    assert status == 0
    assert 'already prepared' in stdout


def test_sample_draws_the_images_of_the_library(trained_workdir, tmp_path):
    out = tmp_path / 'grid.png'
    status, stdout, stderr = run_script(
        '',
        'sample.py',
        f'--workdir={trained_workdir}',
        '--labels=3,3,7',
        '--w=0,1,2',
        '--seed=5',
        f'--out={out}',
    )
    assert status == 0, stderr
    assert str(out) in stdout
    drawn = np.asarray(Image.open(out))
    pictures = loading.load(trained_workdir).sample([3, 3, 7], w=[0.0, 1.0, 2.0], seed=5)
    picture = images.grid(pictures, 2)[..., 0]
    factor = drawn.shape[0] // picture.shape[0]
    assert factor > 1
    assert np.abs(drawn[::factor, ::factor].astype(int) - picture).max() <= 1


def test_home_after_an_equals_sign(trained_workdir, tmp_path, monkeypatch, capsys):
    """The shell expands `~` in the beginning of a word only; directories of --out are made."""
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'run').symlink_to(trained_workdir)
    arguments = ('--workdir=~/run', '--labels=3', '--out=~/new/deep/grid.png')
    status, _, errors = run_here(capsys, 'scripts/sample.py', *arguments)
    assert (status, errors) == (0, [])
    assert Image.open(tmp_path / 'new' / 'deep' / 'grid.png').size[0] >= 256


def test_quickstart_goes_on_from_a_trained_run(swept_workdir, tmp_path):
    workdir = shutil.copytree(swept_workdir, tmp_path / 'run')
    command = ['../experiments/quickstart.py', f'--workdir={workdir}', *tiny_arguments()]
    status, stdout, stderr = run_script('', *command)
    assert status == 0, stderr
    assert 'already trained to step 6' in stdout
    (directory,) = [path for path in (workdir / 'sweep').iterdir() if path.name != 'tiny']
    assert (directory / 'table.md').read_text() in stdout
    assert f'open {workdir}/report.html in a browser' in stdout
    assert directory.name in (workdir / 'report.html').read_text()
    tiny = json.loads((workdir / 'sweep' / 'tiny' / 'results.json').read_text())
    assert json.loads((directory / 'results.json').read_text())['rows'] == tiny['rows']
