"""Tables 1 and 2: the runs they start, and ours in the paper's layout."""

import argparse
import json

import numpy as np
import pytest
from etils import epath
from PIL import Image
from support import (
    checkpoint_steps,
    experiment,
    run_here,
    tiny_arguments,
    toy_instead_of_networks,
    user_error,
)

from cfg_jax.metrics.features import classifier

paper, layout = experiment('shared_parts.paper'), experiment('tables_parts.layout')


def put_results(workdir, name, rows, **changes):
    """A results.json as a sweep leaves it, as far as a table reads it."""
    results = {
        'checkpoint_step': 6,
        'num_samples': 40,
        'seed': 0,
        'sampler': {'num_steps': 4},
        'features': {'name': 'classifier'},
        'rows': [{'w': w, 'fid': fid, 'is': score, 'fid_se': 0.25} for w, fid, score in rows],
    } | changes
    path = workdir / 'sweep' / name / 'results.json'
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(results))


@pytest.fixture
def columns(tmp_path):
    """The three columns of Table 1, nothing measured yet."""
    return [
        layout.Column(p, p, None, None, epath.Path(tmp_path / f'p_uncond_{p:g}'), 'table1')
        for p in (0.1, 0.2, 0.5)
    ]


def cells_of(text, w):
    (line,) = [line for line in text.splitlines() if line.startswith(f'| {w} |')]
    return [cell.strip() for cell in line.strip('|').split('|')][1:]


def test_cells_are_ours_the_papers_and_the_difference(columns, tmp_path):
    put_results(columns[0].workdir, 'table1', [(0.1, 1.6, 70.0), (4.0, 30.0, 250.0)])
    table = paper.load('table1')
    text = layout.write(epath.Path(tmp_path), 'Table 1', table, columns, toy=False)
    fid, score, *others = cells_of(text, '0.1')
    assert fid == '1.60 ± 0.25 (1.55, +0.05)'
    assert score == '70.00 (66.11, +3.89)'
    assert others == ['- (1.62)', '- (64.58)', '- (1.91)', '- (56.10)']
    assert cells_of(text, '4')[0] == '30.00 ± 0.25 (26.22, +3.78)'
    assert cells_of(text, '0.3')[0] == '- (3.03)'
    assert '| CDM | 1.48 | 67.95 |' in text
    assert '| ADM | 2.07 | not given |' in text
    assert len([line for line in text.splitlines() if line.startswith('| ')]) == 1 + 14 + 1 + 2
    assert (tmp_path / 'table.md').read_text() == text
    assert min(Image.open(tmp_path / 'curves.png').size) > 300
    written = json.loads((tmp_path / 'results.json').read_text())
    assert [row['w'] for row in written['columns']['0.1']['rows']] == [0.1, 4.0]
    assert written['columns']['0.5']['rows'] == []
    assert 'versions' in written


def test_toys_are_not_compared_with_the_paper(columns, tmp_path):
    put_results(columns[0].workdir, 'table1', [(0.1, 1.6, 70.0)])
    table = paper.load('table1')
    text = layout.write(epath.Path(tmp_path), 'Table 1', table, columns, toy=True)
    assert cells_of(text, '0.1')[0] == '1.60 ± 0.25 (1.55)'
    assert 'compare the shape' in text


def test_features_without_logits(columns, tmp_path):
    """FD-768 stands in the column of FID, and IS is not measured."""
    put_results(columns[0].workdir, 'table1', [])
    path = columns[0].workdir / 'sweep' / 'table1' / 'results.json'
    results = json.loads(path.read_text())
    results['rows'] = [{'w': 0.1, 'fd768': 0.5, 'fd768_se': 0.1, 'sfid': 40.0}]
    path.write_text(json.dumps(results))
    table = paper.load('table1')
    text = layout.write(epath.Path(tmp_path), 'Table 1', table, columns, toy=True)
    assert cells_of(text, '0.1')[:2] == ['0.50 ± 0.10 (1.55)', '- (66.11)']
    assert 'FD-768' in text
    assert (tmp_path / 'curves.png').exists()


def test_several_jobs_fill_one_column(columns):
    workdir = columns[0].workdir
    put_results(workdir, 'table1' + layout.job_name((2.0, 4.0)), [(2.0, 20.0, 200.0)])
    put_results(workdir, 'table1' + layout.job_name((0.1,)), [(0.1, 1.6, 70.0)])
    put_results(workdir, 'quickly', [(0.5, 9.9, 99.0)])
    rows, results = layout.collect(columns[0])
    assert [row['w'] for row in rows] == [0.1, 2.0]
    assert len(results) == 2


