"""Samples of frequent, rare and unseen digits, against all real digits of their class."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cfg_jax.data.images import to_uint8
from cfg_jax.errors import UserError
from cfg_jax.evaluation import reference as reference_lib
from cfg_jax.inference import Model
from cfg_jax.metrics.class_agreement import share_of_label
from cfg_jax.metrics.features import FeatureExtractor, Features, extraction
from cfg_jax.metrics.precision_recall import share_in_manifold
from failures_parts.long_tail import RARE, UNSEEN, Digits

SEED = 0
SHOWN = (3, RARE, UNSEEN)  # digits of the picture


class Group(NamedTuple):
    """Digits of one kind at one w.

    Attributes:
      training: of the model.
      kind: 'frequent', 'rare' or 'unseen', in the long-tailed training.
      w: guidance weight.
      agreement: share of samples that a classifier finds to be of their class.
      precision, recall: means over the kind's digits.
      copies: see the experiment; only of the rare digit.
      pictures: the first images of the digits in SHOWN, uint8 [n, H, W, C].
    """

    training: str
    kind: str
    w: float
    count: int
    agreement: float
    precision: float
    recall: float
    copies: float | None
    pictures: np.ndarray


def measure(
    training: str,
    model: Model,
    digits: Digits,
    rare: np.ndarray,
    extractor: FeatureExtractor,
    weights: Sequence[float],
    count: int,
) -> list[Group]:
    """Every kind at every weight, of a trained model; `rare` are the rare digit's images."""
    real = extract(extractor, digits.images)
    kinds = {
        'frequent': [c for c in range(len(digits.names)) if c not in (RARE, UNSEEN)],
        'rare': [RARE],
        'unseen': [UNSEEN],
    }
    found = []
    for w in weights:
        for kind, classes in kinds.items():
            labels = np.repeat(classes, count)
            condition = model.conditioning.from_user(labels.tolist())
            x = np.asarray(model.generate(SEED, np.arange(len(labels)), condition, w).x)
            check_finite(x, w)
            images = np.asarray(to_uint8(x))
            samples = extract(extractor, images)
            ratios = [_ratios(samples.pooled[labels == c], real, digits, c) for c in classes]
            precision, recall = np.mean(ratios, axis=0)
            shown = [images[labels == c][:4] for c in classes if c in SHOWN]
            found.append(
                Group(
                    training,
                    kind,
                    w,
                    len(labels),
                    share_of_label(samples.logits, labels),
                    float(precision),
                    float(recall),
                    copies(images, digits, rare) if kind == 'rare' else None,
                    np.concatenate(shown),
                )
            )
    return found


def check_finite(x: np.ndarray, w: float) -> None:
    """Raises UserError where images [B, H, W, C] have no levels of grey to measure."""
    lost = len(x) - int(np.isfinite(x).all(axis=(1, 2, 3)).sum())
    if lost:
        raise UserError(
            f'{lost} of {len(x)} images at w = {w:g} are not finite: leave it out of --w (models'
            ' are kept)'
        )


def record(config: ConfigDict, digits: Digits, extractor: FeatureExtractor) -> dict[str, Any]:
    """What all groups share, for provenance: the real digits, the features and the seed."""
    what = {'dataset': config.data.name, 'split': config.data.split}
    real = reference_lib.of_features(extract(extractor, digits.images), what)
    return {'reference': real.record, 'features': extractor.provenance(), 'seed': SEED}


def extract(extractor: FeatureExtractor, images: np.ndarray) -> Features:
    """Features of uint8 images."""
    parts = (images[i : i + 256] for i in range(0, len(images), 256))
    return extraction.concatenate(extraction.extract_all(extractor, parts, 256))


def _ratios(pooled: np.ndarray, real: Features, digits: Digits, label: int) -> tuple[float, float]:
    own = real.pooled[digits.of(label)]
    return share_in_manifold(pooled, own), share_in_manifold(own, pooled)


def copies(images: np.ndarray, digits: Digits, trained: np.ndarray) -> float:
    """Share of images nearer, in pixels, to one of the trained than to one of as many held out."""
    held_out = np.setdiff1d(digits.of(RARE), trained)[: len(trained)]

    def nearest(numbers: np.ndarray) -> np.ndarray:
        real = digits.images[numbers].reshape(len(numbers), -1).astype(float)
        flat = images.reshape(len(images), -1).astype(float)
        return np.square(flat[:, None] - real).sum(axis=2).min(axis=1)

    return float(np.mean(nearest(trained) < nearest(held_out)))
