"""experiments/cost.py: days from counted operations, against what is known of the paper's cost."""

import json

import pytest
from support import ROOT, experiment, run_here

from cfg_jax import config as config_lib, config_files

IMAGENET64 = str(ROOT / 'configs' / 'imagenet64.py')
COMMITTED = (ROOT / 'experiments' / 'cost.md').read_text().splitlines()


@pytest.fixture(scope='module')
def table():
    return experiment('cost')


@pytest.fixture(scope='module')
def works(table):
    return [table.work_of(job) for job in table.JOBS]


def cells(lines):
    rows = [line.strip('|').split('|') for line in lines if line.startswith('| table')]
    return [[cell.strip() for cell in row] for row in rows]


def test_days_of_the_paper(table, works):
    """ADM's rates give what the notes derive: 128 V100-days a model (64) and 323 (128)."""
    rows = cells(table.costs(works, 0.4, []))
    days = {row[0]: row[3:5] for row in rows if "ADM's paper" in row[1]}
    assert float(days['table1'][0]) / 3 == pytest.approx(128, abs=0.5)
    assert float(days['table2'][0]) == pytest.approx(323, abs=0.5)
    # 14 w of 50,000 images, 27 passes of the 14 w (one at w = 0), T = 256, for each of 3 models.
    expected = 3 * 50_000 * 27 * 256 / (3 * 74.1) / 86400
    assert float(days['table1'][1]) == pytest.approx(expected, abs=0.05)


def test_measured_rates(table, works):
    measured = {
        'config': config_lib.to_json(config_files.load_config(IMAGENET64)),
        'device': {'kind': 'NVIDIA H200', 'count': 2},
        'training': [{'images_per_second': 800.0}, {'images_per_second': 1000.0}],
    }
    (row,) = [row for row in cells(table.costs(works, 0.4, [measured])) if 'measured' in row[1]]
    assert float(row[3]) == pytest.approx(3 * 400_000 * 2048 / 500 / 86400, abs=0.05)
    kwh = (float(row[3]) + float(row[4])) * 24 * 0.7
    assert float(row[5].replace(',', '')) == pytest.approx(kwh, rel=0.01)
    for how in ({'remat': 'blocks'}, {'attention': 'plain'}):  # the same network
        measured['config']['model'] |= how
        assert any('measured' in row[1] for row in cells(table.costs(works, 0.4, [measured])))
    measured['config']['model']['width'] = 64  # another network's rate says nothing of this one
    assert not any('measured' in row[1] for row in cells(table.costs(works, 0.4, [measured])))


def test_all_reduce_costs_what_it_sends(table, works):
    rows = cells(table.scaling(works, 0.4, 50.0))
    alone = [row for row in rows if row[1] == '1']
    assert all(row[3] == row[4] and row[5] == '100.0%' for row in alone)
    (many,) = [row for row in rows if row[:2] == ['table1', '128']]
    sent = 2 * 127 / 128 * 4 * 295_900_035 / 50e9 * 400_000 / 86400
    assert float(many[4]) - float(many[3]) == pytest.approx(sent, abs=0.01)


def test_what_is_committed_is_what_the_command_writes(table, works):
    measured = table.read_measured(str(ROOT / 'results' / 'bench' / 'h100' / 'train.json'))
    lines = [*table.costs(works, 0.4, [measured]), *table.scaling(works, 0.4, 100.0)]
    assert cells(lines) == cells(COMMITTED)


def test_what_was_measured_of_another_network_is_refused(capsys, tmp_path):
    path = tmp_path / 'train.json'
    config = config_lib.to_json(config_files.load_config(ROOT / 'configs' / 'digits.py'))
    content = {'config': config, 'device': {'kind': 'cpu', 'count': 1}}
    path.write_text(json.dumps(content | {'training': [{'images_per_second': 1.0}]}))
    out = tmp_path / 'cost.md'
    command = ['experiments/cost.py', f'--out={out}', '--measured', str(path)]
    status, _, errors = run_here(capsys, *command)
    assert status == 2
    assert f'{path} is of another network' in errors[0]
    assert not out.exists()


def test_mistakes(capsys, tmp_path):
    status, _, errors = run_here(capsys, 'experiments/cost.py', '--utilisation=2')
    assert status == 2
    assert '--utilisation' in errors[0]
    status, _, errors = run_here(capsys, 'experiments/cost.py', '--measured', 'nowhere.json')
    assert status == 2
    assert 'nowhere.json' in errors[0]
    other = tmp_path / 'other.json'
    for text in ('{}', 'no JSON'):
        other.write_text(text)
        status, _, errors = run_here(capsys, 'experiments/cost.py', '--measured', other)
        assert status == 2
        assert 'bench_train.py' in errors[0]
