"""Dropout of the true network: in training, and not where images are measured."""

import jax
import numpy as np
import pytest
from support import make_tiny_config

from cfg_jax.data import pipeline
from cfg_jax.keys import image_keys
from cfg_jax.training import held_out
from cfg_jax.training.objectives import make_objective
from cfg_jax.training.step import create_state, make_gradient

COUNT = 8


@pytest.fixture(scope='module')
def given():
    """A config with dropout, parameters none of which is zero, and images."""
    config = make_tiny_config(model__dropout=0.5)
    params = create_state(config).params
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [p + 0.1 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    (batch,) = pipeline.one_epoch(config.data, f'train[:{COUNT}]', COUNT)
    return config, structure.unflatten(moved), batch


def test_held_out_losses_are_without_dropout(given):
    config, params, batch = given
    found = held_out.make_split_loss(config, COUNT)(params, f'train[:{COUNT}]', COUNT)
    losses = [
        np.asarray(
            jax.jit(make_objective(config, train=train))(
                params,
                jax.random.key(7),
                batch['image'],
                batch['condition'],
                image_keys(0, np.arange(COUNT)),
            )['loss']
        )
        for train in (False, True)
    ]
    np.testing.assert_allclose(found, losses[0], rtol=1e-4)
    assert np.abs(losses[1] / losses[0] - 1).max() > 0.01


def test_training_drops_other_features_with_another_key(given):
    config, params, batch = given
    gradient = jax.jit(make_gradient(config))
    keys = image_keys(0, np.arange(COUNT))
    found = [
        np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradients)])
        for gradients in (
            gradient(params, jax.random.key(seed), batch['image'], batch['condition'], keys)[0]
            for seed in (1, 1, 2)
        )
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[2] - found[0]).max() > 0.01 * np.abs(found[0]).max()
