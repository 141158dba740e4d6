"""Class agreement by hand."""

import numpy as np

from cfg_jax.metrics import Inputs
from cfg_jax.metrics.class_agreement import class_agreement, share_of_label
from cfg_jax.metrics.features import Features


def test_class_agreement():
    logits = np.array([[0.0, 1.0, 0.5], [2.0, 1.0, 0.0], [0.0, 0.0, 9.0], [-3.0, -1.0, -2.0]])
    assert share_of_label(logits, np.array([1, 0, 2, 1])) == 1.0
    assert share_of_label(logits, np.array([1, 0, 2, 0])) == 0.75
    assert share_of_label(logits, np.array([0, 1, 1, 2])) == 0.0
    assert isinstance(share_of_label(logits, np.array([1, 0, 2, 0])), float)


def test_only_the_classes_of_the_data_set_count():
    """Logits of other classes may follow those of the data set's."""
    logits = np.array([[0.0, 1.0, 9.0], [2.0, 1.0, 9.0]])
    samples, labels = Features(logits, logits), np.array([1, 0])
    assert class_agreement(Inputs(samples, None, labels, num_classes=2)).value == 1.0
    assert class_agreement(Inputs(samples, None, labels, num_classes=3)).value == 0.0
