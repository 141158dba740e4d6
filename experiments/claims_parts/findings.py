"""What the paper found, as inequalities between rows of metrics with standard errors."""

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

SUPPORTED, NOT_SUPPORTED, UNDECIDED = 'supported', 'not supported', 'not enough samples'

_ASSUMED = {'fid': 0.01, 'is': 0.005}  # relative standard errors at 50,000 samples
SIGNIFICANT = 2.0  # standard errors
_SMALL_W = 0.5
_SEVERAL = 3.0
_AGREE = 0.10  # relative difference of FID at equal IS that still counts as the same
_SATURATED = 0.05  # the same, between numbers of steps

_DROPOUT = 'p_uncond 0.1 and 0.2 agree and 0.5 is worse, at equal IS'
_STEPS = 'more sampling steps improve the best FID, up to a point'

Row = dict[str, float]


class Column(NamedTuple):
    """One curve: a model and sampler over w.

    Attributes:
      name: for people.
      setting: 'p_uncond', 'T' and what else decides the numbers, as far as known.
      rows: 'w', 'fid', 'is', 'fid_se', 'is_se' in the order of w; see `with_errors`.
      fid_name, is_name: what 'fid' and 'is' are called where they come from other features.
    """

    name: str
    setting: dict[str, Any]
    rows: list[Row]
    fid_name: str = 'FID'
    is_name: str = 'IS'


class Verdict(NamedTuple):
    """What came out of one claim."""

    claim: str
    verdict: str
    evidence: str


def with_errors(rows: Sequence[Row], num_samples: int) -> list[Row]:
    """The rows with standard errors; where they have none, 1 % of FID and 0.5 % of IS at 50,000
    samples, growing as 1 / sqrt(N) for fewer."""
    scale = np.sqrt(50_000 / num_samples)
    return [
        {f'{key}_se': scale * share * row[key] for key, share in _ASSUMED.items()} | row
        for row in rows
    ]


def check_all(columns: Sequence[Column]) -> list[Verdict]:
    """Every finding that these columns can speak to."""
    found = []
    for column in columns:
        if len(column.rows) < 2:
            claim = f'IS and FID change with w ({column.name})'
            found.append(
                Verdict(claim, UNDECIDED, f'needs several w; there are {len(column.rows)}')
            )
            continue
        found += [is_rises(column), fid_is_best_at_small_w(column), fid_falls_throughout(column)]
    found += _compared(columns, 'p_uncond', _DROPOUT, dropout_half_is_worse)
    found += _compared(columns, 'T', _STEPS, steps_help_up_to_a_point)
    return [named(verdict, columns[0]) for verdict in found]


def _compared(
    columns: Sequence[Column],
    key: str,
    claim: str,
    check: Callable[[dict[float, Column]], Verdict],
) -> list[Verdict]:
    """What `check` says of `claim`, once for all columns that differ in the setting `key` alone, of
    the w that all of them have."""
    groups: dict[tuple[Any, ...], list[Column]] = {}
    for column in columns:
        if key in column.setting:
            others = tuple(sorted(item for item in column.setting.items() if item[0] != key))
            groups.setdefault(others, []).append(column)
    several = {
        others: group
        for others, group in groups.items()
        if len({column.setting[key] for column in group}) > 1
    }
    found = []
    for others, group in several.items():
        cells: dict[float, Column] = {}
        doubles = []
        for column in sorted(group, key=lambda c: c.setting[key]):
            first = cells.setdefault(column.setting[key], column)
            if first is not column:
                where = f'{key} = {column.setting[key]:g}'
                doubles.append(f'{first.name} and {column.name} are both of {where}')
        common = set.intersection(*({row['w'] for row in c.rows} for c in cells.values()))
        if doubles:
            evidence = f'{"; ".join(doubles)}: leave one of them out'
            verdict = Verdict(claim, UNDECIDED, evidence)
        elif len(common) < 2:
            verdict = Verdict(claim, UNDECIDED, 'they have fewer than two w in common')
        else:
            verdict = check({value: _at(column, common) for value, column in cells.items()})
        found.append(verdict._replace(claim=f'{verdict.claim}{_apart(others, list(several))}'))
    return found


def _at(column: Column, weights: set[float]) -> Column:
    return column._replace(rows=[row for row in column.rows if row['w'] in weights])


