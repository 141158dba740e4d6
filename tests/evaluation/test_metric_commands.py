"""evaluate.py, reference_stats.py and convert_inception.py, called in this process to save time."""

import json

import numpy as np
import pytest
from support import DIGITS, run_here
from test_comparison import Means

from cfg_jax import files
from cfg_jax.metrics.features import inception


def run(capsys, script, *arguments):
    return run_here(capsys, f'scripts/{script}', *arguments)


@pytest.fixture
def means(monkeypatch):
    """Mean colours in the place of Inception."""
    monkeypatch.setattr(inception, 'from_file', lambda *arguments: Means())


@pytest.fixture
def batches(tmp_path):
    rng = np.random.default_rng(0)
    for name in ('a', 'b', 'c'):
        np.savez(tmp_path / f'{name}.npz', arr_0=rng.integers(0, 256, (30, 4, 4, 3), np.uint8))
    return [tmp_path / f'{name}.npz' for name in ('a', 'b', 'c')]


def test_evaluate(capsys, means, batches, tmp_path):
    out = tmp_path / 'metrics.json'
    status, lines, errors = run(
        capsys, 'evaluate.py', *batches, '--inception=x', '--bootstrap=5', f'--out={out}'
    )
    assert (status, errors) == (0, [])
    results = json.loads(out.read_text())
    assert [row['images'] for row in results['rows']] == [str(path) for path in batches[:2]]
    assert {'fid', 'fid_se', 'sfid', 'is', 'precision', 'recall', 'kid'} <= results['rows'][
        0
    ].keys()
    assert {'fid', 'fid_min', 'fid_seed_std'} <= results['summary'].keys()
    assert {'versions', 'device', 'features', 'reference', 'notes'} <= results.keys()
    table = [line for line in lines if line.startswith('|')]
    row = results['rows'][0]
    (shown,) = [line.replace('*', '') for line in table if str(batches[0]) in line]
    assert f'| {row["fid"]:.2f} ± {row["fid_se"]:.2f} |' in shown
    assert any('2 sets' in line for line in table)


def test_reference_statistics_serve_evaluate(capsys, means, batches, tmp_path, monkeypatch):
    """The data set's own images: 1,797 digits, counted, hashed, read back by evaluate."""
    monkeypatch.setattr(Means, 'apply', grey_means)
    out = tmp_path / 'digits.npz'
    command = ('reference_stats.py', f'--config={DIGITS}', '--inception=x', f'--out={out}')
    status, lines, errors = run(capsys, *command)
    assert (status, errors) == (0, [])
    assert lines[-1].startswith('1,797 images, SHA-256 ')
    with np.load(out) as arrays:
        assert arrays['mu'].shape == (3,)
        assert arrays['sigma'].shape == (3, 3)
    monkeypatch.undo()
    monkeypatch.setattr(inception, 'from_file', lambda *arguments: Means())
    samples = tmp_path / 'samples.npz'
    np.savez(samples, arr_0=np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8))
    arguments = (out, '--inception=x', '--metrics=fid,kid')
    status, lines, errors = run(capsys, 'evaluate.py', samples, *arguments)
    assert (status, errors) == (0, [])
    assert f'{samples}: 30 images of 1 file' in lines
    status, _, errors = run(capsys, 'evaluate.py', batches[0], *arguments)
    assert status == 2
    assert 'is of images of 8x8 pixels, the samples have 4x4' in errors[0]
    status, _, errors = run(capsys, *command)
    assert status == 2
    assert 'exists already' in errors[0]


def grey_means(self, params, images):
    """Means of rows of grey digits, three numbers as `Means` has."""
    from cfg_jax.metrics.features import Features

    return Features(images[:, :3].astype(np.float32).mean(axis=(2, 3)))


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['evaluate.py', '{a}', '{b}'], ['--inception']),
        (['evaluate.py', '{a}', '--inception=x'], ['REFERENCE']),
        (
            ['evaluate.py', '{a}', '{b}', '--inception={no}'],
            ['no Inception weights', 'docs/metrics.md'],
        ),
        (['evaluate.py', '{a}', '{b}', '--inception={a}'], ["'arr_0'", 'not a layer']),
        (['evaluate.py', '{a}', '{b}', '--inception=x', '--metrics=fud'], ["'fud'", 'fid, sfid']),
        (['evaluate.py', '{a}', '{b}', '--inception=x', '--bootstrap=1'], ['--bootstrap']),
        (['reference_stats.py', '--inception={a}', '--out={no}'], ['--config']),
        (['convert_inception.py', '{a}', '{no}'], ['SHA-256', '--accept_unknown']),
        (['convert_inception.py', '{a}', 'weights.bin'], ['.npz', 'weights.bin']),
        (['convert_inception.py', '{no}.pth', '{no}'], ['no file', '--help']),
    ],
)
def test_mistakes(capsys, batches, tmp_path, arguments, words):
    places = {'a': batches[0], 'b': batches[1], 'no': tmp_path / 'no.npz'}
    status, _, errors = run(capsys, *(argument.format(**places) for argument in arguments))
    assert status == 2
    assert len(errors) == 1
    for word in words:
        assert word in errors[0]
    assert not (tmp_path / 'no.npz').exists()


@pytest.mark.parametrize('name', ['samples', 'reference'])
def test_evaluate_says_which_images_are_wrong(capsys, means, batches, tmp_path, name):
    np.savez(tmp_path / 'floats.npz', arr_0=np.zeros((4, 4, 4, 3), np.float32))
    sets = [tmp_path / 'floats.npz', batches[0]]
    sets = sets if name == 'samples' else sets[::-1]
    status, _, errors = run(capsys, 'evaluate.py', *sets, '--inception=x')
    assert status == 2
    assert 'floats.npz' in errors[0]
    assert 'float32' in errors[0]


def test_known_weights_are_named(tmp_path, monkeypatch):
    """A file that convert_inception.py would know is known to the extractor as well."""
    path = tmp_path / 'weights.npz'
    files.write_npz(path, {'conv/w': np.zeros((3, 3, 3, 32), np.float32)})
    digest = files.sha256_of_file(path)
    monkeypatch.setitem(inception.KNOWN, digest, 'a published file')
    assert inception.load_weights(path)[1]['source'] == 'a published file'
