"""What a feature extractor is."""

from typing import Any, NamedTuple, Protocol

import jax


class Features(NamedTuple):
    """What the scores need of a batch of images."""

    pooled: jax.Array  # float32 [B, D], for the Frechet distance
    logits: jax.Array  # float32 [B, K], for the Inception Score and class agreement


class FeatureExtractor(Protocol):
    """A fixed network that turns images into features, on the device.

    Attributes:
      name: as in a config's `sweep.features`.
      params: its parameters, passed to `apply` so that they are no constants of the compilation.
      logits_are_labels: whether logit k means class k of the data set, so that class agreement
        is defined.
    """

    name: str
    params: Any
    logits_are_labels: bool

    def apply(self, params: Any, images: jax.Array) -> Features:
        """Features of uint8 images [B, H, W, C]; traceable."""
        ...

    def provenance(self) -> dict[str, Any]:
        """What identifies it in a result: name, SHA-256 of its weights, what it was trained on."""
        ...
