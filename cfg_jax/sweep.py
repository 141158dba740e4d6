"""The guidance sweep: checkpoint x list of w -> samples -> features -> scores; resumable.

The work is cut into shards, one file per (w, range of image numbers). A finished shard is never
computed again, so a killed sweep goes on where it was and ends with the same table.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import (
    config as config_lib,
    data,
    datasets,
    files,
    generation,
    images,
    plots,
    trained,
    writers,
)
from cfg_jax.errors import UserError
from cfg_jax.metrics import extractors, scores
from cfg_jax.metrics.features import FeatureExtractor, Features
from cfg_jax.metrics.statistics import Moments
from cfg_jax.provenance import describe_environment

CONVENTION = 'eps = (1 + w) eps_cond - w eps_uncond; w = 0 is unguided; s = 1 + w'
_PICTURE_CLASSES = 10
_REPORT_SECONDS = 10.0

Report = Callable[[str], None]
Row = dict[str, float]


def run(
    config: ConfigDict, workdir: epath.PathLike, name: str = '', report: Report = print
) -> epath.Path:
    """Sweeps `config.sweep.w` over the newest checkpoint of `workdir`, with EMA parameters.

    Writes WORKDIR/sweep/NAME/{results.json, table.md, tradeoff.png, samples.png}.

    Args:
      config: as the run was trained; `sampling` and `sweep` may be set anew.
      workdir: the work directory of the training.
      name: of the sweep's directory; '' names it after its settings.
      report: receives one line of progress at a time.

    Returns:
      The sweep's directory.

    Raises:
      UserError: no checkpoint, an unknown extractor, or a directory of another sweep.
    """
    config_lib.validate(config)
    workdir = epath.Path(workdir).expanduser()
    model = trained.TrainedModel(workdir, config)
    extractor = extractors.load_extractor(config, workdir, report)
    settings = _settings(model, extractor)
    directory = _claim(workdir / 'sweep' / (name or default_name(config, model.step)), settings)
    reference, reference_record = reference_moments(config, workdir, extractor, report)

    sampled = _Shards(model, directory, extractor, report)
    rows = [_score(config, w, sampled.collect(w), reference, extractor) for w in _weights(config)]
    results = {
        **settings,
        'reference': reference_record,
        'convention': CONVENTION,
        'rows': rows,
        'config': config_lib.to_json(config),
        **describe_environment(),
    }
    if not _drawn(directory, rows):
        _save_samples(model, directory / 'samples.png')
    files.write_json(directory / 'results.json', results)
    files.write_bytes(directory / 'table.md', table(rows).encode())
    plots.save_tradeoff(directory / 'tradeoff.png', rows, title=_title(settings))
    return directory


def default_name(config: ConfigDict, step: int) -> str:
    """The settings that most often differ, as a directory name."""
    sampling = config.sampling
    variance = f'-v{sampling.v:g}' if sampling.sampler == 'ancestral' else ''
    return (
        f'{sampling.sampler}-T{sampling.num_steps}{variance}-n{config.sweep.num_samples}'
        f'-seed{config.sweep.seed}-step{step}'
    )


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table; the best FID and IS are bold."""
    best_fid, best_is = min(row['fid'] for row in rows), max(row['is'] for row in rows)
    agreement = 'class_agreement' in rows[0]
    lines = [
        '| w | s = 1 + w | FID | IS |' + (' class agreement |' if agreement else ''),
        '|---|---|---|---|' + ('---|' if agreement else ''),
    ]
    for row in rows:
        fid, score = f'{row["fid"]:.2f}', f'{row["is"]:.3f}'
        fid = f'**{fid}**' if row['fid'] == best_fid else fid
        score = f'**{score}**' if row['is'] == best_is else score
        line = f'| {row["w"]:g} | {1 + row["w"]:g} | {fid} | {score} ± {row["is_std"]:.3f} |'
        lines.append(line + (f' {row["class_agreement"]:.1%} |' if agreement else ''))
    return '\n'.join(lines) + '\n'


