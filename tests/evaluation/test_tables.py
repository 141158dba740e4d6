"""Markdown tables of metrics, cell by cell."""

import pytest

from cfg_jax.evaluation import rows as rows_lib, tables
from cfg_jax.metrics import METRICS


def cells(table):
    """The cells of each line, the line of dashes left out."""
    lines = table.splitlines()
    assert table.endswith('|\n')
    assert set(lines[1]) == {'|', '-'}
    assert len({line.count('|') for line in lines}) == 1  # every line has as many cells
    return [[cell.strip() for cell in line[1:-1].split('|')] for line in (lines[0], *lines[2:])]


def column(rows, key):
    """What stands below the heading of `key`."""
    table = cells(tables.metric_table(rows, [{'set': str(i)} for i in range(len(rows))]))
    place = table[0].index(tables.heading(key))
    return [line[place] for line in table[1:]]


def test_a_whole_table():
    rows = [
        {'images': 'a', 'fid': 12.346, 'is': 3.25, 'is_std': 0.125, 'precision': 0.5},
        {'images': 'b', 'fid': 2.0, 'is': 4.0, 'is_std': 0.25, 'precision': 0.75},
    ]
    leading = [{'samples': 'a.npz'}, {'samples': 'b.npz'}]
    assert tables.metric_table(rows, leading) == (
        '| samples | FID | IS | precision |\n'
        '|---|---|---|---|\n'
        '| a.npz | 12.35 | 3.250 ± 0.125 | 0.500 |\n'
        '| b.npz | **2.00** | **4.000** ± 0.250 | 0.750 |\n'
    )


def test_sweeps_show_both_scales():
    table = cells(tables.sweep_table([{'w': 0.0, 'fid': 3.0}, {'w': 0.25, 'fid': 2.0}]))
    assert table == [
        ['w', 's = 1 + w', 'FID'],
        ['0', '1', '3.00'],
        ['0.25', '1.25', '**2.00**'],
    ]


@pytest.mark.parametrize(
    ('key', 'values', 'best'),
    [
        ('fid', (3.0, 2.0, 4.0), {1}),
        ('fd768', (3.0, 2.0, 4.0), {1}),
        ('is', (3.0, 2.0, 4.0), {2}),
        ('fid', (2.0, 2.0, 4.0), {0, 1}),
        ('fid', (2.0,), set()),
        ('recall', (0.3, 0.2, 0.4), set()),
    ],
)
def test_the_best_is_bold(key, values, best):
    texts = column([{key: value} for value in values], key)
    assert {i for i, text in enumerate(texts) if text.startswith('**')} == best
    assert [float(text.strip('*')) for text in texts] == list(values)


def test_the_best_of_seeds_is_that_of_their_means():
    summary = {'fid_seed_std': 0.5}
    rows = [
        {'fid': 3.0, 'fid_min': 1.0} | summary,
        {'fid': 2.0, 'fid_min': 1.5} | summary,
    ]
    assert column(rows, 'fid') == ['3.00 (min 1.00, sd 0.50)', '**2.00** (min 1.50, sd 0.50)']


@pytest.mark.parametrize(
    ('errors', 'words'),
    [
        ({}, '3.000'),
        ({'is_std': 0.2}, '3.000 ± 0.200'),
        ({'is_se': 0.1}, '3.000 ± 0.100'),
        ({'is_std': 0.2, 'is_se': 0.1}, '3.000 ± 0.100'),
        ({'is_se': 0.0, 'is_std': 0.2}, '3.000 ± 0.000'),
        (
            {'is_std': 0.2, 'is_se': 0.1, 'is_min': 2.5, 'is_seed_std': 0.4},
            '3.000 ± 0.100 (min 2.500, sd 0.400)',
        ),
    ],
)
def test_errors_join_the_cell(errors, words):
    assert column([{'is': 3.0} | errors], 'is') == [words]


