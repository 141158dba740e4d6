"""What Table 1 and Table 2 share: runs that fill a table's columns, and the table in the paper's
layout, ours next to the paper's."""

import functools
import json
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from absl import logging
from etils import epath
from matplotlib.axes import Axes
from ml_collections import ConfigDict
from shared_parts.paper import Row, Table

from cfg_jax import files, provenance
from cfg_jax.distributed import multihost
from cfg_jax.errors import UserError
from cfg_jax.evaluation import plots, results as results_lib, style, sweep, tables
from cfg_jax.metrics.features import EXTRACTORS
from cfg_jax.training import loop

# What jobs that measure cells of one column must have in common.
_ONE_COLUMN = ('checkpoint_step', 'weights', 'weights_sha256', 'num_samples', 'labels', 'rounding')
_ONE_COLUMN += ('guidance', 'guidance_network', 'sampler', 'features', 'seed', 'seeds', 'reference')
_ONE_COLUMN += ('is_splits', 'guidance_revision')


class Column(NamedTuple):
    """One column of a table: a model and how it is sampled."""

    value: float  # of p_uncond or T here
    paper_value: float  # of the paper's column that it answers
    trained: ConfigDict  # which stays with the model, whatever is swept
    config: ConfigDict
    workdir: epath.Path
    sweep_name: str


def run(
    root: epath.Path, title: str, table: Table, columns: Sequence[Column], options: Namespace
) -> None:
    """Fills what --only and --w choose, then writes and prints the table of all there is."""
    fill(select(columns, options.only), root, job_name(options.w))
    if multihost.is_process_zero():
        print('\n' + write(root, title, table, columns, toy=options.preset != 'paper'))
        print(f'written to {root}')


def fill(columns: Sequence[Column], root: epath.Path, job: str = '') -> None:
    """Trains each column's model, or resumes it, and sweeps its w.

    `job` joins the name of the sweep's directory, so that jobs with other w leave each other's
    results alone. All columns share the feature extractor in `root`.

    Raises:
      UserError: a sweep of this column is of another step than training leads to.
    """
    # Before any training: wrong weights must not wait for it.
    extractor = EXTRACTORS.load(columns[0].config.sweep.features)(columns[0].config, root)
    for column in columns:
        logging.info('\n%s in %s', column.sweep_name, column.workdir)
        multihost.run_on_process_zero('sweeps', functools.partial(_check_steps, column))
        # The named sweep alone would go on with the checkpoint that it was started with.
        step = int(loop.train(column.trained, column.workdir).step)
        sweep.run(column.config, column.workdir, column.sweep_name + job, extractor, step)


def _check_steps(column: Column) -> None:
    """Refuses, before hours of training, what would lead past the step that a sweep is of."""
    for directory in sorted(column.workdir.glob(f'sweep/{column.sweep_name}*')):
        step = results_lib.step_of(directory)
        if step is not None and step < column.config.train.steps:
            raise UserError(
                f'{directory} is of step {step}, and train.steps={column.config.train.steps} would'
                ' train on: move it away, or choose another --root'
            )


def job_name(weights: Sequence[float]) -> str:
    """What distinguishes the sweep of a job that fills only some cells of a column."""
    return ''.join(f'-w{w:g}' for w in weights)


def select(columns: Sequence[Column], only: Sequence[float]) -> list[Column]:
    """The columns with these values; all for ().

    Raises:
      UserError: a value that no column has.
    """
    values = [column.value for column in columns]
    for value in only:
        if value not in values:
            held = ', '.join(f'{value:g}' for value in values)
            raise UserError(f'--only={value:g} is not a column of this table; choose from {held}')
    return [column for column in columns if not only or column.value in only]


def collect(column: Column) -> tuple[list[Row], list[dict[str, Any]]]:
    """Rows that any job has finished for a column, in the order of w, and the results they are of.

    Raises:
      UserError: two jobs measured the column with different settings.
    """
    found = sorted(column.workdir.glob(f'sweep/{column.sweep_name}*/results.json'))
    results = [json.loads(path.read_text()) for path in found]
    settings = [
        results_lib.comparable(held)
        | {'is_splits': held.get('is_splits')}
        | {'reference': held.get('reference', {}).get('sha256')}
        for held in results
    ]
    for path, other in zip(found, settings, strict=True):
        for key in _ONE_COLUMN:
            if other.get(key) != settings[0].get(key):
                raise UserError(
                    f'{path} and {found[0]} differ in {key}: {other.get(key)} and'
                    f' {settings[0].get(key)}; move one of them away'
                )
    rows = {row['w']: _with_fid(row) for held in results for row in held['rows']}
    return [rows[w] for w in sorted(rows)], results