def test_jobs_with_other_settings_do_not_mix(columns):
    workdir = columns[0].workdir
    put_results(workdir, 'table1', [(0.1, 1.6, 70.0)])
    put_results(workdir, 'table1-w4', [(4.0, 30.0, 250.0)], num_samples=50)
    message = user_error(layout.collect, columns[0])
    assert 'num_samples: 50 and 40' in message
    assert 'table1-w4' in message


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('labels', 'balanced'),
        ('guidance', 'Projected()'),
        ('weights_sha256', 'ab' * 32),
        ('rounding', 'truncate'),
        ('seeds', [0, 1]),
        ('is_splits', 1),
        ('reference', {'sha256': 'cd' * 32}),
    ],
)
def test_cells_of_another_protocol_do_not_mix(columns, field, value):
    workdir = columns[0].workdir
    put_results(workdir, 'table1', [(0.1, 1.6, 70.0)])
    put_results(workdir, 'table1-w4', [(4.0, 30.0, 250.0)], **{field: value})
    assert f'differ in {field}: ' in user_error(layout.collect, columns[0])


def test_select(columns):
    assert layout.select(columns, ()) == columns
    assert layout.select(columns, (0.5, 0.1)) == [columns[0], columns[2]]
    message = user_error(layout.select, columns, (0.3,))
    assert '--only=0.3' in message
    assert '0.1, 0.2, 0.5' in message


@pytest.fixture
def started(monkeypatch):
    """Stands in for training and sweeping; records what would have been run."""
    runs = []

    def train(config, workdir):
        return argparse.Namespace(step=np.int32(6))

    def sweep_run(config, workdir, name, extractor, step):
        assert step == 6
        rows = [(w, 5.0 + w, 9.0 + w) for w in config.sweep.w]
        put_results(workdir, name, rows)
        runs.append((config, workdir.name, name))

    monkeypatch.setattr(layout.loop, 'train', train)
    monkeypatch.setattr(layout.EXTRACTORS, 'load', lambda name: lambda *args: None)
    monkeypatch.setattr(layout.sweep, 'run', sweep_run)
    return runs


def test_table1_runs_three_models(started, tmp_path, capsys):
    command = ['experiments/table1.py', '--preset=digits', f'--root={tmp_path}']
    status, lines, errors = run_here(capsys, *command)
    assert (status, errors) == (0, [])
    assert [config.p_uncond for config, _, _ in started] == [0.1, 0.2, 0.5]
    assert len({workdir for _, workdir, _ in started}) == 3
    assert all(len(config.sweep.w) == 14 for config, _, _ in started)
    assert {config.data.name for config, _, _ in started} == {'digits'}
    assert cells_of('\n'.join(lines), '0.1')[0] == '5.10 ± 0.25 (1.55)'
    assert {'table.md', 'curves.png', 'results.json'} <= {p.name for p in tmp_path.iterdir()}


def test_table2_samples_one_model_three_ways(started, tmp_path, capsys):
    command = ['experiments/table2.py', '--preset=digits', f'--root={tmp_path}']
    status, lines, errors = run_here(capsys, *command)
    assert (status, errors) == (0, [])
    assert [config.sampler.num_steps for config, _, _ in started] == [4, 8, 32]
    assert {workdir for _, workdir, _ in started} == {'model'}
    assert len({name for _, _, name in started}) == 3
    assert cells_of('\n'.join(lines), '0.3')[2] == '5.30 ± 0.25 (2.43)'


@pytest.mark.parametrize(
    ('name', 'values', 'field'),
    [('table1', [0.1, 0.2, 0.5], 'p_uncond'), ('table2', [128, 256, 1024], 'num_steps')],
)
def test_the_papers_size(started, tmp_path, capsys, name, values, field):
    command = [f'experiments/{name}.py', f'--root={tmp_path}', '--inception=/weights.npz']
    status, _, errors = run_here(capsys, *command, '--config.data.data_dir=/data')
    assert (status, errors) == (0, [])
    configs = [config for config, _, _ in started]
    found = [getattr(config, field, None) or config.sampler.num_steps for config in configs]
    assert found == values
    for config in configs:
        assert config.data.name == 'imagenet2012'
        assert config.data.data_dir == '/data'
        assert config.sweep.inception == '/weights.npz'
        assert config.sweep.num_samples == 50_000
        assert [row['w'] for row in paper.load(name).rows[values[0]]] == list(config.sweep.w)


