"""The methods that classifier_guidance.py compares, each a curve of rows with their cost."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import files, loading, progress
from cfg_jax.errors import UserError
from cfg_jax.evaluation import dataset_reference, results as results_lib, sweep
from cfg_jax.evaluation.cache import Samples
from cfg_jax.guidance import CLASSIFIER
from cfg_jax.inference import Model
from cfg_jax.metrics.features import (
    FeatureExtractor,
    Features,
    extraction,
)

Row = dict[str, Any]


class Workdirs(NamedTuple):
    """Of the two networks."""

    model: epath.Path
    classifier: epath.Path


class Measured(NamedTuple):
    """A method's rows: 'strength' (w, scale or ratio), metrics and cost per image."""

    name: str
    strength: str
    rows: list[Row]
    provenance: dict[str, Any]


class Curve(NamedTuple):
    """A method and what to sample it at.

    Attributes:
      name, strength: in tables; what its weight is called.
      slug: of its directory.
      model: with the weights in its config's `sweep.w`.
    """

    name: str
    strength: str
    slug: str
    model: Model

    def measure(self, root: epath.Path, extractor: FeatureExtractor) -> Measured:
        """Samples and measures every weight, and times one warm batch of each kind."""
        logging.info('\n%s', self.name)
        results = sweep.measure(self.model, root, self.slug, extractor)
        found = results.pop('rows')
        # The strength does not change the work; whether there is any guidance does.
        costs = {guided: self._cost(float(guided)) for guided in {row['w'] != 0 for row in found}}
        rows = [costs[row['w'] != 0] | row | {'strength': row['w']} for row in found]
        return Measured(self.name, self.strength, rows, results)

    def _cost(self, w: float) -> Row:
        steps, rule = self.model.config.sampler.num_steps, self.model.rule
        return {
            'nfe': steps * rule.nfe_per_level(w),
            'classifier_gradients': steps * rule.evaluations.count(CLASSIFIER) if w else 0,
            'gflop': self.model.flops_per_image(w) / 1e9,
            'seconds': seconds_per_image(self.model, w),
        }


def curves(
    config: ConfigDict, paths: Workdirs, weights: Sequence[float], scales: Sequence[float]
) -> list[Curve]:
    """Every guided method, on the same seeds."""
    ddim = config.copy_and_resolve_references()
    ddim.sampler.name = 'ddim'
    found = []
    for how, settings in (('ancestral', config), ('DDIM', ddim)):
        model = loading.load(paths.model, config=_with_weights(settings, weights))
        slug = f'classifier-free-{how.lower()}'
        found.append(Curve(f'classifier-free, {how}', 'w', slug, model))
    for how, settings, form in (('ancestral', config, 'mean'), ('DDIM', ddim, 'eps')):
        for conditional in (True, False):
            base = 'conditional' if conditional else 'unconditional'
            # The conditional model by itself is already among the rows, at w = 0.
            chosen = _with_weights(settings, scales if conditional else (0.0, *scales))
            model = _classifier_guided(paths, chosen, form, conditional)
            name = f'classifier on {base}, {form} shift, {how}'
            slug = f'classifier-{base}-{form}'
            found.append(Curve(name, 'scale', slug, model))
    return found


def _classifier_guided(paths: Workdirs, config: ConfigDict, form: str, conditional: bool) -> Model:
    rule = f'classifier_{form}:conditional={conditional}'
    return loading.load(
        paths.model, config=config, guidance=rule, guidance_network=paths.classifier
    )


def filtered(
    config: ConfigDict,
    paths: Workdirs,
    ratios: Sequence[float],
    root: epath.Path,
    extractor: FeatureExtractor,
) -> Measured:
    """Unconditional samples filtered by a classifier: per class the likeliest N / K of R N.

    The noisy classifier judges finished images, at the cleanest noise level.
    """
    name = 'unconditional, the best by a classifier'
    logging.info('\n%s', name)
    count = config.sweep.num_samples
    model = _classifier_guided(paths, config, 'eps', conditional=False)
    pool = _Pool(model, root / 'pool', extractor)
    features, log_probs = pool.collect(round(max(ratios) * count))
    reference = dataset_reference.reference(config, root, extractor)
    labels = np.arange(count) % config.data.num_classes
    balanced = config.copy_and_resolve_references()
    balanced.sweep.labels = 'balanced'  # as many of each class are kept
    cost = {
        'nfe': config.sampler.num_steps,
        'classifier_gradients': 0,
        'gflop': model.flops_per_image(0.0) / 1e9,
        'seconds': seconds_per_image(model, 0.0),
    }
    rows = []
    for ratio in ratios:
        chosen = likeliest(log_probs[: round(ratio * count)], labels)
        kept = jax.tree.map(lambda a, chosen=chosen: a[chosen], features)
        row = sweep.evaluate(Samples(kept, labels), extractor, reference, balanced).row
        row |= {key: ratio * value for key, value in cost.items()}
        rows.append(row | {'strength': float(ratio)})
    provenance = sweep.settings_of(model, extractor) | {'reference': reference.record}
    return Measured(name, 'ratio', rows, provenance)


