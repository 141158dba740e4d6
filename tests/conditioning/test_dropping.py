"""Conditions are dropped example by example, every leaf of one together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.conditioning.dropping import drop
from cfg_jax.conditioning.label import Label

MANY = 10_000
LABEL = np.arange(MANY, dtype=np.int32) % 10


def keys():
    return jax.random.split(jax.random.key(0), MANY)


def test_never_at_zero_and_always_at_one():
    np.testing.assert_array_equal(drop(Label(10), keys(), LABEL, 0.0), LABEL)
    np.testing.assert_array_equal(drop(Label(10), keys(), LABEL, 1.0), np.full(MANY, 10))


def test_each_example_by_its_own_key():
    together = np.asarray(drop(Label(10), keys(), LABEL, 0.5))
    some = np.random.default_rng(0).permutation(MANY)[:100]
    np.testing.assert_array_equal(drop(Label(10), keys()[some], LABEL[some], 0.5), together[some])
    share = np.mean(together == 10)
    assert abs(share - 0.5) < 4 * np.sqrt(0.25 / MANY)


@pytest.mark.parametrize('count', [1, 3, 5])
def test_as_many_conditions_as_keys(count):
    with pytest.raises(ValueError, match='as many conditions'):
        drop(Label(10), keys()[:4], jnp.zeros(count, jnp.int32), 0.5)
