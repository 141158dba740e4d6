"""Images of 3 x 3 pixels in four classes: their config, labels and weights; z for a network."""

import numpy as np
from support import make_tiny_config

CLASSES = NULL = 4
SHAPE = (3, 3, 1)
INDICES = np.arange(5)
LABELS = np.int32([3, 0, 1, 2, 3])
W = np.float32([0.0, 0.5, 1.0, 2.0, 4.0])


def random_images(batch=3):
    return np.random.default_rng(0).normal(size=(batch, 3, 3, 2)).astype(np.float32)


def tiny(**changes):
    config = make_tiny_config(**changes)
    config.data.image_size, config.data.num_classes = SHAPE[0], CLASSES
    return config