def test_a_job_takes_some_cells(started, tmp_path, capsys):
    command = ['experiments/table1.py', '--preset=digits', f'--root={tmp_path}']
    for job in (['--only=0.2', '--w=0,0.1'], ['--only=0.2', '--w=4']):
        status, lines, errors = run_here(capsys, *command, *job)
        assert (status, errors) == (0, [])
    assert [workdir for _, workdir, _ in started] == 2 * ['p_uncond_0.2']
    assert len({name for _, _, name in started}) == 2
    text = '\n'.join(lines)
    assert cells_of(text, '0.1')[2].startswith('5.10')
    assert cells_of(text, '4')[2].startswith('9.00')
    assert cells_of(text, '4')[0] == '- (26.22)'


@pytest.fixture
def fill(tmp_path, monkeypatch, capsys):
    """Fills a column of Table 1, at toy size, with a model of so many steps: (status, errors)."""
    monkeypatch.setattr(classifier, '_EPOCHS', 1)
    monkeypatch.setattr(experiment('table1'), 'P_UNCOND', (0.1,))

    def fill(steps, *more):
        command = ['experiments/table1.py', '--preset=digits', f'--root={tmp_path}', *more]
        with toy_instead_of_networks():
            overrides = tiny_arguments(train__steps=steps)
            status, _, errors = run_here(capsys, *command, *overrides)
        return status, errors

    return fill


def test_what_is_measured_is_what_was_trained(fill, tmp_path):
    """A longer training is refused before it begins, and measured once the old sweep is away."""
    workdir = tmp_path / 'p_uncond_0.1'
    assert fill(2) == (0, [])
    first = (tmp_path / 'results.json').read_text()
    for more in ([], ['--w=4']):  # another job of the column too
        status, [error] = fill(4, *more)
        assert status == 2
        assert f'{workdir / "sweep" / "table1"} is of step 2' in error
        assert 'train.steps=4' in error
        assert checkpoint_steps(workdir)[-1] == 2
    assert fill(2) == (0, [])
    assert (tmp_path / 'results.json').read_text() == first
    (workdir / 'sweep').rename(tmp_path / 'away')
    assert fill(4) == (0, [])
    [results] = json.loads((tmp_path / 'results.json').read_text())['columns']['0.1']['results']
    assert results['checkpoint_step'] == 4


def test_other_samples_are_refused_with_advice_that_the_command_can_follow(fill, tmp_path):
    assert fill(2) == (0, [])
    status, [error] = fill(2, '--config.sweep.seed=3')
    assert status == 2
    assert 'seed' in error
    assert '--root' in error
    (tmp_path / 'p_uncond_0.1' / 'sweep').rename(tmp_path / 'away')
    assert fill(2, '--config.sweep.seed=3') == (0, [])


def test_the_model_keeps_the_config_that_it_was_trained_with(fill, tmp_path):
    """Whatever a job sweeps: later commands would sample with it."""
    assert fill(2, '--w=4') == (0, [])
    path = tmp_path / 'p_uncond_0.1' / 'config.json'
    trained = path.read_text()
    assert json.loads(trained)['sweep']['w'] == [0.0, 1.0]
    assert fill(2, '--w=1') == (0, [])
    assert path.read_text() == trained


def test_a_sweep_of_a_later_step_is_refused(fill, tmp_path):
    """Of a model that is gone, and was trained for longer."""
    workdir = tmp_path / 'p_uncond_0.1'
    assert fill(4) == (0, [])
    (workdir / 'checkpoints').rename(tmp_path / 'away')
    status, [error] = fill(2)
    assert status == 2
    assert 'checkpoint_step' in error


def test_mistakes(tmp_path, capsys):
    for command, words in (
        (['experiments/table1.py', '--preset=tiny'], '--data'),
        (['experiments/table2.py', '--preset=digits', '--only=12'], '4, 8, 32'),
        (['experiments/table1.py', '--preset=digits', '--config.p_uncnd=1'], 'p_uncond'),
        (['experiments/table1.py', '--preset=digits', '--config.p_uncond=0.3'], 'passed over'),
        (
            ['experiments/table2.py', '--preset=digits', '--config.sampler.num_steps=9'],
            'passed over',
        ),
        (
            ['experiments/table2.py', '--preset=digits', "--config.sweep.metrics=('fid',)"],
            'lacks is',
        ),
    ):
        status, _, errors = run_here(capsys, *command, f'--root={tmp_path}')
        assert status == 2
        assert len(errors) == 1
        assert words in errors[0]
