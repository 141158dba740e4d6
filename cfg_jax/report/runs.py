"""What a page is made from: finished sweeps, and the models that they belong to."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import logging
from etils import epath

from cfg_jax import files
from cfg_jax.errors import UserError
from cfg_jax.evaluation import sweep
from cfg_jax.training import export, workdirs, writers

_RESULTS = 'results.json'
_KEYS = ('rows', 'config', 'sampler', 'features', 'num_samples', 'weights_sha256')


class Run(NamedTuple):
    """One sweep.

    Attributes:
      name: what tells it from the others on the page.
      directory: of the sweep.
      model: work directory or exported file that was swept; None where it is not beside the sweep.
      results: what results.json holds.
      training: the rows of the work directory's metrics.jsonl; none of an exported file.
    """

    name: str
    directory: epath.Path
    model: epath.Path | None
    results: dict[str, Any]
    training: list[dict[str, Any]]


def open_runs(paths: Sequence[epath.PathLike]) -> list[Run]:
    """The sweeps that `paths` name: sweeps themselves, or the newest one of a model.

    Args:
      paths: directories with a results.json, work directories, or exported files.

    Raises:
      UserError: nothing that was swept, a damaged results.json, or a sweep that is named twice.
    """
    directories = [_sweep_of(files.as_path(path)) for path in paths]
    places = [files.absolute(directory) for directory in directories]
    for directory, place in zip(directories, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f'{directory} is named twice; name each sweep once')
    names = _names(directories)
    return [_open(directory, name) for directory, name in zip(directories, names, strict=True)]


def _sweep_of(path: epath.Path) -> epath.Path:
    if (path / _RESULTS).exists():
        return path
    if not path.exists():
        raise UserError(f'{path} does not exist; name a work directory, a sweep or an export')
    sweeps = sweep.workdir_of(path) / 'sweep'
    found = list(sweeps.glob(f'*/{_RESULTS}')) if sweeps.exists() else []
    if not found:
        raise UserError(
            f'{path} has no finished sweep; make one with: python scripts/sweep.py --model={path}'
        )
    newest, *others = sorted(found, key=lambda file: (file.stat().mtime, file), reverse=True)
    if others:
        logging.info(
            'the newest sweep of %s is shown, %s; name others by their directories: %s',
            path,
            newest.parent.name,
            ', '.join(file.parent.name for file in others),
        )
    return newest.parent


def _open(directory: epath.Path, name: str) -> Run:
    path = directory / _RESULTS
    with files.damage_reported(path, 'sweep again'):
        results = files.read_json(path, keys=_KEYS)
        results['rows'].sort(key=lambda row: float(row['w']))
    if not results['rows']:
        raise UserError(f'{path} has no rows; sweep again')
    model = _model_of(directory)
    training = [] if model is None or export.is_export(model) else writers.read_metrics(model)
    return Run(name, directory, model, results, training)


def _model_of(directory: epath.Path) -> epath.Path | None:
    """The model that WORKDIR/sweep/NAME or EXPORT.sweep/sweep/NAME belongs to, if it is there."""
    if directory.parent.name != 'sweep':
        return None
    workdir = directory.parent.parent
    exported = workdir.with_suffix(export.SUFFIX)
    if workdir.suffix == '.sweep' and exported.exists():
        return exported
    return workdir if workdirs.is_workdir(workdir) else None


def _names(directories: Sequence[epath.Path]) -> list[str]:
    """The shortest of: model, what differs in the sweeps' names, both; that tells all apart."""

    def model(directory: epath.Path) -> str:
        in_model = directory.parent.name == 'sweep'
        return files.absolute(directory.parent.parent if in_model else directory).name

    models = [model(directory) for directory in directories]
    sweeps = _without_common_parts([directory.name for directory in directories])
    both = [f'{a}/{b}' for a, b in zip(models, sweeps, strict=True)]
    for names in (models, sweeps, both):
        if len(set(names)) == len(names):
            return names
    return [str(directory) for directory in directories]


def _without_common_parts(names: Sequence[str]) -> list[str]:
    """Names of settings, such as 'ancestral-T20-step800', without those that all have."""
    parts = [name.split('-') for name in names]
    common = set(parts[0]).intersection(*parts[1:])
    return [
        '-'.join(part for part in own if part not in common) or name
        for own, name in zip(parts, names, strict=True)
    ]