def reference_moments(
    config: ConfigDict, workdir: epath.Path, extractor: FeatureExtractor, report: Report
) -> tuple[Moments, dict[str, Any]]:
    """Moments of the real images of `config.data.split`, and what identifies them; kept on disk.

    The images go through the training preprocessing (no flips) and the same rounding to uint8 as
    samples do.
    """
    record = {
        'dataset': config.data.name,
        'split': config.data.split,
        'image_size': config.data.image_size,
        'features_sha256': extractor.provenance()['sha256'],
    }
    path = workdir / 'reference' / f'{extractor.name}-{record["features_sha256"][:12]}.npz'
    if not path.exists():
        report(f'reference statistics of {config.data.name} {config.data.split}')
        extract = _extract_fn(extractor)
        moments = None
        for batch in data.one_epoch(config.data, config.data.split, config.sweep.batch_size):
            part = Moments.of(np.asarray(extract(extractor.params, batch['image']).pooled))
            moments = part if moments is None else moments.merge(part)
        files.write_npz(path, moments.to_arrays())
    arrays = files.read_npz(path)
    moments = Moments.from_arrays(arrays)
    record |= {'num_images': moments.count, 'sha256': files.sha256_of_arrays(arrays)}
    return moments, record


class _Shards:
    """Features of the samples of each w, computed shard by shard or read back."""

    def __init__(self, model, directory, extractor, report):
        self._model = model
        self._config = config = model.config
        self._directory = directory / 'shards'
        self._extractor = extractor
        self._report = report
        self._extract = _extract_fn(extractor)
        missing = [(w, start) for w in _weights(config) for start in self._starts()]
        missing = [key for key in missing if not self._path(*key).exists()]
        passes = (_passes(w) * (self._stop(start) - start) for w, start in missing)
        self._progress = writers.Progress(sum(passes))
        self._passes_done = 0
        self._last_report = time.monotonic()

    def collect(self, w: float) -> dict[str, Any]:
        """Moments, logits [N, K] and labels [N] of the samples at guidance weight `w`."""
        moments, logits, labels = None, [], []
        for start in self._starts():
            path = self._path(w, start)
            if not path.exists():
                files.write_npz(path, self._compute(w, start))
            arrays = files.read_npz(path)
            part = Moments.from_arrays(arrays)
            moments = part if moments is None else moments.merge(part)
            logits.append(arrays['logits'])
            labels.append(arrays['labels'])
        return {
            'moments': moments,
            'logits': np.concatenate(logits),
            'labels': np.concatenate(labels),
        }

    def _compute(self, w: float, start: int) -> dict[str, np.ndarray]:
        stop = self._stop(start)
        batch_size = min(self._config.sweep.batch_size, self._config.sweep.shard_size)
        parts, waiting = [], None
        for first in range(start, stop, batch_size):
            # The last batch keeps its size, so that nothing is compiled twice; what lies past the
            # end is dropped. A batch is fetched while the devices work on the next one.
            indices = np.arange(first, first + batch_size)
            labels = self._labels(indices)
            x = self._model.generate(self._config.sweep.seed, indices, labels, w)
            dispatched = self._extract(self._extractor.params, x), labels, min(stop - first, len(x))
            if waiting is not None:
                parts.append(_fetch(*waiting))
                self._tell(w, first, len(parts[-1][0]), stop)
            waiting = dispatched
        parts.append(_fetch(*waiting))
        self._tell(w, stop, len(parts[-1][0]), stop)
        pooled, logits, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Moments.of(pooled).to_arrays() | {'logits': logits, 'labels': labels}

    def _labels(self, indices: np.ndarray) -> np.ndarray:
        rule, num_classes = self._config.sweep.labels, self._config.data.num_classes
        return np.asarray(
            generation.image_labels(self._config.sweep.seed, indices, num_classes, rule), np.int32
        )

    def _starts(self) -> range:
        return range(0, self._config.sweep.num_samples, self._config.sweep.shard_size)

    def _stop(self, start: int) -> int:
        return min(start + self._config.sweep.shard_size, self._config.sweep.num_samples)

    def _path(self, w: float, start: int) -> epath.Path:
        return self._directory / f'w_{w!r}_images_{start:07d}.npz'

    def _tell(self, w: float, done: int, new: int, stop: int) -> None:
        """Notes `new` more images, `done` at this w; a line at a shard's end or every 10 s."""
        self._passes_done += new * _passes(w)
        if done < stop and time.monotonic() - self._last_report < _REPORT_SECONDS:
            return
        self._last_report = time.monotonic()
        rate = self._progress.update(self._passes_done) / _passes(w)
        left = writers.format_duration(self._progress.seconds_left())
        self._report(
            f'w={w:g}  {done}/{self._config.sweep.num_samples} images'
            f'  {rate:,.0f} images/s  {left} left'
        )