def _apart(settings: tuple[Any, ...], all_settings: Sequence[tuple[Any, ...]]) -> str:
    """' (T = 256)': what tells a group from the others; '' for the only one."""
    shared = set.intersection(*map(set, all_settings))
    own = [f'{name} = {value}' for name, value in settings if (name, value) not in shared]
    return f' ({", ".join(own)})' if own else ''


def named(verdict: Verdict, column: Column) -> Verdict:
    """The verdict with metrics called what they are in `column`."""
    names = {r'\bFID\b': column.fid_name, r'\bIS\b': column.is_name}
    claim, evidence = verdict.claim, verdict.evidence
    for pattern, name in names.items():
        claim, evidence = re.sub(pattern, name, claim), re.sub(pattern, name, evidence)
    return Verdict(claim, verdict.verdict, evidence)


def is_rises(column: Column) -> Verdict:
    """Tables 1 and 2: IS grows with w; no step down, and the ends differ."""
    claim = f'IS rises with w ({column.name})'
    rows = column.rows
    steps = [(difference(b, a, 'is'), a['w'], b['w']) for a, b in itertools.pairwise(rows)]
    worst, low, high = min(steps)
    rise = difference(rows[-1], rows[0], 'is')
    evidence = (
        f'IS {rows[0]["is"]:.4g} at w = {rows[0]["w"]:g}, {rows[-1]["is"]:.4g} at'
        f' w = {rows[-1]["w"]:g}: {rise:+.1f} standard errors; least step {worst:+.1f}'
        f' (w = {low:g} to {high:g})'
    )
    if worst < -SIGNIFICANT or rise < -SIGNIFICANT:
        return Verdict(claim, NOT_SUPPORTED, evidence)
    return Verdict(claim, SUPPORTED if rise > SIGNIFICANT else UNDECIDED, evidence)


def fid_is_best_at_small_w(column: Column) -> Verdict:
    """Best FID at 0 < w <= 0.5, better than no guidance; several times worse at the largest w."""
    claim = f'FID is best at a small w > 0 and several times worse at large w ({column.name})'
    best = min(column.rows, key=lambda row: row['fid'])
    none, most = column.rows[0], column.rows[-1]
    gain = difference(none, best, 'fid')
    ratio = most['fid'] / best['fid']
    spread = ratio * np.hypot(most['fid_se'] / most['fid'], best['fid_se'] / best['fid'])
    evidence = (
        f'best {best["fid"]:.4g} at w = {best["w"]:g}, {gain:+.1f} standard errors better than'
        f' w = {none["w"]:g}; {ratio:.1f} +- {spread:.1f} times worse at w = {most["w"]:g}'
    )
    if none['w'] != 0.0 or most['w'] < 4.0:
        return Verdict(claim, UNDECIDED, f'needs w = 0 and w >= 4; {evidence}')
    small = [row for row in column.rows if 0.0 < row['w'] <= _SMALL_W]
    doubtful = [row for row in small if difference(row, none, 'fid') < SIGNIFICANT]
    if ratio + SIGNIFICANT * spread < _SEVERAL or best['w'] > _SMALL_W:
        return Verdict(claim, NOT_SUPPORTED, evidence)
    if best['w'] == 0.0:  # unless a small w may be as good
        return Verdict(claim, UNDECIDED if doubtful else NOT_SUPPORTED, evidence)
    certain = gain > SIGNIFICANT and ratio - SIGNIFICANT * spread > _SEVERAL
    return Verdict(claim, SUPPORTED if certain else UNDECIDED, evidence)


def fid_falls_throughout(column: Column) -> Verdict:
    """Section 4.1 has a sentence that FID decreases monotonically with w. Does it?"""
    claim = f'the sentence of section 4.1 that FID falls monotonically with w ({column.name})'
    steps = [(difference(b, a, 'fid'), a, b) for a, b in itertools.pairwise(column.rows)]
    worst, a, b = max(steps, key=lambda step: step[0])
    evidence = (
        f'FID goes from {a["fid"]:.4g} to {b["fid"]:.4g} between w = {a["w"]:g} and'
        f' w = {b["w"]:g}: {worst:+.1f} standard errors'
    )
    if worst > SIGNIFICANT:
        return Verdict(claim, NOT_SUPPORTED, f'contradicted: {evidence}')
    fall = difference(column.rows[0], column.rows[-1], 'fid')
    return Verdict(claim, SUPPORTED if fall > SIGNIFICANT else UNDECIDED, evidence)