def likeliest(log_probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Numbers of the images [len(labels)] that a classifier finds likeliest to be of each label.

    Of each class as many as `labels` asks for, the likeliest first; `log_probs` [N, classes].

    Raises:
      UserError: a class is asked for more often than there are images.
    """
    chosen = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        if len(places) > len(log_probs):
            raise UserError(
                f'{len(places)} images of a class are asked for out of {len(log_probs)}'
            )
        chosen[places] = np.argsort(-log_probs[:, label], kind='stable')[: len(places)]
    return chosen


def seconds_per_image(model: Model, w: float) -> float:
    """Of a whole batch, compiled before."""
    size = model.config.sweep.batch_size
    labels = np.arange(size) % model.config.data.num_classes
    jax.block_until_ready(model.generate(0, np.arange(size), labels, w))
    start = time.perf_counter()
    jax.block_until_ready(model.generate(0, np.arange(size), labels, w))
    return (time.perf_counter() - start) / size


class _Pool:
    """Features of unconditional samples and log p(c | x) of a classifier, kept batch by batch."""

    def __init__(self, model: Model, directory: epath.Path, extractor: FeatureExtractor):
        # Samples of another model or sampler must not pass for this one's; more of them may follow.
        settings = sweep.settings_of(model, extractor)
        for name in ('num_samples', 'labels', 'shard_size'):
            del settings[name]
        self._directory = results_lib.claim(directory, settings, 'choose another --root')
        self._model, self._extractor = model, extractor
        self._extract = extraction.make_extract(extractor)
        self._log_probs = jax.jit(self._log_probs_at_the_end)

    def collect(self, count: int) -> tuple[Features, np.ndarray]:
        """Of images 0..count - 1."""
        size = self._model.config.sweep.batch_size
        starts = range(0, count, size)
        paths = [self._directory / f'images_{start:07d}_of_{size}.npz' for start in starts]
        parts = {path: files.read_or_set_aside(path, files.read_npz) for path in paths}
        done = size * sum(part is not None for part in parts.values())
        with progress.bar(size * len(paths), 'images', done=done) as bar:
            for start, path in zip(starts, paths, strict=True):
                if parts[path] is None:
                    parts[path] = self._batch(start, size)
                    files.write_npz(path, parts[path])
                    bar.update(size)
        log_probs = np.concatenate([part.pop('log_probs') for part in parts.values()])[:count]
        features = extraction.concatenate([Features(**part) for part in parts.values()])
        return jax.tree.map(lambda a: a[:count], features), log_probs

    def _batch(self, start: int, size: int) -> dict[str, np.ndarray]:
        seed = self._model.config.sweep.seed
        # Unguided, the unconditional model looks at no label.
        anything = self._model.conditioning.from_user(np.zeros(size, int))
        x = self._model.generate(seed, np.arange(start, start + size), anything, 0.0).x
        features = self._extract(self._extractor.params, x)
        kept = {
            k: v for k, v in extraction.fetch(features, size)._asdict().items() if v is not None
        }
        log_probs = self._log_probs(self._model.params['classifier'], x)
        return kept | {'log_probs': np.asarray(log_probs)}

    def _log_probs_at_the_end(self, params: Any, x: jax.Array) -> jax.Array:
        """log p(c | x) of finished images, float32 [B, num_classes], at the cleanest level."""
        logsnr = jnp.full(x.shape[:1], self._model.config.diffusion.logsnr_max)
        return jax.nn.log_softmax(self._model.networks['classifier'](params, x, logsnr))


def _with_weights(config: ConfigDict, weights: Sequence[float]) -> ConfigDict:
    copy = config.copy_and_resolve_references()
    copy.sweep.w = tuple(weights)
    return copy