def write(root: epath.Path, title: str, table: Table, columns: Sequence[Column], toy: bool) -> str:
    """Writes table.md, curves.png and results.json of what is there so far; returns the table.

    Args:
      root: the directory.
      title: of the picture and the file.
      table: the paper's.
      columns: ours.
      toy: whether ours is of other data, so that differences would mean nothing.
    """
    collected = {column.value: collect(column) for column in columns}
    ours = {value: rows for value, (rows, _) in collected.items()}
    text = f'# {title}\n\n' + markdown(table, columns, ours, toy)
    files.write_bytes(root / 'table.md', text.encode())
    files.write_json(
        root / 'results.json',
        {
            'table': title,
            'columns': {
                f'{value:g}': {'rows': rows, 'results': results}
                for value, (rows, results) in collected.items()
            },
            **provenance.describe_environment(),
        },
    )
    draw(root / 'curves.png', title, table, columns, ours)
    return text


def markdown(
    table: Table, columns: Sequence[Column], ours: dict[float, list[Row]], toy: bool
) -> str:
    """A row per w: FID and IS of each column, ours next to the paper's; then the baselines."""
    weights = sorted({row['w'] for rows in ours.values() for row in rows} | _paper_weights(table))
    headings = ['w']
    for column in columns:
        name = f'{table.columns} = {column.value:g}'
        headings += [f'FID, {name}', f'IS, {name}']
    lines = ['| ' + ' | '.join(headings) + ' |', '|' + '---|' * len(headings)]
    for w in weights:
        cells = [f'{w:g}']
        for column in columns:
            mine = _at(ours[column.value], w)
            theirs = _at(table.rows[column.paper_value], w)
            cells += [_cell(key, mine, theirs, toy) for key in ('fid', 'is')]
        lines.append('| ' + ' | '.join(cells) + ' |')
    baselines = [
        f'| {name} | {row["fid"]:g} | {row.get("is", "not given")} |'
        for name, row in table.baselines.items()
    ]
    how = 'ours (paper)' if toy else 'ours (paper, ours - paper)'
    note = f'Cells: {how}; - is not measured. The paper: {table.dataset}, 50,000 samples.'
    if toy:
        note += (
            ' Ours is of other data at toy size, and with weights that end early it is FD-768'
            ' instead of FID: compare the shape, not the numbers.'
        )
    baseline_table = '\n'.join(
        ['| baselines in the paper | FID | IS |', '|---|---|---|', *baselines]
    )
    return '\n'.join(lines) + f'\n\n{note}\n\n{baseline_table}\n'


def draw(
    path: epath.Path,
    title: str,
    table: Table,
    columns: Sequence[Column],
    ours: dict[float, list[Row]],
) -> None:
    """FID against IS, a curve per column: ours, the paper's; between them ours against w, since on
    easy data the first curve turns vertical where IS comes to its limit."""
    figure, axes = plt.subplots(1, 3, figsize=(15.5, 4.8), layout='constrained')
    style.headline(figure, title)
    for column in columns:
        rows = ours[column.value]
        label = f'{table.columns} = {column.value:g}'
        with_is = [row for row in rows if 'is' in row]
        _draw_curve(axes[0], with_is, 'is', label)
        _draw_curve(axes[1], rows, 'w', label)
        paper = [row for row in table.rows[column.paper_value] if 'is' in row]
        _draw_curve(axes[2], paper, 'is', f'{table.columns} = {column.paper_value:g}')
    distances = [row['fid'] for rows in ours.values() for row in rows]
    style.weight_axis(axes[1], sorted({row['w'] for rows in ours.values() for row in rows}))
    names = ('ours', 'ours, along w', f'the paper, {table.dataset}')
    for panel, name in zip(axes, names, strict=True):
        panel.set(ylabel='FID', title=name)
        if panel is not axes[1]:
            panel.set(xlabel='IS')
            panel.locator_params(axis='x', nbins=5)
    for panel in axes[:2]:
        style.log_if_wide(panel, distances)
    for panel in axes:
        style.name_ends(panel)
    plots.save(path, figure)


def _draw_curve(panel: Axes, rows: Sequence[Row], key: str, label: str) -> None:
    errors = [row.get('fid_se', 0.0) for row in rows]
    values = [row['fid'] for row in rows]
    panel.errorbar([row[key] for row in rows], values, yerr=errors, fmt='o-', label=label)


def _with_fid(row: Row) -> Row:
    """The row with its Frechet distance under 'fid', whatever features it is made with."""
    distance = next(key for key in tables.metric_keys(row) if not tables.higher_is_better(key))
    names = {distance: 'fid', f'{distance}_se': 'fid_se'}
    return {names.get(key, key): value for key, value in row.items()}


def _paper_weights(table: Table) -> set[float]:
    return {row['w'] for rows in table.rows.values() for row in rows}


def _at(rows: Sequence[Row], w: float) -> Row | None:
    return next((row for row in rows if row['w'] == w), None)


def _cell(key: str, mine: Row | None, theirs: Row | None, toy: bool) -> str:
    paper = f'{theirs[key]:.2f}' if theirs else '-'
    if mine is None or key not in mine:
        return f'- ({paper})'
    error = f' ± {mine[f"{key}_se"]:.2f}' if f'{key}_se' in mine else ''
    difference = '' if toy or theirs is None else f', {mine[key] - theirs[key]:+.2f}'
    return f'{mine[key]:.2f}{error} ({paper}{difference})'
