"""Which w is best, from rows that share their noise."""

import numpy as np
import pytest
from support import logged

from cfg_jax.evaluation import differences, rows as rows_lib
from cfg_jax.metrics import Inputs
from cfg_jax.metrics.features import Features
from cfg_jax.metrics.statistics import Gaussian, Reference

COUNT, DIM = 400, 6
NOISE = np.random.default_rng(0).normal(size=(2, COUNT, DIM))
REFERENCE = Reference(Gaussian(np.zeros(DIM), np.eye(DIM)), None, None, {})


def evaluation(w, seed=0):
    """Samples that move away from the reference with w, from one noise."""
    inputs = Inputs(Features(NOISE[seed] * (1 + w) + w), REFERENCE, replicates=2)
    return rows_lib.compute_metrics(inputs, ('fid',), distance='FD-768')


def sweep(directory, weights, seeds=(0,)):
    """Rows as a sweep makes them, their influences kept."""
    rows = []
    for w in weights:
        each = [evaluation(w, seed) for seed in seeds]
        rows.append({'w': w} | rows_lib.over_seeds([one.row for one in each]))
        differences.save(directory, w, [one.influences for one in each], rows[-1])
    return rows


def test_differences_are_to_the_best_and_paired(tmp_path):
    rows = sweep(tmp_path, (0.0, 0.05, 0.3))
    best = differences.best_weights(tmp_path, rows)
    assert best.keys() == {'fd768'}
    assert best['fd768']['w'] == 0.0
    others = best['fd768']['others']
    assert [other['w'] for other in others] == [0.05, 0.3]
    for other, row in zip(others, rows[1:], strict=True):
        assert other['difference'] == row['fd768'] - rows[0]['fd768']
        own, first = evaluation(other['w']).influences, evaluation(0.0).influences
        assert other['se'] == (own['fd768'] - first['fd768']).standard_error()
    unpaired = np.hypot(rows[0]['fd768_se'], rows[1]['fd768_se'])
    assert others[0]['se'] < 0.8 * unpaired  # what sharing the noise is worth


def test_rows_of_two_sweeps_are_paired(tmp_path):
    (own,), (other,) = sweep(tmp_path / 'a', (0.3,)), sweep(tmp_path / 'b', (0.0,))
    found = differences.between(tmp_path / 'a', own, tmp_path / 'b', other)
    both = evaluation(0.3).influences['fd768'] - evaluation(0.0).influences['fd768']
    assert found == {
        'fd768': own['fd768'] - other['fd768'],
        'fd768_se': both.standard_error(),
    }
    assert differences.between(tmp_path / 'a', own, tmp_path / 'none', other) == {}
    fewer = Inputs(Features(NOISE[0, :-1]), REFERENCE, replicates=2)
    row, influences = rows_lib.compute_metrics(fewer, ('fid',), distance='FD-768')
    row = {'w': 0.5} | row
    differences.save(tmp_path / 'b', 0.5, [influences], row)
    assert differences.between(tmp_path / 'a', own, tmp_path / 'b', row) == {}


def test_seeds_are_averaged(tmp_path):
    rows = sweep(tmp_path, (0.0, 0.3), seeds=(0, 1))
    (other,) = differences.best_weights(tmp_path, rows)['fd768']['others']
    errors = [
        (evaluation(0.3, seed).influences['fd768'] - evaluation(0.0, seed).influences['fd768'])
        for seed in (0, 1)
    ]
    expected = np.linalg.norm([error.standard_error() for error in errors]) / 2
    assert other['se'] == pytest.approx(expected)
    means = [np.mean([evaluation(w, seed).row['fd768'] for seed in (0, 1)]) for w in (0.0, 0.3)]
    assert other['difference'] == pytest.approx(means[1] - means[0])


def test_rows_of_earlier_commands_compare_too(tmp_path):
    """One command measures w = 0.1, a later one w = 0: both are in the table of one name."""
    earlier = sweep(tmp_path, (0.1,))
    assert differences.best_weights(tmp_path, earlier) == {}
    rows = [*sweep(tmp_path, (0.0,)), *earlier]
    best = differences.best_weights(tmp_path, rows)
    assert best['fd768']['w'] == 0.0
    assert [other['w'] for other in best['fd768']['others']] == [0.1]


def test_invalid_rows_are_left_out(tmp_path):
    rows = sweep(tmp_path, (0.0, 0.1, 0.2))
    rows[2]['fd768'] = float('nan')
    # Measured again, with samples that are not finite.
    differences.save(tmp_path, 0.2, [{}], rows[2])
    (other,) = differences.best_weights(tmp_path, rows)['fd768']['others']
    assert other['w'] == 0.1


@pytest.mark.parametrize('bad', [0, 1])
def test_a_seed_that_is_not_finite_leaves_its_row_out(tmp_path, bad):
    rows = sweep(tmp_path, (0.0, 0.1, 0.2), seeds=(0, 1))
    influences = [evaluation(0.2, seed).influences for seed in (0, 1)]
    influences[bad] = {}
    rows[2] |= {'fd768': float('nan'), 'images_not_finite': 1}
    differences.save(tmp_path, 0.2, influences, rows[2])
    with logged() as lines:
        (other,) = differences.best_weights(tmp_path, rows)['fd768']['others']
    assert other['w'] == 0.1
    assert not lines


@pytest.mark.parametrize('seeds', [(0,), (0, 1)])
def test_influences_of_another_measurement_are_not_taken(tmp_path, seeds):
    """Of a command with another reference or other seeds that was killed before its table."""
    rows = sweep(tmp_path, (0.0, 0.1, 0.2))
    other = evaluation(0.2, 1)
    killed = {'fd768': rows_lib.over_seeds([other.row] * len(seeds))['fd768']}
    differences.save(tmp_path, 0.2, [other.influences] * len(seeds), killed)
    (found,) = differences.best_weights(tmp_path, rows)['fd768']['others']
    assert found['w'] == 0.1


def test_without_standard_errors_nothing_is_said(tmp_path):
    rows = [{'w': 0.0, 'fid': 1.0}, {'w': 1.0, 'fid': 2.0}]
    assert differences.best_weights(tmp_path, rows) == {}
    assert differences.sentences({}) == []


@pytest.mark.parametrize('content', [b'', b'not an archive', 'other arrays'])
def test_damaged_files_leave_their_row_out(tmp_path, content):
    rows = sweep(tmp_path, (0.0, 0.1, 0.2))
    (path,) = (tmp_path / 'influence').glob('w_0.1*')
    if isinstance(content, str):
        np.savez(path, other=np.zeros(3))
    else:
        path.write_bytes(content)
    with logged() as lines:
        (other,) = differences.best_weights(tmp_path, rows)['fd768']['others']
    assert other['w'] == 0.2
    assert len(lines) == 1
    assert lines[0].startswith('warning: ')
    assert path.name in lines[0]


def test_sentences():
    others = [
        {'w': 0.3, 'difference': 0.125, 'se': 0.07},
        {'w': 4.0, 'difference': 30.0, 'se': 1.0},
    ]
    (line,) = differences.sentences({'fid': {'w': 0.1, 'others': others}})
    assert line == (
        'best FID: w = 0.1; within 2 standard errors of the difference: w = 0.3 (+0.12 ± 0.07)'
    )
    (line,) = differences.sentences({'sfid': {'w': 0.0, 'others': others[1:]}})
    assert line == 'best sFID: w = 0; within 2 standard errors of the difference: no other'