def dropout_half_is_worse(columns: dict[float, Column]) -> Verdict:
    """Section 4.2: p_uncond 0.1 and 0.2 perform alike, 0.5 worse across the frontier.

    At equal IS, not at equal w, where 0.5 often has the lower FID because it guides less. Worse
    means: by more than two standard errors at most levels of IS, and better at none.
    """
    claim = _DROPOUT
    if not {0.1, 0.2, 0.5} <= columns.keys():
        held = ', '.join(f'{value:g}' for value in columns)
        return Verdict(claim, UNDECIDED, f'needs p_uncond = 0.1, 0.2 and 0.5; there are {held}')
    tenth, fifth, half = (columns[value].rows for value in (0.1, 0.2, 0.5))
    low = max(rows[0]['is'] for rows in (tenth, fifth, half))
    high = min(rows[-1]['is'] for rows in (tenth, fifth, half))
    if low >= high:
        return Verdict(claim, UNDECIDED, 'the three curves share no range of IS')
    levels = np.linspace(low, high, 9)
    agreement, gaps, doubts = [], [], []
    for level in levels:
        (a, a_error), (b, b_error), (c, c_error) = (
            _at_equal_is(rows, level) for rows in (tenth, fifth, half)
        )
        agreement.append(abs(a - b) / min(a, b))
        doubts.append(np.hypot(a_error, b_error) / min(a, b))
        gaps.append((c - max(a, b)) / np.hypot(c_error, max(a_error, b_error)))
    evidence = (
        f'over IS {low:.4g} to {high:.4g}: 0.1 and 0.2 differ by at most {max(agreement):.1%};'
        f' 0.5 lies {min(gaps):+.1f} to {max(gaps):+.1f} standard errors above the worse of them'
    )
    apart = any(d - SIGNIFICANT * e > _AGREE for d, e in zip(agreement, doubts, strict=True))
    if apart or min(gaps) < -SIGNIFICANT:
        return Verdict(claim, NOT_SUPPORTED, evidence)
    certain = max(agreement) <= _AGREE and np.median(gaps) > SIGNIFICANT
    return Verdict(claim, SUPPORTED if certain else UNDECIDED, evidence)


def steps_help_up_to_a_point(columns: dict[float, Column]) -> Verdict:
    """Section 4.3: more sampling steps improve the best FID, then bring little more."""
    claim = _STEPS
    if len(columns) < 3:
        held = ', '.join(f'{value:g}' for value in columns)
        return Verdict(claim, UNDECIDED, f'needs three numbers of steps; there are {held}')
    best = {t: min(column.rows, key=lambda row: row['fid']) for t, column in columns.items()}
    few, *_, before_last, last = best
    gain = difference(best[few], best[last], 'fid')
    change = best[last]['fid'] / best[before_last]['fid'] - 1.0
    error = np.hypot(*(best[t]['fid_se'] / best[t]['fid'] for t in (before_last, last)))
    listed = ', '.join(f'{row["fid"]:.4g} (T = {t:g}, w = {row["w"]:g})' for t, row in best.items())
    evidence = f'best FID {listed}: {gain:+.1f} standard errors gained, the last step {change:+.1%}'
    if gain < -SIGNIFICANT or abs(change) - SIGNIFICANT * error > _SATURATED:
        return Verdict(claim, NOT_SUPPORTED, evidence)
    certain = gain > SIGNIFICANT and abs(change) + SIGNIFICANT * error <= _SATURATED
    return Verdict(claim, SUPPORTED if certain else UNDECIDED, evidence)


def difference(a: Row, b: Row, key: str) -> float:
    """(a - b) in standard errors of the difference."""
    return (a[key] - b[key]) / max(np.hypot(a[f'{key}_se'], b[f'{key}_se']), 1e-12)


def _at_equal_is(rows: Sequence[Row], level: float) -> tuple[float, float]:
    """FID and its error where a curve passes an IS, by linear interpolation.

    IS is as uncertain as FID: it moves the place on the curve, by its error times the slope there.
    """
    rising = np.maximum.accumulate([row['is'] for row in rows])  # interp wants no step down
    fid, fid_error, is_error = (
        np.interp(level, rising, [row[key] for row in rows]) for key in ('fid', 'fid_se', 'is_se')
    )
    b = min(max(int(np.searchsorted(rising, level)), 1), len(rows) - 1)
    width = rising[b] - rising[b - 1]
    slope = (rows[b]['fid'] - rows[b - 1]['fid']) / width if width else 0.0
    return float(fid), float(np.hypot(fid_error, slope * is_error))
