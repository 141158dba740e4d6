"""The norm of all parameters, and the clip by it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.training.norms import clip, global_norm

RNG = np.random.default_rng(0)
SHAPES = {'kernel': (3, 3, 64, 32), 'odd': (97, 101), 'bias': (64,), 'one': (), 'few': (3, 5)}
TREE = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
NORM = np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in TREE.values()))


@pytest.mark.parametrize('platform', ['gpu', 'cpu', 'tpu'])
def test_the_norm_is_that_of_all_numbers(platform):
    tree = jax.tree.map(jnp.asarray, TREE)
    assert float(global_norm(tree, platform)) == pytest.approx(NORM, rel=1e-6)
    tree['few'] = tree['few'].at[1, 2].set(jnp.inf)
    assert not jnp.isfinite(global_norm(tree, platform))


@pytest.mark.parametrize(('platform', 'scalars'), [('gpu', 1), ('cpu', len(SHAPES))])
def test_gpus_finish_one_sum(platform, scalars):
    """Sums to a single number: of all arrays together, or of each."""
    text = jax.jit(lambda tree: global_norm(tree, platform)).lower(TREE).as_text()
    finished = [line for line in text.splitlines() if 'reduce' in line and '-> tensor<f32>' in line]
    assert len(finished) == scalars
    assert ('optimization_barrier' in text) == (platform == 'gpu')


@pytest.mark.parametrize('largest', [0.5, 2.0])
def test_clip(largest):
    """Times min(1, largest / norm): numbers of norm 1.25, above and below."""
    tree = {'a': jnp.asarray([0.75]), 'b': jnp.asarray([[-1.0]])}
    found = clip(tree, jnp.asarray(1.25), largest)
    factor = min(1.0, largest / 1.25)
    np.testing.assert_allclose(found['a'], [0.75 * factor], rtol=1e-6)
    np.testing.assert_allclose(found['b'], [[-factor]], rtol=1e-6)
