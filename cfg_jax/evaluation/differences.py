"""Which guidance weight is best: paired differences between the rows of a sweep.

Image i has the same noise and the same condition at every w, so a difference of two rows is known
far better than either row. What it needs of each row, the influence of every image, is kept in a
file, so that rows of different commands compare.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from cfg_jax import files
from cfg_jax.evaluation import tables
from cfg_jax.evaluation.rows import Row
from cfg_jax.metrics.influence import Influence

_WITHIN = 2.0  # standard errors of a difference that decides nothing

_VALUE = 'value'  # stands where the seed does, for what is of all of them

Influences = Sequence[Mapping[str, Influence]]  # of each seed, by key


def save(directory: epath.Path, w: float, influences: Influences, row: Row) -> None:
    """Keeps the influences of a row, with its values, which say whose they are; none of an invalid
    one."""
    path = _path(directory, w)
    if not all(influences):
        path.unlink(missing_ok=True)
        return
    arrays = {f'{_VALUE}/{key}/mean': np.asarray(row[key]) for key in influences[0]}
    arrays |= {
        f'{seed}/{key}/{part}': array
        for seed, by_key in enumerate(influences)
        for key, influence in by_key.items()
        for part, array in vars(influence).items()
    }
    files.write_npz(path, arrays)


def is_kept(directory: epath.Path, w: float) -> bool:
    """Whether the influences of a row are there."""
    return _path(directory, w).exists()


def best_weights(directory: epath.Path, rows: Sequence[Row]) -> dict[str, Any]:
    """The best w of each metric whose rows have kept influences, and how far the others are.

    Returns:
      {key: {'w': the best, 'others': [{'w', 'difference', 'se'}, ...]}}: differences are to the
      best, above 0, and a mean over seeds; `se` is the standard error of that.
    """
    kept = {row['w']: _of_row(_load(directory, row['w']), row) for row in rows}
    values = {row['w']: row for row in rows}
    best = {}
    for key in {key: None for found in kept.values() for key in found}:
        found = {w: by_key[key] for w, by_key in kept.items() if key in by_key}
        if len(found) < 2 or len(set(map(len, found.values()))) > 1:
            continue
        best_w = min(found, key=lambda w: values[w][key])
        others = [
            {
                'w': w,
                'difference': values[w][key] - values[best_w][key],
                'se': _error_of_difference(found[w], found[best_w]),
            }
            for w in found
            if w != best_w
        ]
        best[key] = {'w': best_w, 'others': others}
    return best


def between(
    directory: epath.Path, row: Row, other_directory: epath.Path, other: Row
) -> dict[str, float]:
    """How much more a row of one sweep is than one of another, and how well that is known.

    Both sweeps must be of the same seeds and conditions: their images are compared pair by pair.

    Returns:
      {KEY: the difference, KEY_se: its standard error} of each metric that has influences in both;
      nothing for sets of different sizes.
    """
    own, others = (
        _of_row(_load(place, each['w']), each)
        for place, each in ((directory, row), (other_directory, other))
    )
    found: dict[str, float] = {}
    for key in own.keys() & others.keys():
        a, b = own[key], others[key]
        if [len(each.first) for each in a] == [len(each.first) for each in b]:
            found[key] = row[key] - other[key]
            found[f'{key}_se'] = _error_of_difference(a, b)
    return found


def sentences(best: Mapping[str, Any]) -> list[str]:
    """What `best_weights` says, a line a metric."""
    lines = []
    for key, found in best.items():
        near = [
            f'w = {other["w"]:g} (+{tables.formatted(key, other["difference"])}'
            f' ± {tables.formatted(key, other["se"])})'
            for other in found['others']
            if other['difference'] <= _WITHIN * other['se']
        ]
        lines.append(
            f'best {tables.heading(key)}: w = {found["w"]:g}; within {_WITHIN:g} standard errors of'
            f' the difference: {", ".join(near) or "no other"}'
        )
    return lines


def _error_of_difference(own: Sequence[Influence], other: Sequence[Influence]) -> float:
    errors = [(a - b).standard_error() for a, b in zip(own, other, strict=True)]
    return float(np.linalg.norm(errors) / len(errors))


def _path(directory: epath.Path, w: float) -> epath.Path:
    return directory / 'influence' / f'w_{w!r}.npz'


class _Kept(NamedTuple):
    """Of a file: the influences of each seed, and the values of the row that they are of."""

    seeds: list[dict[str, Influence]]
    values: dict[str, float]


def _of_row(kept: _Kept | None, row: Row) -> dict[str, list[Influence]]:
    """The influences by key, of all seeds, as far as they are of this row.

    Another command may have measured this w in another way, and been killed before its table.
    """
    if kept is None or not kept.seeds:
        return {}
    return {
        key: [seed[key] for seed in kept.seeds]
        for key in kept.seeds[0]
        # Files of earlier editions do not say the value.
        if np.isfinite(row.get(key, np.nan)) and kept.values.get(key, row[key]) == row[key]
    }


def _load(directory: epath.Path, w: float) -> _Kept | None:
    return files.read_or_set_aside(_path(directory, w), _read)


def _read(path: epath.Path) -> _Kept:
    with files.damage_reported(path, 'sweep its w again'):
        seeds: dict[str, dict[str, dict[str, np.ndarray]]] = {}
        for name, array in files.read_npz(path).items():
            seed, key, part = name.split('/')
            seeds.setdefault(seed, {}).setdefault(key, {})[part] = array
        values = {key: float(parts['mean']) for key, parts in seeds.pop(_VALUE, {}).items()}
        influences = [
            {key: Influence(**parts) for key, parts in seeds[str(seed)].items()}
            for seed in range(len(seeds))
        ]
        return _Kept(influences, values)
