"""The guidance sweep: checkpoint x list of w -> samples -> features -> scores; resumable."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import (
    config as config_lib,
    files,
    trained,
)
from cfg_jax.data import (
    images,
    pipeline,
    sources,
)
from cfg_jax.distributed import multihost
from cfg_jax.errors import UserError
from cfg_jax.evaluation import (
    dataset_reference,
    plots,
    scoring,
    tables,
)
from cfg_jax.evaluation.cache import (
    Samples,
    Shards,
    seeds,
    weights,
)
from cfg_jax.evaluation.reference import Reference
from cfg_jax.metrics import scores
from cfg_jax.metrics.features import (
    FeatureExtractor,
    extraction,
    extractors,
)
from cfg_jax.metrics.features.inception_extractor import InceptionExtractor
from cfg_jax.provenance import describe_environment

CONVENTION = 'eps = (1 + w) eps_cond - w eps_uncond; w = 0 is unguided; s = 1 + w'
_PICTURE_CLASSES = 10

Report = Callable[[str], None]
Row = dict[str, float]


def run(
    config: ConfigDict,
    workdir: epath.PathLike,
    name: str = '',
    report: Report = print,
    extractor: FeatureExtractor | None = None,
) -> epath.Path:
    """Sweeps `config.sweep.w` over the newest checkpoint of `workdir`, with EMA parameters.

    Writes WORKDIR/sweep/NAME/{results.json, table.md, tradeoff.png, samples.png}.

    Args:
      config: as the run was trained; `sampling` and `sweep` may be set anew.
      workdir: the work directory of the training.
      name: of the sweep's directory; '' names it after its settings.
      report: receives one line of progress at a time.
      extractor: takes the place of the one that `config.sweep.features` names.

    Returns:
      The sweep's directory.

    Raises:
      UserError: no checkpoint, an unknown extractor or metric, missing weights or statistics, or
        a directory of another sweep.
    """
    config_lib.validate(config)
    workdir = epath.Path(workdir).expanduser()
    model = trained.TrainedModel(workdir, config)
    extractor = extractor or extractors.load_extractor(config, workdir, report)
    name = name or default_name(config, model.step)
    directory = workdir / 'sweep' / name
    results = measure(model, workdir, name, extractor, report)
    if results is not None:
        _write(directory, results, model)
    multihost.barrier('swept', multihost.LONGEST)
    return directory


def _write(directory: epath.Path, results: dict[str, Any], model: trained.TrainedModel) -> None:
    """The files for people, and results.json last but for the picture that it vouches for."""
    rows = results['rows']
    if not _drawn(directory, rows):
        _save_samples(model, directory / 'samples.png')
    files.write_json(directory / 'results.json', results)
    files.write_bytes(directory / 'table.md', tables.sweep_table(rows).encode())
    plots.save_tradeoff(directory / 'tradeoff.png', rows, title=_title(results))


def measure(
    model: trained.Model,
    workdir: epath.PathLike,
    name: str,
    extractor: FeatureExtractor,
    report: Report = print,
) -> dict[str, Any] | None:
    """The numbers of a sweep, of any model, without files for people.

    Keeps features in WORKDIR/sweep/NAME/shards and statistics of the real images in
    WORKDIR/reference, and goes on from them.

    Args:
      model: what is sampled, at each w of its config's `sweep`.
      workdir, name: where.
      extractor: makes the features.
      report: receives one line of progress at a time.

    Returns:
      What `run` writes as results.json, on process 0; None on the others.

    Raises:
      UserError: as `run`.
    """
    config, workdir = model.config, epath.Path(workdir).expanduser()
    report = multihost.only_first(report)
    settings, directory = settings_of(model, extractor), workdir / 'sweep' / name
    multihost.run_on_process_zero('claim', lambda: claim(directory, settings))

    def prepare() -> _Table:
        reference = dataset_reference.reference(config, workdir, extractor, report)
        return _Table(config, extractor, reference, report)

    # Before the samples: what is wrong with a reference is told before hours of work.
    table = multihost.run_on_process_zero('reference', prepare)
    shards = Shards(model, directory / 'shards', extractor, report)
    shards.compute()
    multihost.barrier('shards', multihost.LONGEST)

    def score() -> dict[str, Any]:
        rows = [table.row(w, shards, directory) for w in weights(config)]
        return {
            **settings,
            'seeds': seeds(config),
            'reference': table.reference.record,
            'convention': CONVENTION,
            'notes': table.notes,
            **_rounding(config, extractor, report),
            'rows': rows,
            'config': config_lib.to_json(config),
            **describe_environment(),
        }

    return multihost.run_on_process_zero('scores', score)


def default_name(config: ConfigDict, step: int) -> str:
    """The settings that most often differ, as a directory name."""
    sampling, sweep = config.sampling, config.sweep
    variance = f'-v{sampling.v:g}' if sampling.sampler == 'ancestral' else ''
    features = '' if sweep.features == 'classifier' else f'-{sweep.features}'
    return (
        f'{sampling.sampler}-T{sampling.num_steps}{variance}-n{sweep.num_samples}'
        f'-seed{sweep.seed}{features}-step{step}'
    )


def settings_of(model: trained.Model, extractor: FeatureExtractor) -> dict[str, Any]:
    """What decides a sweep's numbers, apart from the list of w."""
    config = model.config
    return {
        'dataset': config.data.name,
        **model.provenance(),
        'num_samples': config.sweep.num_samples,
        'labels': config.sweep.labels,
        'sampler': config.sampling.to_dict() | config.diffusion.to_dict(),
        'is_splits': config.sweep.is_splits,
        'shard_size': config.sweep.shard_size,
        'features': extractor.provenance(),
        'seed': config.sweep.seed,
    }


