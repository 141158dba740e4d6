"""Rows of metrics as Markdown tables."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cfg_jax.evaluation.rows import Row
from cfg_jax.metrics import METRICS
from cfg_jax.metrics.features import EXTRACTORS

_WITH_ANOTHER = ('_se', '_std', '_min')  # what joins the cell of another key
_INVALID = 'invalid'
_LARGE = 1e6  # above it digits behind the point say nothing


class _Column(NamedTuple):
    heading: str
    format: str
    higher_is_better: bool
    bold: bool


@functools.cache
def _columns() -> dict[str, _Column]:
    """The column of each key of a row, for every distance that extractors have."""
    return {
        METRICS.key(name, extractor.distance): _Column(
            metric.title(extractor.distance),
            metric.format or extractor.format,
            metric.higher_is_better,
            metric.bold,
        )
        for extractor in EXTRACTORS.values()
        for name, metric in METRICS.items()
    }


def _column(key: str) -> _Column | None:
    """The column of a key, or of the metric whose variant it is, such as 'is_judge' of 'is'."""
    return _columns().get(key) or _columns().get(key.rpartition('_')[0])


def sweep_table(rows: Sequence[Row]) -> str:
    """A guidance sweep: w, s = 1 + w and the metrics; the best FID and IS are bold."""
    leading = [{'w': f'{row["w"]:g}', 's = 1 + w': f'{1 + row["w"]:g}'} for row in rows]
    return metric_table(rows, leading)


def metric_table(
    rows: Sequence[Row],
    leading: Sequence[dict[str, str]],
    *,
    names: Mapping[str, str] | None = None,
    bold: bool = True,
) -> str:
    """Metrics of each row behind its `leading` cells {heading: text}.

    A cell holds the mean, then ± the standard error where there is one, else the deviation over
    splits or subsets; over several seeds (min, standard deviation over seeds) follow.

    Args:
      rows: a metric that one of them lacks is an empty cell there.
      leading: a row's first cells.
      names: headings of keys that are called otherwise here.
      bold: whether the best values are.
    """
    keys = _keys_of_all(rows)
    headings = [*leading[0], *((names or {}).get(key, heading(key)) for key in keys)]
    best_of = rows if bold else ()
    lines = ['| ' + ' | '.join(headings) + ' |', '|' + '---|' * len(headings)]
    for row, first in zip(rows, leading, strict=True):
        cells = [*first.values(), *(_cell(key, row, best_of) for key in keys)]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


def metric_keys(row: Row) -> list[str]:
    """The metrics of a row: its numbers without w, errors and deviations."""
    return [
        key
        for key, value in row.items()
        if isinstance(value, float) and key != 'w' and not key.endswith(_WITH_ANOTHER)
    ]


def _keys_of_all(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in metric_keys(row)))


def heading(key: str) -> str:
    """What a key of a row is called in tables and plots."""
    column = _columns().get(key)
    return column.heading if column else key


def higher_is_better(key: str) -> bool:
    """Which way a metric goes; distances, unknown ones too, go down."""
    column = _column(key)
    return column is not None and column.higher_is_better


def formatted(key: str, value: float) -> str:
    """A metric's value, or its error, with as many digits as tables show."""
    column = _column(key)
    return format(value, column.format if column and abs(value) < _LARGE else '.4g')


def cell(key: str, row: Row) -> str:
    """A metric of a row with its error, and (min, deviation) over several seeds."""
    return _value(key, row) + _uncertainty(key, row)


def is_best(key: str, row: Row, rows: Sequence[Row]) -> bool:
    """Whether tables print the metric of `row` in bold: the best of several `rows`."""
    column = _column(key)
    if column is None or not column.bold or len(rows) < 2:
        return False
    best = max if higher_is_better(key) else min
    values = (other.get(key, math.nan) for other in rows)
    return row[key] == best((value for value in values if not math.isnan(value)), default=None)


def _value(key: str, row: Row) -> str:
    return _INVALID if math.isnan(row[key]) else formatted(key, row[key])


def _uncertainty(key: str, row: Row) -> str:
    if math.isnan(row[key]):
        return ''
    text = ''
    error = row.get(f'{key}_se', row.get(f'{key}_std'))
    if error is not None:
        text += f' ± {formatted(key, error)}'
    if f'{key}_min' in row:
        least, deviation = row[f'{key}_min'], row[f'{key}_seed_std']
        text += f' (min {formatted(key, least)}, sd {formatted(key, deviation)})'
    return text


def meaning_of_errors(rows: Sequence[Row]) -> str:
    """What ± means in a table of these rows, such as '± standard errors'; '' where there is none.

    IS and KID have deviations over splits or subsets where no standard errors were asked for.
    """
    keys = _keys_of_all(rows)
    errors = [key for key in keys if any(f'{key}_se' in row for row in rows)]
    deviations = [
        key for key in keys if key not in errors and any(f'{key}_std' in row for row in rows)
    ]
    words = []
    if errors:
        words.append(f'standard errors ({", ".join(map(heading, errors))})')
    if deviations:
        words.append(f'deviations over splits or subsets ({", ".join(map(heading, deviations))})')
    return f'± {"; ".join(words)}' if words else ''


def _cell(key: str, row: Row, rows: Sequence[Row]) -> str:
    if key not in row:
        return ''
    value = _value(key, row)
    return (f'**{value}**' if is_best(key, row, rows) else value) + _uncertainty(key, row)
