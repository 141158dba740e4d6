"""Guidance of some channels only, as the published numbers of DiT and SiT were made."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cfg_jax.diffusion import ImageArray, PerImage
from cfg_jax.guidance import GuidanceLevel, Predictions
from cfg_jax.guidance.modifier import Modifier


@dataclasses.dataclass(frozen=True)
class Channels(Modifier):
    """The inner rule on the first `count` channels, its unguided evaluation on the others.

    DiT's and SiT's code guides 3 of the 4 channels of its latents "for exact reproducibility".

    Attributes:
      count: channels that are guided; published 3.
    """

    count: int = 3

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f'count is at least 1; got {self.count}')

    def combine(
        self, level: GuidanceLevel, w: PerImage, predictions: Predictions, state: Any
    ) -> tuple[ImageArray, Any]:
        """The inner rule's prediction in the first channels, [B, H, W, C]."""
        guided, state = self.inner.combine(level, w, predictions, state)
        return self._only(guided, self._plain(predictions)), state

    def mean_gradient(self, w: PerImage, predictions: Predictions) -> ImageArray | None:
        """That of the inner rule in the first channels, else 0."""
        gradient = self.inner.mean_gradient(w, predictions)
        return None if gradient is None else self._only(gradient, jnp.zeros_like(gradient))

    def renoise(self, w: PerImage, predictions: Predictions) -> ImageArray | None:
        """That of the inner rule in the first channels, else the unguided eps."""
        eps = self.inner.renoise(w, predictions)
        return None if eps is None else self._only(eps, self._plain(predictions))

    def _plain(self, predictions: Predictions) -> jax.Array:
        return predictions[self.evaluations.index(self.unguided)]

    def _only(self, guided: jax.Array, plain: jax.Array) -> jax.Array:
        return jnp.concatenate([guided[..., : self.count], plain[..., self.count :]], axis=-1)
