"""What samples are compared with: statistics of real images, computed here or read from a file."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

from cfg_jax import files, progress
from cfg_jax.errors import UserError
from cfg_jax.metrics import given
from cfg_jax.metrics.features import FeatureExtractor, Features, extraction
from cfg_jax.metrics.statistics import Gaussian, Moments, Reference

KEPT_FEATURES = 10_000  # for precision, recall and KID; ADM's reference batches hold as many
_SAVE_SECONDS = 60.0
_STORED = ('mu', 'sigma', 'mu_s', 'sigma_s', 'features', 'record')


def of_features(features: Features, record: dict[str, Any]) -> Reference:
    """The reference that a set of images makes, from its features as NumPy arrays."""
    return of_parts([features], len(features.pooled), record)


def of_parts(parts: Iterable[Features], count: int, record: dict[str, Any]) -> Reference:
    """The reference that `count` images make, from their features part by part as NumPy arrays.

    What is kept does not grow with `count`.
    """
    state = _State(count)
    for part in parts:
        state.add(part)
    return state.reference(record)


def compute(
    batches_from: Callable[[int], Iterable[np.ndarray]],
    count: int,
    extractor: FeatureExtractor,
    path: epath.PathLike,
    *,
    batch_size: int,
    record: dict[str, Any],
) -> None:
    """Writes the statistics of `count` images to `path`; continues where a killed run was.

    The file holds `mu`, `sigma` (and `mu_s`, `sigma_s` for sFID) as pytorch-fid's, ADM's and EDM's
    do, the features for precision, recall and KID, and `record` as JSON.

    Args:
      batches_from: batches_from(i) yields the images from number i on, batch_size at a time.
      count: images in the set.
      extractor: makes the features.
      path: an `.npz`; the state of an unfinished run is kept next to it.
      batch_size: images extracted at once.
      record: see `Reference`; the extractor's provenance joins it.

    Raises:
      UserError: features that are not finite numbers.
    """
    path = files.as_path(path)
    partial = path.parent / f'{path.stem}.partial.npz'
    record = record | {'num_images': count, 'features': extractor.provenance()}
    state = _State(count)
    state.restore(partial, record)
    last_saved = time.monotonic()
    with progress.bar(count, 'images', done=state.done) as bar:
        for features in extraction.extract_all(extractor, batches_from(state.done), batch_size):
            state.add(features)
            bar.update(len(features.pooled))
            if time.monotonic() - last_saved > _SAVE_SECONDS:
                state.save(partial, record)
                last_saved = time.monotonic()
    save(path, state.reference(record))
    partial.unlink(missing_ok=True)


def save(path: epath.PathLike, reference: Reference) -> None:
    """Writes a reference in the published format, and ours next to it."""
    arrays = _arrays(reference)
    arrays['record'] = np.array(json.dumps(reference.record))
    files.write_npz(path, arrays)


def load(path: epath.PathLike, extractor: FeatureExtractor | None = None) -> Reference:
    """Reads statistics written by `save`, pytorch-fid, ADM or EDM.

    Args:
      path: an `.npz` with `mu` and `sigma`.
      extractor: where the file says which weights made it, they must be this extractor's.

    Raises:
      UserError: no such file, no statistics in it, or made with other weights.
    """
    path = files.as_path(path)
    arrays = read_statistics(path)
    with files.damage_reported(path, 'make it again with scripts/reference_stats.py'):
        record = json.loads(str(arrays['record'])) if 'record' in arrays else {}
        made_with = record.get('features', {})
    if extractor is not None and made_with:
        ours = extractor.provenance()
        for key in ('name', 'sha256', 'dtype'):
            if made_with.get(key) != ours.get(key):
                raise UserError(
                    f'{path} was made with other features ({key} {str(made_with.get(key))[:12]})'
                    f' than the samples ({str(ours.get(key))[:12]}); make it again with'
                    ' scripts/reference_stats.py'
                )
    spatial = Gaussian(arrays['mu_s'], arrays['sigma_s']) if 'mu_s' in arrays else None
    return _with_hash(
        Reference(
            Gaussian(arrays['mu'], arrays['sigma']),
            spatial,
            arrays.get('features'),
            {'file': path.name} | record,
        )
    )


def size_of(image_shape: Sequence[int]) -> int | list[int]:
    """`image_size` of a record, from (H, W): the side of square images, else both."""
    height, width = image_shape
    return height if height == width else [height, width]


def check_size(record: dict[str, Any], size: int | list[int], path: epath.PathLike) -> None:
    """Raises UserError where a reference says that its images have another size than samples."""
    real = record.get('image_size', size)
    if real != size:
        raise UserError(
            f'{path} is of images of {_pixels(real)} pixels, the samples have {_pixels(size)};'
            ' metrics compare images of one size: give a reference of that size'
        )


def _pixels(size: int | list[int]) -> str:
    height, width = (size, size) if isinstance(size, int) else size
    return f'{width}x{height}'


def has_statistics(path: epath.Path) -> bool:
    """Whether an `.npz` holds `mu`, be there images or not."""
    with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
        return 'mu' in arrays.files


def read_statistics(path: epath.Path) -> dict[str, np.ndarray]:
    """The arrays of a statistics file, its shapes checked.

    Raises:
      UserError: see `load`.
    """
    if not path.exists():
        raise UserError(f'no reference statistics at {path}')
    arrays = files.read_npz(path, only=_STORED, advice='give an .npz of statistics')
    for mu, sigma in (('mu', 'sigma'), ('mu_s', 'sigma_s')):
        if mu not in arrays and mu == 'mu_s':
            continue
        if mu not in arrays or sigma not in arrays:
            raise UserError(
                f'{path} holds no {mu!r} and {sigma!r}, as statistics files of pytorch-fid, ADM and'
                ' EDM do'
            )
        with files.damage_reported(path, 'give an .npz of statistics'):
            arrays[mu] = np.asarray(arrays[mu], np.float64).reshape(-1)
            arrays[sigma] = np.asarray(arrays[sigma], np.float64)
        if not (np.isfinite(arrays[mu]).all() and np.isfinite(arrays[sigma]).all()):
            raise UserError(f'{path}: {mu} or {sigma} is not finite; make the file again')
        dim = arrays[mu].size
        if arrays[sigma].shape != (dim, dim):
            raise UserError(
                f'{path}: {sigma} has the shape {arrays[sigma].shape}, which does not go with'
                f' {mu} of {dim} features'
            )
    kept = arrays.get('features')
    if kept is not None and kept.shape[1:] != arrays['mu'].shape:
        raise UserError(
            f'{path} holds features of shape {kept.shape}, which do not go with mu of'
            f' {arrays["mu"].size} features'
        )
    return arrays


class _State:
    """Moments and kept features of the images so far; a killed run continues from a file."""

    def __init__(self, count: int):
        self._keep = _kept(count)
        self.done = 0
        self.pooled: Moments | None = None
        self.spatial: Moments | None = None
        self.kept: list[np.ndarray] = []

    def restore(self, path: epath.Path, record: dict[str, Any]) -> None:
        """Takes up what `save` left for the same record; nothing where there is none or damage."""
        keys = ('record', 'count', 'mean', 'scatter', 'kept')
        arrays = files.read_or_set_aside(path, lambda path: files.read_npz(path, keys=keys))
        if arrays is None or str(arrays['record']) != _mark(record):
            return
        self.pooled = Moments.from_arrays(arrays)
        if 's_count' in arrays:
            self.spatial = Moments.from_arrays(arrays, 's_')
        self.kept, self.done = [arrays['kept']], self.pooled.count

    def add(self, features: Features) -> None:
        """Takes in the next images; raises UserError where their features are not finite."""
        for values in (features.pooled, features.spatial):
            if values is not None and not (finite := np.isfinite(values).all(axis=1)).all():
                number = self.done + int(np.flatnonzero(~finite)[0])
                raise UserError(
                    f'{(~finite).sum()} real images from number {number:,} on have features that'
                    ' are not finite numbers; check the images and the weights of the extractor'
                )
        first, self.done = self.done, self.done + len(features.pooled)
        wanted = self._keep[(self._keep >= first) & (self._keep < self.done)]
        pooled = np.asarray(features.pooled)
        self.kept.append(pooled[wanted - first])
        self.pooled = _merged(self.pooled, pooled)
        if features.spatial is not None:
            self.spatial = _merged(self.spatial, np.asarray(features.spatial))

    def save(self, path: epath.Path, record: dict[str, Any]) -> None:
        """Writes the state."""
        arrays = given(self.pooled, 'images').to_arrays() | {'kept': np.concatenate(self.kept)}
        if self.spatial is not None:
            arrays |= self.spatial.to_arrays('s_')
        files.write_npz(path, arrays | {'record': np.array(_mark(record))})

    def reference(self, record: dict[str, Any]) -> Reference:
        """What the images so far make."""
        spatial = None if self.spatial is None else self.spatial.gaussian()
        pooled = given(self.pooled, 'images')
        record = {'num_images': pooled.count} | record
        kept = np.concatenate(self.kept)
        return _with_hash(Reference(pooled.gaussian(), spatial, kept, record))


def _merged(moments: Moments | None, features: np.ndarray) -> Moments:
    part = Moments.of(features)
    return part if moments is None else moments.merge(part)


def _mark(record: dict[str, Any]) -> str:
    """What an unfinished run is of, and which images it keeps: every n-th in earlier editions."""
    return json.dumps(record | {'kept': 'one of each stretch'})


def _kept(count: int) -> np.ndarray:
    """Numbers of up to KEPT_FEATURES images: one, by chance, of each of as many equal stretches.

    Sets may be sorted by class, or go round the classes: every n-th image would be of few classes.
    """
    kept = min(count, KEPT_FEATURES)
    bounds = np.arange(kept + 1) * count // kept
    return np.random.default_rng(0).integers(bounds[:-1], bounds[1:])


def _with_hash(reference: Reference) -> Reference:
    digest = files.sha256_of_arrays(_arrays(reference))
    return reference._replace(record=reference.record | {'sha256': digest})


def _arrays(reference: Reference) -> dict[str, np.ndarray]:
    arrays = {'mu': reference.pooled.mu, 'sigma': reference.pooled.sigma}
    if reference.spatial is not None:
        arrays |= {'mu_s': reference.spatial.mu, 'sigma_s': reference.spatial.sigma}
    if reference.features is not None:
        arrays['features'] = reference.features
    return arrays
