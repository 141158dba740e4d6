"""What a sweep over photographs must show beside the paper's claims, with standard errors."""

from typing import Any

import numpy as np
from claims_parts import columns
from claims_parts.findings import NOT_SUPPORTED, SUPPORTED, UNDECIDED, Verdict, is_rises

from tiny_imagenet64_parts.extractor import NAMES

_WORSE = 5.0  # standard errors of the largest w above the best
_UNTRAINED = 1 / 3  # of the untrained network's distance
_AGREEMENT = 1.5  # times as many at w = 1 as at w = 0
_SIGNIFICANT = 2.0  # standard errors

Row = dict[str, Any]


def check_all(curve: dict[str, Any], untrained: Row) -> list[Verdict]:
    """The verdicts on the curve of the sweep, beside a row of the untrained network."""
    rows = [row for row in curve['rows'] if 'images_not_finite' not in row]
    if len(rows) < 2:
        return []
    found = [best_is_guided(rows), far_from_untrained(rows, untrained)]
    found += [agreement_rises(rows, key) for key in NAMES if key in rows[0] and 'agree' in key]
    if 'is_judge' in rows[0]:
        judged = [row | {key: row[f'is_judge{key[2:]}'] for key in ('is', 'is_se')} for row in rows]
        column = columns.of_results(curve['name'], curve | {'rows': judged})
        verdict = is_rises(column)
        found.append(
            verdict._replace(
                claim=verdict.claim.replace('IS', NAMES['is_judge'], 1),
                evidence=verdict.evidence.replace('IS', NAMES['is_judge'], 1),
            )
        )
    return found


def best_is_guided(rows: list[Row]) -> Verdict:
    """The best FD-768 at some w > 0, and the largest w worse by more than five standard errors."""
    best = min(rows, key=lambda row: row['fd768'])
    none, most = rows[0], rows[-1]
    gain, loss = _errors(none, best), _errors(most, best)
    claim = f'FD-768 is best at some w > 0, and worse by {_WORSE:g} standard errors at the largest'
    evidence = (
        f'best {best["fd768"]:.4g} at w = {best["w"]:g}: {gain:+.1f} standard errors better than at'
        f' w = {none["w"]:g}, {loss:+.1f} better than at w = {most["w"]:g}'
    )
    if best is none or loss <= _WORSE:
        return Verdict(claim, NOT_SUPPORTED, evidence)
    return Verdict(claim, SUPPORTED if gain > _SIGNIFICANT else UNDECIDED, evidence)


def far_from_untrained(rows: list[Row], untrained: Row) -> Verdict:
    """The best FD-768 below a third of the untrained network's."""
    best = min(rows, key=lambda row: row['fd768'])
    share = best['fd768'] / untrained['fd768']
    claim = "the best FD-768 is below a third of the untrained network's"
    evidence = f'{best["fd768"]:.4g} of {untrained["fd768"]:.4g}, {share:.3f}'
    return Verdict(claim, SUPPORTED if share < _UNTRAINED else NOT_SUPPORTED, evidence)


def agreement_rises(rows: list[Row], key: str) -> Verdict:
    """At w = 1 at least 1.5 times as many samples of their class as at w = 0."""
    claim = f'{NAMES[key]} is {_AGREEMENT:g} times as high at w = 1 as at w = 0'
    at = {row['w']: row for row in rows}
    if not {0.0, 1.0} <= at.keys():
        return Verdict(claim, UNDECIDED, 'needs w = 0 and w = 1')
    none, one = at[0.0], at[1.0]
    ratio = one[key] / max(none[key], 1e-12)
    spread = ratio * np.hypot(*(row[f'{key}_se'] / max(row[key], 1e-12) for row in (none, one)))
    evidence = f'{none[key]:.2%} and {one[key]:.2%}: {ratio:.2f} +- {spread:.2f} times'
    if ratio < _AGREEMENT:
        return Verdict(claim, NOT_SUPPORTED, evidence)
    certain = ratio - _SIGNIFICANT * spread >= _AGREEMENT
    return Verdict(claim, SUPPORTED if certain else UNDECIDED, evidence)


def _errors(worse: Row, better: Row) -> float:
    """How many standard errors of the difference lie between two rows' FD-768."""
    error = np.hypot(worse['fd768_se'], better['fd768_se'])
    return (worse['fd768'] - better['fd768']) / max(error, 1e-12)
