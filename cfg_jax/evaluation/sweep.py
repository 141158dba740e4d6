"""The guidance sweep: model x list of w -> samples -> features -> metrics; resumable."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import config as config_lib, files, loading, model_checks
from cfg_jax.data import images, pipeline
from cfg_jax.distributed import multihost
from cfg_jax.errors import UserError
from cfg_jax.evaluation import (
    dataset_reference,
    differences,
    drawing,
    plots,
    results as results_lib,
    rows as rows_lib,
    tables,
)
from cfg_jax.evaluation.cache import SampleCache, Samples, seeds, weights
from cfg_jax.inference import Model
from cfg_jax.metrics import Inputs
from cfg_jax.metrics.features import EXTRACTORS, FeatureExtractor, extraction
from cfg_jax.metrics.features.inception import InceptionExtractor
from cfg_jax.metrics.statistics import Reference
from cfg_jax.provenance import describe_environment
from cfg_jax.settings import make_sampler, record_of
from cfg_jax.training import export

CONVENTION = 'eps = (1 + w) eps_cond - w eps_uncond; w = 0 is unguided; s = 1 + w'


def run(
    config: ConfigDict,
    path: epath.PathLike,
    name: str = '',
    extractor: FeatureExtractor | None = None,
    step: int | None = None,
) -> epath.Path:
    """Sweeps `config.sweep.w` over a model, and writes WORKDIR/sweep/NAME.

    Args:
      config: as the model was trained; `guidance`, `sampler` and `sweep` may differ.
      path: the work directory, or an exported file, next to which NAME.sweep is the work directory.
      name: of the sweep's directory; '' names it after its settings.
      extractor: instead of the one that `config.sweep.features` names.
      step: of the checkpoint; by default that of an earlier sweep of this name, or the newest.

    Returns:
      The sweep's directory.

    Raises:
      UserError: no checkpoint, an unknown extractor or metric, missing weights or statistics, or
        a directory of another sweep.
    """
    model, workdir, name = prepare(config, path, name, step)
    extractor = extractor or EXTRACTORS.load(config.sweep.features)(config, workdir)
    results = measure(model, workdir, name, extractor)
    return write(results, model, workdir / 'sweep' / name)


def prepare(
    config: ConfigDict,
    path: epath.PathLike,
    name: str = '',
    step: int | None = None,
    ema: float | None = None,
) -> tuple[Model, epath.Path, str]:
    """The model of a sweep, its work directory and its name; arguments and errors as `run`.

    `ema` is another length of the average, see `loading.load`; its sweep is NAME-emaLENGTH.
    """
    config_lib.validate(config)
    workdir = workdir_of(path)
    length = '' if ema is None else f'-ema{ema:g}'
    if step is None and name:
        step = results_lib.step_of(workdir / 'sweep' / f'{name}{length}')
    model = loading.load(path, step=step, config=config, ema=ema)
    name = (name or default_name(config, model.provenance()['checkpoint_step'])) + length
    results_lib.log_unfinished(workdir / 'sweep', name)
    return model, workdir, name


def workdir_of(path: epath.PathLike) -> epath.Path:
    """Where a sweep of a model writes: its work directory, or NAME.sweep of NAME.safetensors.

    Raises:
      UserError: a published file of another format, which has no place beside it.
    """
    path = files.as_path(path)
    if export.is_published(path):
        raise UserError(
            f'{path} is no work directory; import it first: python scripts/import_checkpoint.py'
            f' {path} --out=NAME.safetensors'
        )
    return path.with_suffix('.sweep') if export.is_export(path) else path


def measure(
    model: Model, workdir: epath.PathLike, name: str, extractor: FeatureExtractor
) -> dict[str, Any] | None:
    """The numbers of a sweep, of any model, without files for people.

    Keeps features in WORKDIR/sweep/NAME/shards and statistics of the real images in
    WORKDIR/reference, and continues from them. Rows of an earlier sweep of this name at other w are
    kept.

    Args:
      model: what is sampled, at each w of its config's `sweep`.
      workdir, name: where.
      extractor: makes the features.

    Returns:
      What `write` writes as results.json, on process 0; None on the others.

    Raises:
      UserError: as `run`.
    """
    config, workdir = model.config, files.as_path(workdir)
    settings, directory = settings_of(model, extractor), workdir / 'sweep' / name

    def open_table() -> _Table:
        results_lib.check(directory, settings)
        for w in weights(config):
            model_checks.check_guidance(model.rule, config, w)
        reference = dataset_reference.reference(config, workdir, extractor)
        earlier = results_lib.earlier_metrics(directory, extractor.distance)
        table = _Table(config, extractor, reference, earlier)
        results_lib.claim(directory, settings)  # a refused sweep leaves the name to others
        return table

    # Before the samples: what is wrong with a reference is reported before hours of work.
    table = multihost.run_on_process_zero('reference', open_table)
    cache = SampleCache(model, directory / 'shards', extractor)
    cache.compute()
    multihost.barrier('samples', multihost.LONGEST)

    def rows_of_all() -> dict[str, Any]:
        assert table is not None  # on process 0, where this runs
        results = {
            **settings,
            'seeds': seeds(config),
            'reference': table.reference.record,
            'convention': CONVENTION,
            'notes': table.notes,
            **_rounding(config, extractor),
            'config': config_lib.to_json(config),
            **describe_environment(),
        }
        rows = [table.row(w, cache, directory) for w in weights(config)]
        lacking = results_lib.lacking(directory, results, rows)
        rows += [table.row(w, cache, directory) for w in lacking if cache.holds(w)]
        return results | {'rows': results_lib.with_earlier_rows(directory, results, rows)}

    return multihost.run_on_process_zero('metrics', rows_of_all)


def write(results: dict[str, Any] | None, model: Model, directory: epath.Path) -> epath.Path:
    """The files of a sweep: results.json, table.md, tradeoff.png, samples.png; process 0 writes.

    Args:
      results: of `measure`.
      model: draws the pictures.
      directory: of the sweep, which is returned.
    """
    if results is not None:
        with results_lib.locked(directory):
            # Another sweep of this name may have finished meanwhile.
            rows = results_lib.with_earlier_rows(directory, results, results['rows'])
            best = differences.best_weights(directory, rows)
            results = results | {'rows': rows, 'best': best}
            picture = directory / 'samples.png'
            shown = [row['w'] for row in rows]
            drawn = picture.exists() and results_lib.earlier_weights(directory) == shown
            if not drawn:
                picture.unlink(missing_ok=True)  # of other w
            files.write_json(directory / 'results.json', results)
            files.write_bytes(directory / 'table.md', tables.sweep_table(rows).encode())
            plots.save_tradeoff(directory / 'tradeoff.png', rows, title=_title(results))
            if not drawn:
                x = drawing.draw(model, *drawing.classes_along_w(model, shown))
                drawing.save_samples(picture, model, shown, x)
        for line in differences.sentences(best):
            logging.info('%s', line)
    multihost.barrier('swept', multihost.LONGEST)
    return directory


def default_name(config: ConfigDict, step: int) -> str:
    """The settings that most often differ, as a directory name."""
    sampler, sweep = config.sampler, config.sweep
    spec = '-'.join(filter(None, (config.guidance.rule, config.guidance.options)))
    rule = '' if spec == 'classifier_free' else re.sub(r'[^\w.-]', '_', spec) + '-'
    learned = config.model.get('learned_variance', False)
    v = getattr(make_sampler(config), 'v', 0.0)  # which `sampler.options` may set
    variance = f'-v{v:g}' if sampler.name == 'ancestral' and not learned else ''
    grid = '' if sampler.grid == 'schedule' else f'-{sampler.grid}'
    features = '' if sweep.features == 'classifier' else f'-{sweep.features}'
    return (
        f'{rule}{sampler.name}{grid}-T{sampler.num_steps}{variance}-n{sweep.num_samples}'
        f'-seed{sweep.seed}{features}-step{step}'
    )


def settings_of(model: Model, extractor: FeatureExtractor) -> dict[str, Any]:
    """What decides a sweep's numbers, apart from the list of w."""
    config = model.config
    return {
        'dataset': config.data.name,
        **model.provenance(),
        'num_samples': config.sweep.num_samples,
        'labels': config.sweep.labels,
        'rounding': config.sweep.rounding,
        'sampler': record_of(model.sampler, model.config),
        'is_splits': config.sweep.is_splits,
        'shard_size': config.sweep.shard_size,
        'features': extractor.provenance(),
        'seed': config.sweep.seed,
    }


