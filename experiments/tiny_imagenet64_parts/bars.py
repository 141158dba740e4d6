"""What a sweep over photographs must show beside the paper's claims, with standard errors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from claims_parts import columns, findings
from claims_parts.findings import NOT_SUPPORTED, SIGNIFICANT, SUPPORTED, UNDECIDED, Verdict

from tiny_imagenet64_parts.extractor import NAMES

_WORSE = 5.0  # standard errors of the largest w above the best
_UNTRAINED = 1 / 3  # of the untrained network's distance
_AGREEMENT = 1.5  # times as many at w = 1 as at w = 0

Row = dict[str, Any]


def check_all(curve: dict[str, Any], untrained: Row) -> list[Verdict]:
    """The verdicts on the curve of the sweep, beside a row of the untrained network."""
    rows = [row for row in curve['rows'] if 'images_not_finite' not in row]
    if len(rows) < 2:
        return []
    count = curve['num_samples']
    column = columns.of_results(curve['name'], curve | {'rows': rows})
    paired = curve.get('best', {}).get('fd768', {}).get('others', ())
    found = [best_is_guided(column.rows, paired), far_from_untrained(rows, untrained)]
    agreements = [key for key in NAMES if 'agree' in key and any(key in row for row in rows)]
    found += [agreement_rises(rows, key, count) for key in agreements]
    return found + _judged(curve, rows)


def best_is_guided(rows: list[Row], paired: Sequence[Row] = ()) -> Verdict:
    """The best FD-768 at some w > 0, and the largest w worse by more than five standard errors.

    Errors are those of the paired differences to the best w (see `differences.best_weights`), where
    they were kept; else of two independent rows, which are larger.
    """
    best = min(rows, key=lambda row: row['fid'])
    none, most = rows[0], rows[-1]
    known = {each['w']: each['difference'] / max(each['se'], 1e-12) for each in paired}
    gain, loss = (
        known.get(row['w'], findings.difference(row, best, 'fid')) for row in (none, most)
    )
    claim = f'FD-768 is best at some w > 0, and worse by {_WORSE:g} standard errors at the largest'
    evidence = (
        f'best {best["fid"]:.4g} at w = {best["w"]:g}: {gain:+.1f} standard errors better than at'
        f' w = {none["w"]:g}, {loss:+.1f} better than at w = {most["w"]:g}'
    )
    if best is none or loss <= _WORSE:
        return Verdict(claim, NOT_SUPPORTED, evidence)
    return Verdict(claim, SUPPORTED if gain > SIGNIFICANT else UNDECIDED, evidence)


def far_from_untrained(rows: list[Row], untrained: Row) -> Verdict:
    """The best FD-768 below a third of the untrained network's."""
    best = min(rows, key=lambda row: row['fd768'])
    share = best['fd768'] / untrained['fd768']
    claim = "the best FD-768 is below a third of the untrained network's"
    evidence = f'{best["fd768"]:.4g} of {untrained["fd768"]:.4g}, {share:.3f}'
    return Verdict(claim, SUPPORTED if share < _UNTRAINED else NOT_SUPPORTED, evidence)


def agreement_rises(rows: list[Row], key: str, count: int) -> Verdict:
    """At w = 1 at least 1.5 times as many of `count` samples of their class as at w = 0."""
    claim = f'{NAMES[key]} is {_AGREEMENT:g} times as high at w = 1 as at w = 0'
    at = {row['w']: row[key] for row in rows if key in row}
    if not {0.0, 1.0} <= at.keys():
        return Verdict(claim, UNDECIDED, 'needs w = 0 and w = 1')
    none, one = at[0.0], at[1.0]
    # Binomial; of the difference, for the share at w = 0 may be 0.
    excess = one - _AGREEMENT * none
    error = np.sqrt((one * (1.0 - one) + _AGREEMENT**2 * none * (1.0 - none)) / count)
    evidence = (
        f'{none:.2%} and {one:.2%}: {excess / max(error, 1e-12):+.1f} standard errors above'
        f' {_AGREEMENT:g} times'
    )
    if excess < 0.0:
        return Verdict(claim, NOT_SUPPORTED, evidence)
    return Verdict(claim, SUPPORTED if excess > SIGNIFICANT * error else UNDECIDED, evidence)


def _judged(curve: dict[str, Any], rows: list[Row]) -> list[Verdict]:
    """That the judge's IS rises, over the rows that it has seen; of others there is none."""
    seen = [row for row in rows if 'is_judge' in row]
    if len(seen) < 2:
        return []
    judged = curve | {'rows': [_of_judge(row) for row in seen]}
    column = columns.of_results(curve['name'], judged, is_name=NAMES['is_judge'])
    verdict = findings.named(findings.is_rises(column), column)
    unseen = ', '.join(f'{row["w"]:g}' for row in rows if 'is_judge' not in row)
    note = f'; not judged: w = {unseen}' if unseen else ''
    return [verdict._replace(evidence=verdict.evidence + note)]


def _of_judge(row: Row) -> Row:
    """The row with the judge's score in the place of GoogLeNet's, with its error if it has one."""
    others = {key: value for key, value in row.items() if key != 'is_se'}
    scores = {'is': 'is_judge', 'is_se': 'is_judge_se'}
    return others | {key: row[name] for key, name in scores.items() if name in row}