def _passes(w: float) -> int:
    """Network passes a step at guidance weight `w`."""
    return 1 if w == 0 else 2


def _extract_fn(extractor: FeatureExtractor) -> Callable[[Any, jax.Array], Features]:
    """Features of images in [-1, 1], rounded to uint8 on the device as the protocol asks."""
    return jax.jit(lambda params, x: extractor.apply(params, images.to_uint8(x)))


def _fetch(features: Features, labels: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
    pooled, logits = jax.device_get(features)
    return pooled[:count], logits[:count], labels[:count]


def _weights(config: ConfigDict) -> list[float]:
    return [float(w) for w in config.sweep.w]


def _score(config, w: float, samples, reference: Moments, extractor: FeatureExtractor) -> Row:
    is_mean, is_std = scores.inception_score(samples['logits'], config.sweep.is_splits)
    row = {
        'w': w,
        'fid': scores.frechet_distance(samples['moments'], reference),
        'is': is_mean,
        'is_std': is_std,
    }
    if extractor.logits_are_labels:
        row['class_agreement'] = scores.class_agreement(samples['logits'], samples['labels'])
    return row


def _settings(model: trained.TrainedModel, extractor: FeatureExtractor) -> dict[str, Any]:
    """What decides a sweep's numbers, apart from the list of w."""
    config = model.config
    return {
        'dataset': config.data.name,
        'checkpoint_step': model.step,
        'weights': 'ema',
        'weights_sha256': model.weights_sha256(),
        'num_samples': config.sweep.num_samples,
        'labels': config.sweep.labels,
        'sampler': config.sampling.to_dict() | config.diffusion.to_dict(),
        'is_splits': config.sweep.is_splits,
        'shard_size': config.sweep.shard_size,
        'features': extractor.provenance(),
        'seed': config.sweep.seed,
    }


def _claim(directory: epath.Path, settings: dict[str, Any]) -> epath.Path:
    """Makes the sweep's directory, or checks that it holds this very sweep."""
    path = directory / 'settings.json'
    if path.exists():
        differences = config_lib.contradictions(files.read_json(path), settings)
        if differences:
            raise UserError(
                f'{directory} holds a sweep with other settings ({"; ".join(differences)}); choose'
                ' another --name'
            )
    else:
        files.write_json(path, settings)
    return directory


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
    weights = _weights(config)
    classes = np.arange(min(_PICTURE_CLASSES, config.data.num_classes))
    labels = np.repeat(classes, len(weights))
    x = model.generate(config.sweep.seed, labels, labels, np.tile(weights, len(classes)))
    picture = np.asarray(images.to_uint8(x)).reshape(len(classes), len(weights), *x.shape[1:])
    names = datasets.class_names(config.data)
    plots.save_sample_grid(
        path,
        picture,
        row_names=[names[c] for c in classes],
        column_names=[f'w = {w:g}' for w in weights],
    )
