"""Class agreement: whether samples are of the class that they were asked to be."""

import numpy as np
from jaxtyping import Float, Integer

from cfg_jax.metrics import Inputs, Value, given


def class_agreement(inputs: Inputs) -> Value:
    """The share of samples whose likeliest class, of the data set's, is their label."""
    logits = np.asarray(given(inputs.samples.logits, 'logits'))
    labels = given(inputs.labels, 'labels')
    return Value(share_of_label(logits[:, : inputs.num_classes], labels))


def share_of_label(logits: Float[np.ndarray, 'n k'], labels: Integer[np.ndarray, ' n']) -> float:
    """mean(argmax_k logits == label), in [0, 1]."""
    return float(np.mean(np.argmax(logits, axis=1) == labels))
