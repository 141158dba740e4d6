"""scikit-learn's 1,797 real handwritten digits (8x8) as a TFDS data set, prepared offline."""

import io
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


class Digits(tfds.core.GeneratorBasedBuilder):
    """Optical recognition of handwritten digits (Alpaydin & Kaynak 1998), UCI's test part.

    One split, `train`, of 1,797 grey 8x8 images. The ink levels 0..16 become round(255 ink / 16).
    """

    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES: ClassVar = {'1.0.0': 'The 1,797 digits that scikit-learn ships.'}

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                'image': tfds.features.Image(shape=(8, 8, 1)),
                'label': tfds.features.ClassLabel(num_classes=10),
            }
        )
        return tfds.core.DatasetInfo(builder=self, description=self.__doc__, features=features)

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        return {'train': self._generate_examples()}

    def _generate_examples(self):
        from sklearn.datasets import load_digits  # slow to import, and needed once

        digits: Any = load_digits()
        for i, (ink, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            png = io.BytesIO()  # encoded here, because TFDS needs TensorFlow to encode an array
            Image.fromarray(np.rint(ink * 255.0 / 16.0).astype(np.uint8)).save(png, 'PNG')
            yield i, {'image': png.getvalue(), 'label': int(label)}
