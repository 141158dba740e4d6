"""What a feature extractor is."""

from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

Array = jax.Array | np.ndarray


class Features(NamedTuple):
    """What the scores need of a batch of images; None where the extractor does not give it."""

    pooled: Array  # float32 [B, D], for the Frechet distance, KID, precision and recall
    logits: Array | None = None  # float32 [B, K], for the Inception Score and class agreement
    spatial: Array | None = None  # float32 [B, S], for sFID


class FeatureExtractor(Protocol):
    """A fixed network that turns images into features, on the device.

    Attributes:
      name: as in a config's `sweep.features`.
      distance: what the Frechet distance of its pooled features is called: 'FID' where that is the
        convention, another name where it would mislead.
      params: its parameters, passed to `apply` so that they are no constants of the compilation.
      logits_are_labels: whether logit k means class k of the data set, so that class agreement
        is defined; logits of classes that the data set lacks may follow.
      chunk: images that one device works on at a time, which bounds its memory.
    """

    name: str
    distance: str
    params: Any
    logits_are_labels: bool
    chunk: int

    def apply(self, params: Any, images: jax.Array) -> Features:
        """Features of uint8 images [B, H, W, C]; traceable."""
        ...

    def provenance(self) -> dict[str, Any]:
        """What identifies it in a result: name, SHA-256 of its weights, what it was trained on."""
        ...
