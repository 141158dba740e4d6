"""Samples for pictures: in batches of the sweep's size, and the same whatever that is."""

import numpy as np
import pytest
from support import make_tiny_config

from cfg_jax.data import images
from cfg_jax.evaluation import drawing
from cfg_jax.inference import Model
from cfg_jax.training.step import create_state


@pytest.mark.parametrize(('size', 'batches'), [(4, [4, 4, 4]), (100, [10])])
def test_batches_have_the_size_of_the_sweeps(toy_networks, monkeypatch, size, batches):
    """At most: a picture of many w must not need more memory than the sweep."""
    config = make_tiny_config(sweep__batch_size=size, sweep__rounding='truncate')
    model = Model(config, {'main': create_state(config).ema_params})
    numbers, w = np.arange(10) % 3, np.linspace(0.0, 4.0, 10)
    labels = np.arange(10, dtype=np.int32)
    expected = model.generate(config.sweep.seed, numbers, labels, w).x
    generate, made = model.generate, []

    def counted(seed, indices, condition, weights):
        made.append(len(indices))
        return generate(seed, indices, condition, weights)

    monkeypatch.setattr(model, 'generate', counted)
    found = drawing.draw(model, numbers, labels, w)
    assert made == batches
    np.testing.assert_array_equal(found, images.to_uint8(expected, 'truncate'))
