"""All scores of one set of samples against one reference: the row of a table."""

from collections.abc import Sequence

import numpy as np

from cfg_jax.errors import UserError
from cfg_jax.evaluation.reference import Reference
from cfg_jax.metrics import (
    bootstrap,
    precision_recall,
    scores,
)
from cfg_jax.metrics.features import Features
from cfg_jax.metrics.kernel_distance import kernel_distance
from cfg_jax.metrics.statistics import Moments

# metric -> whether a higher value is better
METRICS = {
    'fid': False,
    'sfid': False,
    'is': True,
    'precision': True,
    'recall': True,
    'kid': False,
    'fid_infinity': False,
}
STANDARD = ('fid', 'sfid', 'is', 'precision', 'recall', 'kid')
_FEW = 10_000

Row = dict[str, float]


def check_names(metrics: Sequence[str]) -> None:
    """Raises UserError if one of the names is no metric."""
    for metric in metrics:
        if metric not in METRICS:
            raise UserError(f'{metric!r} is no metric; there are: {", ".join(METRICS)}')


def distance_key(distance: str) -> str:
    """The key in a row of a Frechet distance: 'FID' -> 'fid', 'FD-768' -> 'fd768'."""
    return distance.lower().replace('-', '')


def obstacles(samples: Features, reference: Reference, is_splits: int = 10) -> dict[str, str]:
    """Metrics that cannot be had, each with the reason.

    Only the shapes of `samples` are looked at, so `jax.ShapeDtypeStruct`s will do.

    Raises:
      UserError: the features of samples and reference differ in number.
    """
    _check_dimensions(samples, reference)
    reasons = {}
    count = samples.pooled.shape[0]
    real = reference.record.get('num_images', count)
    if min(count, real) < 2:
        reasons |= dict.fromkeys(('fid', 'sfid'), 'a covariance needs 2 images a side')
    if min(count, real) < 4:
        reasons['fid_infinity'] = '4 images are needed'
    if samples.spatial is None:
        reasons['sfid'] = 'the extractor gives no spatial features'
    elif reference.spatial is None:
        reasons['sfid'] = 'the reference has no statistics of spatial features (mu_s, sigma_s)'
    if samples.logits is None:
        reasons['is'] = 'the extractor gives no logits'
    elif count < is_splits:
        reasons['is'] = f'{is_splits} splits need as many images; there are {count}'
    for metric in ('precision', 'recall', 'kid'):
        if reference.features is None:
            reasons[metric] = 'the reference holds statistics alone, no images or features'
        elif min(count, len(reference.features)) <= precision_recall.NEIGHBOURS:
            reasons[metric] = f'{precision_recall.NEIGHBOURS + 1} images a side are needed'
    return reasons


def singular(samples: Features, reference: Reference) -> dict[str, str]:
    """Frechet distances that can be computed but mean little, with the reason: too few images."""
    reasons = {}
    for metric, features in (('fid', samples.pooled), ('sfid', samples.spatial)):
        if features is None:
            continue
        count, dim = features.shape
        real = reference.record.get('num_images', count)
        if min(count, real) <= dim:
            reasons[metric] = (
                f'{dim:,} features need more than {dim:,} images a side, or the covariance is'
                f' singular; there are {min(count, real):,}'
            )
    return reasons | ({'fid_infinity': reasons['fid']} if 'fid' in reasons else {})


def score(
    samples: Features,
    reference: Reference,
    metrics: Sequence[str],
    *,
    distance: str = 'FID',
    is_splits: int = 10,
    replicates: int = 0,
    strata: np.ndarray | None = None,
) -> Row:
    """The metrics of the samples, and standard errors as `KEY_se`.

    Args:
      samples: features of all samples as NumPy arrays, in file order.
      reference: what they are compared with.
      metrics: names out of METRICS.
      distance: what the Frechet distance is called; decides its key.
      is_splits: parts of the Inception Score.
      replicates: bootstrap replicates for the standard errors of the Frechet distances and the
        Inception Score; 0 leaves them out.
      strata: see `bootstrap.standard_error`.

    Returns:
      `fid` (or another name for it), `sfid`, `is` and `is_std` (over splits), `precision`,
      `recall`, `kid` and `kid_std` (over subsets), as far as asked for.
    """
    row: Row = {}
    key = distance_key(distance)
    if 'fid' in metrics:
        row |= _frechet(key, samples.pooled, reference.pooled, replicates, strata)
    if 'sfid' in metrics:
        row |= _frechet('sfid', samples.spatial, reference.spatial, replicates, strata)
    if 'is' in metrics:
        row['is'], row['is_std'] = scores.inception_score(samples.logits, is_splits)
        if replicates:
            row['is_se'] = bootstrap.inception_score_error(
                samples.logits, is_splits, replicates, strata=strata
            )
    if {'precision', 'recall'} & set(metrics):
        both = precision_recall.precision_recall(samples.pooled, reference.features)
        row |= {
            name: value
            for name, value in zip(('precision', 'recall'), both, strict=True)
            if name in metrics
        }
    if 'kid' in metrics:
        row['kid'], row['kid_std'] = kernel_distance(samples.pooled, reference.features)
    if 'fid_infinity' in metrics:
        row[f'{key}_infinity'] = scores.frechet_infinity(samples.pooled, reference.pooled)
    return row


def over_seeds(rows: Sequence[Row]) -> Row:
    """Several sets' rows as one: the mean under each key, `KEY_min` and `KEY_seed_std` beside it.

    The mean stands for the method; papers from EDM on report the minimum of three.
    """
    if len(rows) == 1:
        return dict(rows[0])
    summary: Row = {}
    for key in rows[0]:
        values = [row[key] for row in rows]
        summary[key] = float(np.mean(values))
        if key.endswith('_se'):  # of the mean over independent sets
            summary[key] = float(np.linalg.norm(values) / len(values))
        elif not key.endswith('_std'):
            summary[f'{key}_min'] = float(np.min(values))
            summary[f'{key}_seed_std'] = float(np.std(values, ddof=1))
    return summary


def notes(count: int, distance: str, reference: Reference) -> list[str]:
    """What a reader of the numbers must know of the number of samples and of the reference."""
    told = []
    if count < _FEW:
        told.append(
            f'{distance} is biased upward by about 1 / N: from {count:,} samples it compares only'
            f' with {distance} from {count:,} samples, not with published values (50,000)'
        )
    if 'file' in reference.record and 'features' not in reference.record:
        told.append(
            'the reference does not say which network and resize made it; those of pytorch-fid'
            " come from another resize than TensorFlow's, those of ADM and EDM do not"
        )
    return told


def _frechet(key: str, features: np.ndarray, real, replicates: int, strata) -> Row:
    row = {key: scores.frechet_distance(Moments.of_many(features).gaussian(), real)}
    if replicates:
        row[f'{key}_se'] = bootstrap.frechet_error(features, real, replicates, strata=strata)
    return row


def _check_dimensions(samples: Features, reference: Reference) -> None:
    pairs = [('pooled', samples.pooled, reference.pooled)]
    if samples.spatial is not None and reference.spatial is not None:
        pairs.append(('spatial', samples.spatial, reference.spatial))
    for name, features, real in pairs:
        if features.shape[1] != real.mu.size:
            raise UserError(
                f'the samples have {features.shape[1]} {name} features, the reference'
                f' {real.mu.size}; both must come from the same layer of the same network'
            )
