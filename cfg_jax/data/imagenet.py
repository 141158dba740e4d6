"""How many images ImageNet (ILSVRC 2012) has, so that a copy of less is noticed."""

import numpy as np

_CLASSES = 1000
_IMAGES = {'train': (1_281_167, 732, 1300), 'validation': (50_000, 50, 50)}  # all; of a class


def difference(name: str, split: str, counts: np.ndarray) -> str:
    """A sentence that says how a split differs from ImageNet's; '' where it does not.

    Args:
      name: of the TFDS data set; one that is not ImageNet does not differ.
      split: its split; nor does one that ImageNet has no labels for.
      counts: [classes] images of each class.
    """
    if name != 'imagenet2012' or split not in _IMAGES:
        return ''
    expected = (_CLASSES, *_IMAGES[split])
    found = (len(counts), int(counts.sum()), int(counts.min()), int(counts.max()))
    if found == expected:
        return ''
    return f'{split} is not the whole of ImageNet: {_said(*found)}; it has {_said(*expected)}'


def _said(classes: int, images: int, least: int, most: int) -> str:
    return f'{images:,} images, {least:,} to {most:,} of each of {classes} classes'
