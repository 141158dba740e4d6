"""The long-tailed set, copies, and the command at toy size."""

import json

import numpy as np
import pytest
from etils import epath
from PIL import Image
from support import (
    ROOT,
    experiment,
    make_tiny_config,
    run_here,
    tiny_arguments,
    toy_instead_of_networks,
    user_error,
)

from cfg_jax import loading
from cfg_jax.data import sources
from cfg_jax.metrics.features import classifier
from cfg_jax.training import export

long_tail = experiment('failures_parts.long_tail')
measurement = experiment('failures_parts.measurement')

OWN = ('sweep.w', 'sweep.num_samples')  # fields that --w and --count stand for


@pytest.fixture(scope='module')
def digits():
    return long_tail.Digits(make_tiny_config())


def test_the_long_tail(digits, tmp_path):
    rare = long_tail.write(digits, epath.Path(tmp_path))
    config = long_tail.config(make_tiny_config(), epath.Path(tmp_path))
    examples = sources.data_source(config.data, config.data.split)
    labels = np.array([examples[i]['label'] for i in range(len(examples))])
    counts = np.bincount(labels, minlength=10)
    assert counts[9] == 0
    assert counts[8] == len(rare)
    assert counts[8] / counts.sum() == pytest.approx(0.01, abs=0.0005)
    np.testing.assert_array_equal(counts[:8], np.bincount(digits.labels)[:8])
    assert sources.class_names(config.data) == digits.names


def test_copies(digits):
    trained = digits.of(8)[:16]
    held_out = digits.of(8)[16:32]
    assert measurement.copies(digits.images[trained], digits, trained) == 1.0
    assert measurement.copies(digits.images[held_out], digits, trained) == 0.0
    others = digits.images[digits.of(8)[32:]]
    assert 0.3 < measurement.copies(others, digits, trained) < 0.7


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(classifier, '_EPOCHS', 20)
    monkeypatch.chdir(ROOT)
    arguments = [f'--root={tmp_path}', '--w=0,1', '--count=6', *tiny_arguments(OWN)]
    with toy_instead_of_networks():
        experiment('failures').main(arguments)
        folders = {'all digits': 'all', 'long tail': 'long_tail'}
        trained = {n: loading.load_params(tmp_path / f)[0] for n, f in folders.items()}
    results = json.loads((tmp_path / 'results' / 'results.json').read_text())
    assert [(g['training'], g['kind'], g['w']) for g in results['groups']] == [
        (training, kind, w)
        for training in ('all digits', 'long tail')
        for w in (0.0, 1.0)
        for kind in ('frequent', 'rare', 'unseen')
    ]
    assert results['models'].keys() == trained.keys()
    for name, params in trained.items():
        assert results['models'][name]['weights_sha256'] == export.sha256_of_params(params)
        assert results['models'][name]['checkpoint_step'] == 6
    assert len(results['features']['sha256']) == len(results['reference']['sha256']) == 64
    assert results['reference']['dataset'] == 'digits'
    assert (results['seed'], results['images_a_digit']) == (0, 6)
    table = (tmp_path / 'results' / 'table.md').read_text()
    assert table in capsys.readouterr().out
    assert table.count('\n| ') == 12
    assert Image.open(tmp_path / 'results' / 'failures.png').height > 400


def test_too_few_images_for_precision_are_refused_before_training(tmp_path, monkeypatch, capsys):
    """A point has three neighbours beside itself."""
    trained = []
    monkeypatch.setattr('cfg_jax.training.loop.train', lambda *arguments: trained.append(arguments))
    command = ['experiments/failures.py', f'--root={tmp_path}/a', *tiny_arguments(OWN)]
    status, _, errors = run_here(capsys, *command, '--count=3')
    assert status == 2
    assert '--count is at least 4' in errors[-1]
    assert not trained
    assert not (tmp_path / 'a').exists()


def test_images_that_are_not_finite_are_no_digits():
    x = np.zeros((4, 8, 8, 1), np.float32)
    measurement.check_finite(x, 3.0)
    x[1, 2, 3], x[3, 0, 0] = np.nan, np.inf
    message = user_error(measurement.check_finite, x, 3.0)
    assert '2 of 4 images at w = 3 are not finite' in message
