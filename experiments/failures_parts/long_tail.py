"""The digits without one class and with little of another, as a folder of images."""

import io

import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from cfg_jax import files
from cfg_jax.data import pipeline, sources
from cfg_jax.data.images import to_uint8

RARE, UNSEEN = 8, 9
SHARE = 0.01  # of the long-tailed set that is of the rare digit
SPLIT = 'longtail'


class Digits:
    """All real digits.

    Attributes:
      images: uint8 [N, H, W, C].
      labels: int [N].
    """

    def __init__(self, config: ConfigDict):
        batches = list(pipeline.one_epoch(config.data, config.data.split, 512))
        x = np.concatenate([batch['image'] for batch in batches])
        self.images = np.asarray(to_uint8(x))
        self.labels = np.concatenate([batch['condition'] for batch in batches])
        self.names = sources.class_names(config.data)

    def of(self, label: int) -> np.ndarray:
        """Numbers of the images of a digit."""
        return np.flatnonzero(self.labels == label)


def write(digits: Digits, directory: epath.Path) -> np.ndarray:
    """Writes the long-tailed set, and the whole one, which names the classes, below `directory`.

    Returns the numbers of the rare digit's images that are in it.
    """
    frequent = [i for i in range(len(digits.labels)) if digits.labels[i] not in (RARE, UNSEEN)]
    count = round(SHARE / (1.0 - SHARE) * len(frequent))
    rare = digits.of(RARE)[:count]
    chosen = {'train': range(len(digits.labels)), SPLIT: [*frequent, *rare]}
    for split, numbers in chosen.items():
        for number in numbers:
            label = str(digits.labels[number])
            path = directory / split / label / f'{number:04d}.png'
            if not path.exists():
                buffer = io.BytesIO()
                Image.fromarray(digits.images[number, ..., 0]).save(buffer, 'PNG')
                files.write_bytes(path, buffer.getvalue())
    return rare


def config(config: ConfigDict, directory: epath.Path) -> ConfigDict:
    """The config of a training on the long-tailed set in `directory`."""
    copy = config.copy_and_resolve_references()
    copy.data.name, copy.data.split = f'folder:{directory.resolve()}', SPLIT
    copy.data.data_dir = ''
    return copy
