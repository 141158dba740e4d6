"""Tiny files of published families, in their naming, written without PyTorch."""

import numpy as np
from numpy_adm import Network, Spec
from test_torch_archive import torch_file

SIDE = 16  # two levels, the deepest of 8 x 8 as in all of ADM's


def inputs(count=2, seed=0, channels=3, side=SIDE):
    """Images [B, H, W, C], steps of 1,000, and labels below 5."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, side, side, channels)).astype(np.float32)
    steps = np.linspace(0, 999, count).round().astype(int)
    return x, steps, rng.integers(5, size=count)


def first(x):
    """Channels first, float64."""
    return np.asarray(x, np.float64).transpose(0, 3, 1, 2)


def last(x):
    return np.asarray(x).transpose(0, 2, 3, 1)


def unet(**changes):
    """A U-Net in NumPy that has its parameters."""
    network = Network(Spec(**changes))
    x, steps, labels = inputs(1)
    network.unet(first(x), steps, labels)
    return network


def classifier(**changes):
    network = Network(Spec(labels=0, out=5, **changes))
    x, steps, _ = inputs(1)
    network.classifier(first(x), steps)
    return network


def write(path, tensors):
    """Writes a state dict as PyTorch would, and returns the path."""
    path.write_bytes(torch_file(dict(tensors)))
    return path