def test_rows_over_seeds_make_a_table():
    """What `over_seeds` calls its keys is what the table looks for."""
    rows = [{'fid': value, 'kid': value / 1000, 'kid_std': 0.0001} for value in (1.0, 2.0, 6.0)]
    summary = rows_lib.over_seeds(rows)
    table = cells(tables.metric_table([summary], [{'over sets': '3 sets'}]))
    assert table == [
        ['over sets', 'FID', 'KID'],
        [
            '3 sets',
            '3.00 (min 1.00, sd 2.65)',
            '0.00300 ± 0.00010 (min 0.00100, sd 0.00265)',
        ],
    ]


def test_agreement_is_in_percent():
    assert column([{'class_agreement': 0.5}], 'class_agreement') == ['50.0%']


def test_a_variant_of_a_metric_is_written_and_judged_like_it():
    """Of another instrument or reference: its own heading, as many digits, the best in bold."""
    rows = [
        {'fid': 2.0, 'fid_validation': 3.14159, 'is_judge': 7.53, 'is_judge_se': 0.07516},
        {'fid': 1.0, 'fid_validation': 2.71828, 'is_judge': 9.0, 'is_judge_se': 0.1},
    ]
    assert column(rows, 'fid_validation') == ['3.14', '**2.72**']
    assert column(rows, 'is_judge') == ['7.530 ± 0.075', '**9.000** ± 0.100']
    agreement = [{'class_agreement_judge': 0.1528, 'class_agreement_judge_se': 0.005}]
    assert column(agreement, 'class_agreement_judge') == ['15.3% ± 0.5%']


@pytest.mark.parametrize('distance', ['FID', 'FD-768'])
def test_every_metric_has_a_column(distance):
    keys = [METRICS.key(name, distance) for name in METRICS]
    headings = [tables.heading(key) for key in keys]
    assert headings[0] == distance
    assert len(set(headings)) == len(keys)
    table = cells(tables.metric_table([dict.fromkeys(keys, 1.0)], [{'set': 'a'}]))
    assert table[0] == ['set', *headings]


def test_rows_and_leading_cells_go_together():
    with pytest.raises(ValueError, match='zip'):
        tables.metric_table([{'fid': 1.0}, {'fid': 2.0}], [{'set': 'a'}])


def test_invalid_rows_say_so_and_are_never_best():
    nan = float('nan')
    assert column([{'fid': nan}, {'fid': 3.0}, {'fid': 4.0}], 'fid') == [
        'invalid',
        '**3.00**',
        '4.00',
    ]
    assert column([{'fid': nan}, {'fid': nan}], 'fid') == ['invalid', 'invalid']


def test_counts_and_notes_are_no_columns():
    row = {'w': 1.0, 'fid': 2.0, 'images_not_finite': 3, 'notes': ['a'], 'nfe': 8}
    assert tables.metric_keys(row) == ['fid']


def test_rows_of_different_metrics_make_a_table_in_either_order():
    """Lengths of the average whose sweeps have other metrics."""
    rows = [{'w': 0.0, 'fid': 2.0}, {'w': 0.0, 'fid': 1.0, 'precision': 0.5}]
    for order in (rows, rows[::-1]):
        lines = tables.metric_table(order, [{'row': '1'}, {'row': '2'}]).splitlines()
        assert lines[0] == '| row | FID | precision |'
        assert {line.partition(' | ')[2] for line in lines[2:]} == {
            '2.00 |  |',
            '**1.00** | 0.500 |',
        }


@pytest.mark.parametrize(
    ('row', 'words'),
    [
        ({'fid': 1.0}, ''),
        ({'fid': 1.0, 'fid_se': 0.1}, '± standard errors (FID)'),
        (
            {'fid': 1.0, 'fid_se': 0.1, 'is': 2.0, 'is_se': 0.1, 'is_std': 0.2, 'kid': 0.1}
            | {'kid_std': 0.1},
            '± standard errors (FID, IS); deviations over splits or subsets (KID)',
        ),
        ({'is': 2.0, 'is_std': 0.2}, '± deviations over splits or subsets (IS)'),
    ],
)
def test_what_the_sign_means(row, words):
    assert tables.meaning_of_errors([row]) == words
