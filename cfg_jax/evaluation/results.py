"""The directory of a sweep: whose it is, its rows so far, and a lock for its files."""

import contextlib
import fcntl
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging
from etils import epath

from cfg_jax import config as config_lib, files
from cfg_jax.config_fields import FIELDS
from cfg_jax.errors import UserError
from cfg_jax.evaluation import tables
from cfg_jax.guidance import RULES
from cfg_jax.metrics import METRICS
from cfg_jax.registry import parse_options
from cfg_jax.samplers import SAMPLERS

_SETTINGS, _RESULTS, _LOCK = 'settings.json', 'results.json', '.lock'
# Two rows with the same of these were measured in the same way.
_PROTOCOL = ('is_splits', 'seeds', 'reference', 'convention')
# Experiments, which name their sweeps themselves, have no --name.
_ADVICE = 'move it away, or choose another --name (of an experiment: --root)'

Row = dict[str, Any]


def claim(directory: epath.Path, settings: dict[str, Any], advice: str = _ADVICE) -> epath.Path:
    """Makes the directory of a sweep with these settings, or checks that it holds this very sweep.

    Arguments and errors as `check`.
    """
    if not check(directory, settings, advice):
        files.write_json(directory / _SETTINGS, settings)
    return directory


def check(directory: epath.Path, settings: dict[str, Any], advice: str = _ADVICE) -> bool:
    """Whether the directory holds a sweep, which is one with these very settings.

    Args:
      directory: of the sweep, or of other samples.
      settings: what decides them.
      advice: to the user who has others there.

    A directory whose settings are damaged is set aside: nothing says how its samples were made.

    Raises:
      UserError: it holds a sweep with other settings.
    """
    earlier = _comparable_settings(directory)
    if earlier is None:
        return False
    differences = '; '.join(config_lib.differences(earlier, comparable(settings)))
    if differences:
        raise UserError(f'{directory} holds a sweep with other settings ({differences}); {advice}')
    return True


def step_of(directory: epath.Path) -> int | None:
    """The checkpoint step that a sweep's directory was started with, or None."""
    path = directory / _SETTINGS
    try:
        return files.read_json(path).get('checkpoint_step') if path.exists() else None
    except files.Damaged:
        return None  # `claim` sets it aside


def log_unfinished(sweeps: epath.Path, name: str) -> None:
    """Says which sweep was not finished before training continued, and how to finish it."""
    stem = re.sub(r'-step\d+$', '', name)
    for other in sweeps.glob(f'{stem}-step*') if stem != name else ():
        if other.name != name and not (other / _RESULTS).exists():
            logging.info('%s is unfinished; --name=%s continues it', other, other.name)


def with_earlier_rows(
    directory: epath.Path, results: dict[str, Any], rows: Sequence[Row]
) -> list[Row]:
    """`rows`, and those at other w that results.json of the same protocol has, ascending in w.

    All have the same metrics: a row of images that are not finite has NaN for what others measured.
    """
    earlier = _earlier(directory)
    ours = {row['w'] for row in rows}
    kept = [row for row in earlier['rows'] if row['w'] not in ours]
    if kept and not _same_protocol(earlier, results, kept, rows):
        logging.warning(
            'the rows of w = %s were measured in another way and are left out; give all w at once'
            ' to measure them again (their samples are kept)',
            ', '.join(f'{row["w"]:g}' for row in kept),
        )
        kept = []
    return _with_same_metrics(sorted([*rows, *kept], key=lambda row: row['w']))


def _with_same_metrics(rows: Sequence[Row]) -> list[Row]:
    valid = [row for row in rows if 'images_not_finite' not in row]
    keys = list(dict.fromkeys(key for row in valid or rows for key in tables.metric_keys(row)))

    def with_all(row: Row) -> Row:
        others = {key: value for key, value in row.items() if key not in tables.metric_keys(row)}
        return {'w': row['w']} | dict.fromkeys(keys, float('nan')) | others

    return [with_all(row) if 'images_not_finite' in row else row for row in rows]


def lacking(directory: epath.Path, results: dict[str, Any], rows: Sequence[Row]) -> list[float]:
    """The w of valid rows of results.json, of the same protocol, that lack a number of `rows`."""
    earlier = _earlier(directory)
    if _protocol_of(earlier) != _protocol_of(results):
        return []
    ours, columns = {row['w'] for row in rows}, _columns(rows)
    others = [row for row in earlier['rows'] if row['w'] not in ours]
    return [row['w'] for row in others if _columns([row]) and columns - row.keys()]


