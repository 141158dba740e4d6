"""Which guidance weight is best: paired differences between the rows of a sweep.

Image i has the same noise and the same condition at every w, so a difference of two rows is known
far better than either row. What it needs of each row, the influence of every image, is kept in a
file, so that rows of different commands compare.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from cfg_jax import files
from cfg_jax.evaluation import tables
from cfg_jax.evaluation.rows import Row
from cfg_jax.metrics.influence import Influence

_WITHIN = 2.0  # standard errors of a difference that decides nothing

Influences = Sequence[Mapping[str, Influence]]  # of each seed, by key


def save(directory: epath.Path, w: float, influences: Influences) -> None:
    """Keeps the influences of a row; none of an invalid one."""
    path = _path(directory, w)
    arrays = {
        f'{seed}/{key}/{part}': array
        for seed, by_key in enumerate(influences)
        for key, influence in by_key.items()
        for part, array in vars(influence).items()
    }
    if arrays:
        files.write_npz(path, arrays)
    else:
        path.unlink(missing_ok=True)


def best_weights(directory: epath.Path, rows: Sequence[Row]) -> dict[str, Any]:
    """The best w of each metric whose rows have kept influences, and how far the others are.

    Returns:
      {key: {'w': the best, 'others': [{'w', 'difference', 'se'}, ...]}}: differences are to the
      best, above 0, and a mean over seeds; `se` is the standard error of that.
    """
    kept = {row['w']: found for row in rows if (found := _load(directory, row['w']))}
    values = {row['w']: row for row in rows}
    best = {}
    for key in {key: None for influences in kept.values() for key in influences[0]}:
        found = {w: [seed[key] for seed in seeds] for w, seeds in kept.items() if key in seeds[0]}
        if len(found) < 2:
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


def _load(directory: epath.Path, w: float) -> list[dict[str, Influence]]:
    return files.read_or_set_aside(_path(directory, w), _read) or []


def _read(path: epath.Path) -> list[dict[str, Influence]]:
    with files.damage_reported(path, 'sweep its w again'):
        seeds: dict[str, dict[str, dict[str, np.ndarray]]] = {}
        for name, array in files.read_npz(path).items():
            seed, key, part = name.split('/')
            seeds.setdefault(seed, {}).setdefault(key, {})[part] = array
        return [
            {key: Influence(**parts) for key, parts in seeds[str(seed)].items()}
            for seed in range(len(seeds))
        ]
