"""A data set resized once, as lossless images, so that training decodes almost nothing."""

import io
import os
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from PIL import Image

from cfg_jax.data import images, pipeline, sources
from cfg_jax.errors import UserError

_BATCH = 256


class Resized(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images of another set, cropped and area-resized as training does, as PNG.

    Args:
      source: a config's `data` group: the set, its directory, `image_size` and `channels`.
      splits: names of its splits.
      data_dir: where it is written, below resized/NAME_SIZE/1.0.0.
    """

    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES: ClassVar = {'1.0.0': 'Central square, area resize, rounded to 8 bits.'}

    def __init__(self, source: ConfigDict, splits: list[str], data_dir: str):
        self._source, self._splits = source, splits
        name = sources.find_builder(source.name, source.data_dir).name
        super().__init__(
            data_dir=os.path.expanduser(data_dir) or None,
            config=tfds.core.BuilderConfig(
                name=f'{name}_{source.image_size}', version=self.VERSION
            ),
        )

    def _info(self) -> tfds.core.DatasetInfo:
        size, channels = self._source.image_size, self._source.channels
        features = tfds.features.FeaturesDict(
            {
                'image': tfds.features.Image(shape=(size, size, channels)),
                'label': tfds.features.ClassLabel(names=sources.class_names(self._source)),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=features,
            disable_shuffling=True,  # the same batches as training on the original
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in self._splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        for batch in pipeline.one_epoch(self._source, split, _BATCH):
            pixels = np.asarray(images.to_uint8(batch['image']))
            for picture, label in zip(pixels, batch['condition'], strict=True):
                png = io.BytesIO()
                Image.fromarray(picture.squeeze()).save(png, 'PNG')
                yield number, {'image': png.getvalue(), 'label': int(label)}
                number += 1


def prepare(name: str, data_dir: str, size: int, out: str, num_workers: int = 0) -> str:
    """Writes a resized copy of a prepared data set; returns a sentence that says where it lies.

    Args:
      name, data_dir: as in a config's `data`.
      size: side of the images.
      out: a TFDS directory for the copy.
      num_workers: processes that decode.

    Raises:
      UserError: the set is not there, or has no labelled images.
    """
    if size < 1:
        raise UserError(f'--resize is a side in pixels, at least 1; got {size}')
    info = sources.find_builder(name, data_dir).info
    if 'label' not in info.features or 'image' not in info.features:
        raise UserError(f'{name!r} has no images with labels')
    source = ConfigDict(
        {
            'name': name,
            'data_dir': data_dir,
            'image_size': size,
            'channels': info.features['image'].shape[-1] or 3,
            'num_classes': info.features['label'].num_classes,
            'num_workers': num_workers,
        }
    )
    # A split without labels, as ImageNet's test split is, cannot be trained on.
    builder = Resized(source, [split for split in info.splits if split != 'test'], out)
    if not builder.is_prepared():
        sources.prepare(builder)
    return (
        f'{name} at {size} pixels is in {builder.data_path}; train on it with'
        f' --config.data.name={builder.data_path}'
    )
