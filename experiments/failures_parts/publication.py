"""The table and the picture of failures.py."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import config as config_lib, files, provenance
from cfg_jax.evaluation import plots
from failures_parts.long_tail import RARE, SHARE, UNSEEN
from failures_parts.measurement import SHOWN, Group


def write(
    directory: epath.Path,
    groups: Sequence[Group],
    config: ConfigDict,
    count: int,
    record: Mapping[str, Any],
) -> str:
    """Writes table.md, failures.png and results.json, with `record`; returns the table."""
    text = markdown(groups, count)
    files.write_bytes(directory / 'table.md', text.encode())
    records = [
        {key: value for key, value in group._asdict().items() if key != 'pictures'}
        for group in groups
    ]
    files.write_json(
        directory / 'results.json',
        {
            'groups': records,
            'images_a_digit': count,
            **record,
            'config': config_lib.to_json(config),
            **provenance.describe_environment(),
        },
    )
    draw(directory / 'failures.png', groups)
    return text


def markdown(groups: Sequence[Group], count: int) -> str:
    """A row a training, kind of digit and w."""
    lines = [
        '| trained on | digits | w | of the class asked for | precision | recall | copies |',
        '|---|---|---|---|---|---|---|',
    ]
    order = ('frequent', 'rare', 'unseen')
    for group in sorted(groups, key=lambda g: (g.training, order.index(g.kind), g.w)):
        error = math.sqrt(group.agreement * (1 - group.agreement) / group.count)
        lines.append(
            f'| {group.training} | {group.kind} | {group.w:g} | {group.agreement:.1%} ±'
            f' {error:.1%} | {group.precision:.3f} | {group.recall:.3f} |'
            f' {"" if group.copies is None else f"{group.copies:.2f}"} |'
        )
    note = (
        f'{count} images a digit. In the long tail {RARE} is {SHARE:.0%} of the images (rare), and'
        f' {UNSEEN} is left out (unseen); the other digits are as in the set of all. Precision and'
        ' recall are against all real digits of the class. Copies: the share nearer to one of the'
        ' rare training images than to one of as many that were held out; the training on all'
        ' digits had both and is what to compare with.'
    )
    return '\n'.join(lines) + f'\n\n{note}\n'


def draw(path: epath.Path, groups: Sequence[Group]) -> None:
    """Rows: training and digit, two images each; columns: w, the same noise along a row."""
    trainings = list(dict.fromkeys(group.training for group in groups))
    weights = sorted({group.w for group in groups})
    kind = {SHOWN[0]: 'frequent', RARE: 'rare', UNSEEN: 'unseen'}
    rows, names = [], []
    for training in trainings:
        for digit in SHOWN:
            of = {
                g.w: g.pictures for g in groups if (g.training, g.kind) == (training, kind[digit])
            }
            for i in range(2):
                rows.append([of[w][i] for w in weights])
                names.append(f'{training}: {digit} ({kind[digit]})')
    columns = [f'w = {w:g}' for w in weights]
    plots.save_sample_grid(path, np.asarray(rows), row_names=names, column_names=columns)
