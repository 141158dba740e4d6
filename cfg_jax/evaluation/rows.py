"""All metrics of one set of samples against one reference: the row of a table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cfg_jax.errors import UserError
from cfg_jax.metrics import METRICS, Inputs
from cfg_jax.metrics.features import Features
from cfg_jax.metrics.influence import Influence
from cfg_jax.metrics.statistics import Reference

_FEW = 10_000

Row = dict[str, Any]


class Evaluation(NamedTuple):
    """A row, and the influences of the samples on each of its metrics that has them, by key."""

    row: Row
    influences: dict[str, Influence]


def unavailable_metrics(inputs: Inputs) -> dict[str, str]:
    """Metrics that these samples and this reference do not allow, each with the reason.

    Only the shapes of the features are used, so `jax.ShapeDtypeStruct`s will do.

    Raises:
      UserError: the features of samples and reference differ in number.
    """
    _check_dimensions(inputs)
    reasons = {}
    for name, metric in METRICS.items():
        fewest = _fewest_images(inputs, metric.needs)
        lacking = [reason for need in metric.needs if (reason := _LACKS[need](inputs))]
        if lacking:
            reasons[name] = lacking[0]
        elif fewest < metric.images:
            reasons[name] = f'{metric.images} images a side are needed; there are {fewest}'
    return reasons


# need of a metric -> the reason why these inputs do not satisfy it, or ''
_LACKS: Mapping[str, Callable[[Inputs], str]] = {
    'spatial': lambda inputs: (
        'the extractor gives no spatial features'
        if inputs.samples.spatial is None
        else 'the reference has no statistics of spatial features (mu_s, sigma_s)'
        if inputs.reference.spatial is None
        else ''
    ),
    'logits': lambda inputs: (
        'the extractor gives no logits' if inputs.samples.logits is None else ''
    ),
    'labels': lambda inputs: (
        'the classes of the samples are not known, or not those of the logits'
        if inputs.labels is None
        else ''
    ),
    'splits': lambda inputs: (
        f'{inputs.splits} splits need as many images; there are {_count(inputs)}'
        if _count(inputs) < inputs.splits
        else ''
    ),
    'images': lambda inputs: (
        'the reference holds statistics alone, no images or features'
        if inputs.reference.features is None
        else ''
    ),
}


def notes_on_singular_covariances(inputs: Inputs) -> dict[str, str]:
    """Frechet distances of no more images than features: valid values, at a scale of their own."""
    notes = {}
    fewest = _fewest_images(inputs)
    for name, metric in METRICS.items():
        features = getattr(inputs.samples, metric.covariance_of, None)
        if features is not None and fewest <= (dim := features.shape[1]):
            notes[name] = (
                f'{dim:,} features need more than {dim:,} images a side, or the covariance is'
                f' singular and the bias large; there are {fewest:,}'
            )
    return notes


def compute_metrics(
    inputs: Inputs,
    metrics: Sequence[str],
    *,
    distance: str = 'FID',
    not_finite: int = 0,
) -> Evaluation:
    """The metrics of one set of samples.

    Args:
      inputs: features as NumPy arrays.
      metrics: names out of METRICS that are available.
      distance: what the Frechet distance is called; decides its key.
      not_finite: samples that had values that are not finite, before they were rounded to uint8.
        Features are looked at in any case.

    Returns:
      A row with each metric under its key, `KEY_se` for its standard error and `KEY_std` for its
      deviation over splits or subsets, as far as there are any; `notes`, a list, where there are
      any. If any sample or its features are not finite, all metrics are NaN,
      `images_not_finite` counts these samples and a note says why.
    """
    keys = {name: METRICS.key(name, distance) for name in METRICS if name in set(metrics)}
    bad = max(not_finite, _with_features_not_finite(inputs.samples))
    if bad:
        note = (
            f'{bad:,} of {_count(inputs):,} samples are not finite numbers, so there are no'
            ' metrics: the guidance weight is too large for the sampler, or the weights are damaged'
        )
        row: Row = dict.fromkeys(keys.values(), float('nan'))
        return Evaluation(row | {'images_not_finite': bad, 'notes': [note]}, {})
    row, influences, notes = {}, {}, []
    for name, key in keys.items():
        value = METRICS.load(name)(inputs)
        row[key] = value.value
        if value.deviation is not None:
            row[f'{key}_std'] = value.deviation
        if value.error is not None:
            row[f'{key}_se'] = value.error
        if value.influence is not None:
            influences[key] = value.influence
        notes += [value.note] if value.note else []
    return Evaluation(row | ({'notes': notes} if notes else {}), influences)


def over_seeds(rows: Sequence[Row]) -> Row:
    """Several sets' rows as one: the mean under each key, with `KEY_min` and `KEY_seed_std`.

    The mean stands for the method; papers from EDM on report the minimum of three. Counts are
    added, notes joined.
    """
    if len(rows) == 1:
        return dict(rows[0])
    summary: Row = {}
    for key, kind in {key: type(row[key]) for row in rows for key in row}.items():
        values = [row[key] for row in rows if key in row]
        if kind is list:
            summary[key] = list(dict.fromkeys(note for notes in values for note in notes))
        elif kind is int:
            summary[key] = sum(values)
        elif key.endswith('_se'):  # of the mean over independent sets
            summary[key] = float(np.linalg.norm(values) / len(values))
        else:
            summary[key] = float(np.mean(values))
            if not key.endswith('_std'):
                summary[f'{key}_min'] = float(np.min(values))
                summary[f'{key}_seed_std'] = float(np.std(values, ddof=1))
    return summary


def notes(count: int, distance: str, reference: Reference) -> list[str]:
    """What a reader of the numbers must know of the number of samples and of the reference."""
    found = []
    if count < _FEW:
        found.append(
            f'{distance} is biased upward by about 1 / N, and precision and recall depend on N:'
            f' from {count:,} samples they compare only with those from {count:,} samples, not with'
            ' published values (50,000)'
        )
    if 'file' in reference.record and 'features' not in reference.record:
        found.append(
            'the reference does not say which network and resize made it; those of pytorch-fid'
            " come from another resize than TensorFlow's, those of ADM and EDM do not"
        )
    if 'file' in reference.record and 'image_size' not in reference.record:
        found.append(
            'the reference does not say the size of its images; it must be that of the samples,'
            ' or the metrics compare the sizes'
        )
    return found


def _count(inputs: Inputs) -> int:
    return inputs.samples.pooled.shape[0]


def _fewest_images(inputs: Inputs, needs: Sequence[str] = ()) -> int:
    """The smaller of both sides, as far as their numbers are known."""
    count = _count(inputs)
    if 'images' in needs and inputs.reference.features is not None:
        return min(count, len(inputs.reference.features))
    if 'logits' in needs:
        return count  # such metrics do not look at the reference
    return min(count, inputs.reference.record.get('num_images', count))


def _with_features_not_finite(samples: Features) -> int:
    finite = [np.isfinite(each).all(axis=1) for each in samples if each is not None]
    return int((~np.logical_and.reduce(finite)).sum())


def _check_dimensions(inputs: Inputs) -> None:
    samples, reference = inputs.samples, inputs.reference
    pairs = [('pooled', samples.pooled, reference.pooled)]
    if samples.spatial is not None and reference.spatial is not None:
        pairs.append(('spatial', samples.spatial, reference.spatial))
    for name, features, real in pairs:
        if features.shape[1] != real.mu.size:
            raise UserError(
                f'the samples have {features.shape[1]} {name} features, the reference'
                f' {real.mu.size}; both must come from the same layer of the same network'
            )