def claim(
    directory: epath.Path, settings: dict[str, Any], advice: str = 'choose another --name'
) -> epath.Path:
    """Makes the directory of a sweep with these settings, or checks that it holds this very sweep.

    Args:
      directory: of the sweep, or of other samples.
      settings: what decides them.
      advice: to the user who has others there.

    Raises:
      UserError: it holds a sweep with other settings.
    """
    path = directory / 'settings.json'
    if path.exists():
        differences = config_lib.contradictions(
            _of_samples(files.read_json(path)), _of_samples(settings)
        )
        if differences:
            others = '; '.join(differences)
            raise UserError(f'{directory} holds a sweep with other settings ({others}); {advice}')
    else:
        files.write_json(path, settings)
    return directory


def score(
    samples: Samples,
    extractor: FeatureExtractor,
    reference: Reference,
    config: ConfigDict,
    metrics: Sequence[str] | None = None,
) -> Row:
    """The row of one set of samples, without what it was sampled at.

    Args:
      samples: of any origin.
      extractor: that made their features.
      reference: the real images.
      config: its `sweep` says how; 'balanced' labels are resampled within classes.
      metrics: out of those that samples and reference can give; by default those of the config
        that they can.
    """
    settings = config.sweep
    if metrics is None:
        obstacles = scoring.obstacles(samples.features, reference, settings.is_splits)
        metrics = [metric for metric in settings.metrics if metric not in obstacles]
    row = scoring.score(
        samples.features,
        reference,
        metrics,
        distance=extractor.distance,
        is_splits=settings.is_splits,
        replicates=settings.bootstrap,
        strata=samples.labels if settings.labels == 'balanced' else None,
    )
    if extractor.logits_are_labels:
        logits = samples.features.logits[:, : config.data.num_classes]
        row['class_agreement'] = scores.class_agreement(logits, samples.labels)
    return row