def evaluate(
    samples: Samples,
    extractor: FeatureExtractor,
    reference: Reference,
    config: ConfigDict,
    metrics: Sequence[str] | None = None,
) -> rows_lib.Evaluation:
    """The row of one set of samples, without what it was sampled at.

    Args:
      samples: of any origin.
      extractor: that made their features.
      reference: the real images.
      config: its `sweep` says how; balanced conditions are resampled within classes.
      metrics: out of those that are available; by default those `wanted` that are.
    """
    settings = config.sweep
    inputs = Inputs(
        samples.features,
        reference,
        labels=samples.condition if extractor.logits_are_labels else None,
        num_classes=config.data.num_classes,
        splits=settings.is_splits,
        replicates=settings.bootstrap,
        strata=samples.condition if settings.labels == 'balanced' else None,
    )
    if metrics is None:
        unavailable = rows_lib.unavailable_metrics(inputs)
        metrics = [name for name in wanted(config) if name not in unavailable]
    return rows_lib.compute_metrics(
        inputs, metrics, distance=extractor.distance, not_finite=samples.not_finite
    )


def wanted(config: ConfigDict) -> list[str]:
    """The metrics of a sweep: the config's, and class agreement, which costs nothing."""
    return list(dict.fromkeys([*config.sweep.metrics, 'class_agreement']))


