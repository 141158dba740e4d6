"""What the instruments see: features are kept, and never taken for those of other images."""

import json

import pytest
from blobs import Colours, blobs as blobs
from support import run_here

from cfg_jax.metrics.features import inception

COMMAND = 'experiments/instruments.py'


class Other(Colours):
    """The same of other weights."""

    def provenance(self):
        return super().provenance() | {'sha256': 64 * '1'}


@pytest.fixture
def measure(blobs, tmp_path, monkeypatch, capsys):
    """Runs the command on the blobs, with an extractor: (status, errors)."""

    def measure(*more, extractor=None):
        found = extractor or Colours()
        monkeypatch.setattr(inception, 'from_file', lambda path, name: found)
        out = f'--out={tmp_path / "out"}'
        given = ('--inception=made_up.npz', '--size=8', '--count=8', out, *more)
        status, _, errors = run_here(capsys, COMMAND, f'--data={blobs}', *given)
        return status, errors

    return measure


def results_of(tmp_path):
    return json.loads((tmp_path / 'out' / 'results.json').read_text())


def test_finished_features_are_not_made_again(measure, tmp_path, monkeypatch):
    assert measure() == (0, [])
    first = results_of(tmp_path)
    distances = [row['fd768'] for row in first['rows']]
    assert distances[0] == pytest.approx(0.0, abs=1e-6)
    assert all(distance > 1e-3 for distance in distances[1:])
    # An extractor that can measure nothing: everything comes from the files.
    monkeypatch.setattr(Colours, 'apply', None)
    assert measure() == (0, [])
    assert results_of(tmp_path)['rows'] == first['rows']


@pytest.mark.parametrize(
    ('change', 'extractor', 'words'),
    [
        ('--count=12', None, 'num_samples'),
        ('--size=4', None, 'image_size'),
        ('--count=8', Other(), 'features.sha256'),
    ],
)
def test_features_of_others_are_refused(measure, tmp_path, change, extractor, words):
    assert measure() == (0, [])
    before = results_of(tmp_path)
    status, [error] = measure(change, extractor=extractor)
    assert status == 2
    assert words in error
    assert 'choose another --out' in error
    assert results_of(tmp_path) == before


def test_features_that_say_not_what_they_are_of_are_not_taken(measure, tmp_path):
    """As releases before left them."""
    assert measure('--count=12') == (0, [])
    for path in (tmp_path / 'out' / 'features').glob('*.npz'):
        path.rename(tmp_path / 'out' / f'features_{path.name}')
    (tmp_path / 'out' / 'features' / 'settings.json').unlink()
    assert measure() == (0, [])
    found = results_of(tmp_path)
    assert measure(f'--out={tmp_path / "new"}') == (0, [])
    assert found['rows'] == json.loads((tmp_path / 'new' / 'results.json').read_text())['rows']


@pytest.mark.parametrize(('count', 'words'), [(3, 'at least 4'), (30, 'validation')])
def test_a_count_that_cannot_be_measured_is_refused_at_once(measure, tmp_path, count, words):
    """Fewer than the neighbours of a point, and more than the smaller split has."""
    status, errors = measure(f'--count={count}')
    assert status == 2
    assert words in errors[-1]
    assert not (tmp_path / 'out').exists()
    assert measure('--count=4') == (0, [])