class _Table:
    """Scores of the samples of each w; what cannot be scored is told once and left out."""

    def __init__(
        self,
        config: ConfigDict,
        extractor: FeatureExtractor,
        reference: Reference,
        report: Report,
    ):
        self._config, self._extractor, self.reference = config, extractor, reference
        self.notes = scoring.notes(config.sweep.num_samples, extractor.distance, reference)
        self._metrics = self._possible()
        for line in self.notes:
            report(f'note: {line}')

    def row(self, w: float, shards: Shards, directory: epath.Path) -> Row:
        """The row of `w`, over all seeds."""
        rows = []
        for seed in seeds(self._config):
            samples = shards.collect(w, seed)
            rows.append(
                score(samples, self._extractor, self.reference, self._config, self._metrics)
            )
            if self._config.sweep.save_samples:
                shards.save_images(w, seed, directory / 'batches' / f'w_{w!r}_seed_{seed}.npz')
        return {'w': w} | scoring.over_seeds(rows)

    def _possible(self) -> list[str]:
        """The config's metrics without those that this extractor or reference cannot give."""
        data, sweep = self._config.data, self._config.sweep
        image_shape = data.image_size, data.image_size, data.channels
        features = extraction.shapes(self._extractor, image_shape, sweep.num_samples)
        obstacles = scoring.obstacles(features, self.reference, sweep.is_splits)
        doubts = scoring.singular(features, self.reference)
        left_out = [f'{m} is left out: {obstacles[m]}' for m in sweep.metrics if m in obstacles]
        if len(left_out) == len(sweep.metrics):
            raise UserError(
                f'none of sweep.metrics={tuple(sweep.metrics)} can be had: {"; ".join(left_out)}'
            )
        possible = [metric for metric in sweep.metrics if metric not in obstacles]
        self.notes += left_out
        self.notes += [f'{metric}: {doubts[metric]}' for metric in possible if metric in doubts]
        return possible


def _rounding(config: ConfigDict, extractor: FeatureExtractor, report: Report) -> dict[str, float]:
    """The error of features in bfloat16, measured on real images, where the config asks for it."""
    if config.sweep.dtype == 'float32' or not isinstance(extractor, InceptionExtractor):
        return {}
    batch = next(pipeline.one_epoch(config.data, config.data.split, extractor.chunk))
    error = extractor.bfloat16_error(images.to_uint8(batch['image']))
    report(f'bfloat16 moves the features by {error:.1e} of their length')
    return {'bfloat16_error': error}


def _of_samples(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without what changes no sample and no feature."""
    features = {key: value for key, value in settings['features'].items() if key != 'source'}
    return {key: value for key, value in settings.items() if key != 'is_splits'} | {
        'features': features
    }


def _drawn(directory: epath.Path, rows: list[Row]) -> bool:
    """Whether samples.png was drawn for the w of `rows`, by what the last results.json says."""
    results, picture = directory / 'results.json', directory / 'samples.png'
    if not (results.exists() and picture.exists()):
        return False
    return [row['w'] for row in files.read_json(results)['rows']] == [row['w'] for row in rows]


def _title(settings: dict[str, Any]) -> str:
    sampler = settings['sampler']
    return (
        f'{settings["dataset"]}: {sampler["sampler"]}, T = {sampler["num_steps"]},'
        f' {settings["num_samples"]:,} samples a point, features: {settings["features"]["name"]}'
    )


def _save_samples(model: trained.TrainedModel, path: epath.Path) -> None:
    """Rows: classes. Columns: w. The same image number, and so the same noise, along a row."""
    config = model.config
    columns = weights(config)
    classes = np.arange(min(_PICTURE_CLASSES, config.data.num_classes))
    labels = np.repeat(classes, len(columns))
    x = model.generate(config.sweep.seed, labels, labels, np.tile(columns, len(classes)))
    picture = np.asarray(images.to_uint8(x)).reshape(len(classes), len(columns), *x.shape[1:])
    names = sources.class_names(config.data)
    plots.save_sample_grid(
        path,
        picture,
        row_names=[names[c] for c in classes],
        column_names=[f'w = {w:g}' for w in columns],
    )
