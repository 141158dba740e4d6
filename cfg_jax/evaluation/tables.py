"""Rows of scores as Markdown tables."""

from collections.abc import Mapping, Sequence

from cfg_jax.evaluation import scoring

Row = dict[str, float]

# key -> (heading, format); the distances of other extractors go by their key
_COLUMNS = {
    'fid': ('FID', '.2f'),
    'fd768': ('FD-768', '.4f'),
    'sfid': ('sFID', '.2f'),
    'is': ('IS', '.3f'),
    'precision': ('precision', '.3f'),
    'recall': ('recall', '.3f'),
    'kid': ('KID', '.5f'),
    'fid_infinity': ('FID∞', '.2f'),
    'fd768_infinity': ('FD-768∞', '.4f'),
    'class_agreement': ('class agreement', '.1%'),
}
_HIGHER_IS_BETTER = {key for key, higher in scoring.METRICS.items() if higher} | {'class_agreement'}
_BOLD = {'fid', 'fd768', 'is'}
_BESIDE = ('_se', '_std', '_min')  # what joins the cell of another key


def sweep_table(rows: Sequence[Row]) -> str:
    """A guidance sweep: w, s = 1 + w and the scores; the best FID and IS are bold."""
    leading = [{'w': f'{row["w"]:g}', 's = 1 + w': f'{1 + row["w"]:g}'} for row in rows]
    return score_table(rows, leading)


def score_table(
    rows: Sequence[Row],
    leading: Sequence[dict[str, str]],
    *,
    names: Mapping[str, str] | None = None,
    bold: bool = True,
) -> str:
    """Scores of each row behind its `leading` cells {heading: text}.

    A cell says the mean, then ± the standard error where it was bootstrapped, else the deviation
    over splits or subsets; over several seeds (min, standard deviation over seeds) follow.

    Args:
      rows: of the same scores.
      leading: a row's first cells.
      names: headings of keys that are called otherwise here.
      bold: whether the best scores are.
    """
    keys = score_keys(rows[0])
    headings = [*leading[0], *((names or {}).get(key, heading(key)) for key in keys)]
    best_of = rows if bold else ()
    lines = ['| ' + ' | '.join(headings) + ' |', '|' + '---|' * len(headings)]
    for row, first in zip(rows, leading, strict=True):
        cells = [*first.values(), *(_cell(key, row, best_of) for key in keys)]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


def score_keys(row: Row) -> list[str]:
    """The scores of a row: its numbers without w, errors and deviations."""
    return [
        key
        for key, value in row.items()
        if isinstance(value, float) and key != 'w' and not key.endswith(_BESIDE)
    ]


def heading(key: str) -> str:
    """What a key of a row is called in tables and pictures."""
    return _COLUMNS[key][0] if key in _COLUMNS else key


def higher_is_better(key: str) -> bool:
    """Which way a score goes; distances, unknown ones too, go down."""
    return key in _HIGHER_IS_BETTER


def _cell(key: str, row: Row, rows: Sequence[Row]) -> str:
    spec = _COLUMNS[key][1] if key in _COLUMNS else '.4g'
    text = format(row[key], spec)
    best = max if higher_is_better(key) else min
    if key in _BOLD and len(rows) > 1 and row[key] == best(other[key] for other in rows):
        text = f'**{text}**'
    error = row.get(f'{key}_se', row.get(f'{key}_std'))
    if error is not None:
        text += f' ± {error:{spec}}'
    if f'{key}_min' in row:
        text += f' (min {row[f"{key}_min"]:{spec}}, sd {row[f"{key}_seed_std"]:{spec}})'
    return text
