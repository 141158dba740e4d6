"""Which attention layers a perturbation finds by name, and averages of queries."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_blocks import averages64
from support import make_tiny_config, user_error

from cfg_jax import inference
from cfg_jax.conditioning.label import Label
from cfg_jax.guidance import make_rule
from cfg_jax.models.dit import DiT
from cfg_jax.models.perturbation import Perturbation, blur_positions
from cfg_jax.training.step import create_state

DEPTH = 14


@pytest.mark.parametrize(
    ('layers', 'found'),
    [
        ('middle', ['middle_attention']),
        ('up_1', ['up_1_0_attention', 'up_1_1_attention']),
        ('up_1_1/middle', ['middle_attention', 'up_1_1_attention']),
        ('block_1', ['block_1']),
        ('block_1/block_12', ['block_1', 'block_12']),
        ('', ['middle_attention', 'up_1_0_attention', 'up_1_1_attention', 'up_11_0_attention']),
        ('midle', []),
    ],
)
def test_parts_of_names_are_whole_words(layers, found):
    names = ['middle_attention', 'up_1_0_attention', 'up_1_1_attention', 'up_11_0_attention']
    if layers.startswith('block'):
        names = [f'block_{number}' for number in range(DEPTH)]
    perturbation = Perturbation('skip', layers)
    assert [name for name in names if perturbation.applies(name)] == found


@pytest.mark.parametrize('deviation', [1.5, 0.0, np.inf])
def test_queries_are_blurred_by_gaussians(deviation):
    q = np.random.default_rng(0).normal(size=(2, 15, 2, 4)).astype(np.float32)
    if deviation == 0:
        averages = np.eye(15)
    elif np.isinf(deviation):
        averages = np.full((15, 15), 1 / 15)
    else:
        averages = averages64(3, 5, deviation)
    expected = np.einsum('ij,bjnc->binc', averages, q.astype(np.float64))
    found = jax.jit(blur_positions, static_argnums=(1, 2, 3))(q, 3, 5, deviation)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_the_middle_of_a_dit_is_the_block_at_half_the_depth():
    dit = DiT(Label(3), 4, 16, DEPTH, 2, 2)
    z = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 4)), jnp.float32)
    inputs = z, jnp.full(2, 500.0), jnp.asarray([0, 1])
    params = jax.tree.map(
        lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape) / 4,
        jax.eval_shape(dit.init, jax.random.key(0), *inputs),
    )

    def out(layers):
        run = jax.jit(functools.partial(dit.apply, perturbation=Perturbation('skip', layers)))
        return np.asarray(run(params, *inputs))

    np.testing.assert_array_equal(out('middle'), out('block_7'))
    for other in ('block_1', 'none of them'):
        assert np.abs(out('middle') - out(other)).max() > 1e-3


def test_a_name_that_no_layer_has_is_refused():
    """Both evaluations would be the same: no guidance at twice the cost, at every w."""
    config = make_tiny_config(sampler__num_steps=2)
    params = {'main': create_state(config).ema_params}
    names = ['midle', 'middle_attention']
    for rule in ('perturbed_attention', 'smoothed_energy', 'skip_layer'):
        model = inference.Model(config, params, rule=make_rule(f'{rule}:layers=midle'))
        message = user_error(model.sample, [3], 1.0)
        assert all(name in message for name in names)
        assert model.sample([3]).shape[0] == 1  # w = 0 evaluates no such layer