class _Table:
    """Metrics of the samples of each w; what is not available is reported once and left out."""

    def __init__(
        self,
        config: ConfigDict,
        extractor: FeatureExtractor,
        reference: Reference,
        earlier: list[str],
    ):
        self._config, self._extractor, self.reference = config, extractor, reference
        self.notes = rows_lib.notes(config.sweep.num_samples, extractor.distance, reference)
        self._metrics = self._available(earlier)
        for line in self.notes:
            logging.info('note: %s', line)

    def row(self, w: float, cache: SampleCache, directory: epath.Path) -> rows_lib.Row:
        """The row of `w`, over all seeds."""
        measured, nfe = [], 0
        for seed in seeds(self._config):
            samples = cache.collect(w, seed)
            nfe = samples.nfe
            measured.append(
                evaluate(samples, self._extractor, self.reference, self._config, self._metrics)
            )
            if self._config.sweep.save_samples:
                cache.save_images(w, seed, directory / 'batches' / f'w_{w!r}_seed_{seed}.npz')
        row = rows_lib.over_seeds([each.row for each in measured])
        differences.save(directory, w, [each.influences for each in measured], row)
        for note in row.get('notes', ()):
            if 'images_not_finite' in row:
                logging.warning('w = %g: %s', w, note)
            elif note not in self.notes:
                self.notes.append(note)
                logging.info('note: %s', note)
        return {'w': w} | row | ({'nfe': nfe} if nfe else {})

    def _available(self, earlier: Sequence[str]) -> list[str]:
        """The config's metrics and those of earlier rows, which would be lost or not compare;
        without those that this extractor or reference cannot give."""
        data, sweep = self._config.data, self._config.sweep
        image_shape = data.image_size, data.image_size, data.channels
        features = extraction.shapes(self._extractor, image_shape, sweep.num_samples)
        labels = np.zeros(sweep.num_samples, int) if self._extractor.logits_are_labels else None
        inputs = Inputs(features, self.reference, labels=labels, splits=sweep.is_splits)
        unavailable = rows_lib.unavailable_metrics(inputs)
        singular = rows_lib.notes_on_singular_covariances(inputs)
        left_out = [f'{m} is left out: {unavailable[m]}' for m in sweep.metrics if m in unavailable]
        if len(left_out) == len(sweep.metrics):
            raise UserError(
                f'none of sweep.metrics={tuple(sweep.metrics)} is available: {"; ".join(left_out)}'
            )
        metrics = dict.fromkeys([*wanted(self._config), *earlier])
        available = [metric for metric in metrics if metric not in unavailable]
        self.notes += left_out
        self.notes += [f'{name}: {singular[name]}' for name in available if name in singular]
        return available


def _rounding(config: ConfigDict, extractor: FeatureExtractor) -> dict[str, float]:
    """The error of features in bfloat16, measured on real images, where the config asks for it."""
    if config.sweep.dtype == 'float32' or not isinstance(extractor, InceptionExtractor):
        return {}
    batch = next(pipeline.one_epoch(config.data, config.data.split, extractor.chunk))
    error = extractor.bfloat16_error(np.asarray(images.to_uint8(batch['image'])))
    logging.info('bfloat16 moves the features by %.1e of their length', error)
    return {'bfloat16_error': error}


def _title(settings: dict[str, Any]) -> str:
    sampler = settings['sampler']
    return (
        f'{settings["dataset"]}: {sampler["name"]}, T = {sampler["num_steps"]},'
        f' {settings["num_samples"]:,} samples a point, features: {settings["features"]["name"]}'
    )