def earlier_metrics(directory: epath.Path, distance: str) -> list[str]:
    """The metrics in the valid rows of results.json; `distance` as of `METRICS.key`."""
    columns = _columns(_earlier(directory)['rows'])
    return [name for name in METRICS if METRICS.key(name, distance) in columns]


def earlier_weights(directory: epath.Path) -> list[float]:
    """The w of results.json, in its order; none where it is missing or damaged."""
    return [row['w'] for row in _earlier(directory)['rows']]


@contextlib.contextmanager
def locked(directory: epath.Path) -> Iterator[None]:
    """Holds the lock of a directory, so that two sweeps of one name write one after the other.

    Object stores have no locks; there each file is replaced in one step.
    """
    if files.is_remote(directory):
        yield
        return
    with (directory / _LOCK).open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _comparable_settings(directory: epath.Path) -> dict[str, Any] | None:
    """The settings that a directory was started with; None without, or after setting it aside."""
    path = directory / _SETTINGS
    if not path.exists():
        return None
    try:
        with files.damage_reported(path, ''):
            return comparable(files.read_json(path))
    except files.Damaged:
        aside = files.set_aside(directory)
        logging.warning(
            '%s is damaged, and nothing else says how the samples beside it were made: the'
            ' directory is kept as %s and the samples are made again',
            path,
            aside.name,
        )
        return None


def _earlier(directory: epath.Path) -> dict[str, Any]:
    """results.json; without rows where it is missing, or damaged and set aside."""

    def read(path: epath.Path) -> dict[str, Any]:
        with files.damage_reported(path, ''):
            results = files.read_json(path, keys=['rows'])
            for row in results['rows']:
                float(row['w'])
            return results

    return files.read_or_set_aside(directory / _RESULTS, read) or {'rows': []}


def _same_protocol(
    earlier: dict[str, Any], results: dict[str, Any], kept: Sequence[Row], rows: Sequence[Row]
) -> bool:
    theirs, ours = _columns(kept), _columns(rows)
    same_columns = not theirs or not ours or theirs == ours
    return same_columns and _protocol_of(earlier) == _protocol_of(results)


def _protocol_of(results: dict[str, Any]) -> str:
    # A reference is identified by its content.
    reference = results.get('reference', {})
    fields = {key: results.get(key) for key in _PROTOCOL} | {
        'reference': reference.get('sha256', reference)
    }
    return json.dumps(fields, sort_keys=True)


def _columns(rows: Sequence[Row]) -> set[str]:
    # An invalid row has its metrics, as NaN, but no errors and deviations.
    valid = [row for row in rows if 'images_not_finite' not in row]
    return {key for row in valid for key in row if isinstance(row[key], float)}


def comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without what changes no sample and no feature, in today's names."""
    settings = _with_guidance(settings)
    features = {key: value for key, value in settings['features'].items() if key != 'source'}
    settings |= {'features': features}
    settings.pop('is_splits', None)
    if 'sampler' not in settings:  # of real images
        return settings
    # The first edition's names; what came later has the value that was used before it came.
    sampler = {'name' if k == 'sampler' else k: v for k, v in settings['sampler'].items()}
    defaults = {
        name.partition('.')[2]: field.default
        for name, field in FIELDS.items()
        if name.startswith(('sampler.', 'diffusion.'))
    }
    return settings | {
        'rounding': settings.get('rounding', FIELDS['sweep.rounding'].default),
        'sampler': _with_options(defaults | sampler),
    }


def _with_options(sampler: dict[str, Any]) -> dict[str, Any]:
    """A sampler's settings as its options change them, which were not always recorded so."""
    if sampler['name'] not in SAMPLERS:  # one of a user's own
        return sampler
    options = parse_options(SAMPLERS.load(sampler['name']), sampler['options'], 'a sampler')
    return sampler | {key: value for key, value in options.items() if key in ('v', 'clip')}


def _with_guidance(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings whose rule and second network are recorded as today, not by the first edition."""
    settings = dict(settings)
    for name in ('autoguidance', 'classifier_guidance'):
        if name in settings:
            network = {'weights': 'ema'} | settings.pop(name)
            options = {key: network.pop(key) for key in ('conditional',) if key in network}
            rule = name if name in RULES else f'classifier_{network.pop("form")}'
            settings['guidance'] = repr(RULES.make(rule, **options))
            settings['guidance_network'] = network
    return settings
