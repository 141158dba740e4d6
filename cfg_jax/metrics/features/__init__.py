"""Feature extractors: what one is, and the registry of all of them.

To add one: a file with a function `load(config, workdir)`, an entry in EXTRACTORS, a test file.
Importing this module loads neither NumPy nor JAX.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from cfg_jax.registry import Entry, Registry

if TYPE_CHECKING:
    import jax
    import numpy as np


class Features(NamedTuple):
    """What the metrics need of a batch of images; None where the extractor does not give it."""

    pooled: 'jax.Array | np.ndarray'  # float32 [B, D], for FID, KID, precision and recall
    logits: 'jax.Array | np.ndarray | None' = None  # float32 [B, K], for IS and class agreement
    spatial: 'jax.Array | np.ndarray | None' = None  # float32 [B, S], for sFID


class FeatureExtractor(Protocol):
    """A fixed network that turns images into features, on the device.

    Attributes:
      name: as in a config's `sweep.features`.
      distance: what the Frechet distance of its pooled features is called: 'FID' where that is the
        convention, another name where it would mislead.
      params: its parameters, passed to `apply` so that they are not constants of the compilation.
      logits_are_labels: whether logit k means class k of the data set, so that class agreement
        is defined; logits of classes that the data set lacks may follow.
      chunk: images that one device works on at a time, which bounds its memory.
    """

    name: str
    distance: str
    params: Any
    logits_are_labels: bool
    chunk: int

    def apply(self, params: Any, images: 'jax.Array') -> Features:
        """Features of uint8 images [B, H, W, C]; traceable."""
        ...

    def provenance(self) -> dict[str, Any]:
        """What identifies it in a result: name, SHA-256 of its weights, what it was trained on."""
        ...


@dataclass(frozen=True)
class Extractor(Entry):
    """One extractor: `target` is 'module:attribute' of a function from (config, workdir) to it.

    Attributes:
      distance: see `FeatureExtractor`.
      format: of that distance in tables.
      from_file: whether its weights are a file of the user's, so that it serves without a config.
    """

    distance: str
    format: str
    from_file: bool = False


class ExtractorRegistry(Registry[Extractor]):
    """The extractors by name, as a config's `sweep.features` selects them."""

    def __init__(self, entries: Mapping[str, Extractor]):
        super().__init__('feature extractor', entries)

    def from_files(self) -> list[str]:
        """Names of those whose weights are a file of the user's."""
        return [name for name in self if self[name].from_file]


EXTRACTORS = ExtractorRegistry(
    {
        'classifier': Extractor(
            'cfg_jax.metrics.features.classifier:load',
            "a small classifier, trained on the data set's own images; up to 32 pixels",
            distance='FID',
            format='.2f',
        ),
        'inception': Extractor(
            'cfg_jax.metrics.features.inception:load',
            'the FID Inception, 2,048 features: the published FID',
            distance='FID',
            format='.2f',
            from_file=True,
        ),
        'inception768': Extractor(
            'cfg_jax.metrics.features.inception:load',
            'its 768 features of mixed_7, for weights that end there: FD-768',
            distance='FD-768',
            format='.4f',
            from_file=True,
        ),
    }
)
