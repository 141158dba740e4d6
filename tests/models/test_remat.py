"""What a block keeps for the backward pass, and in which order its gradients come."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.config_fields import REMATS
from cfg_jax.models import barriers, remat


class Block(nn.Module):
    """Two products and what lies between them; `double` is no array."""

    @nn.compact
    def __call__(self, h, double):
        for _ in range(2):
            h = nn.Dense(6)(jnp.exp(jnp.sin(jnp.tanh(h))))
        return 2 * h if double else h


class Two(nn.Module):
    remat: str

    @nn.compact
    def __call__(self, h):
        for name in ('first', 'second'):
            h = remat.remat(Block, self.remat, static_argnums=(2,))(name=name)(h, True)
        return h


H = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
PARAMS = Two('none').init(jax.random.key(0), H)


def loss(name):
    return lambda params, h: jnp.sum(Two(name).apply(params, h) ** 2)


def test_every_name_of_the_config_is_known():
    assert ('none', *remat.POLICIES) == REMATS


@pytest.mark.parametrize('name', remat.POLICIES)
def test_gradients_are_those_of_none(name):
    expected = jax.grad(loss('none'), argnums=(0, 1))(PARAMS, H)
    found = jax.jit(jax.grad(loss(name), argnums=(0, 1)))(PARAMS, H)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(a).max())


def kept(name):
    """Arrays of a row per example that the backward pass is given."""
    pull = jax.eval_shape(lambda params, h: jax.vjp(loss(name), params, h)[1], PARAMS, H)
    return sum(leaf.shape == H.shape for leaf in jax.tree.leaves(pull))


def test_what_is_kept():
    """Of blocks their inputs and the result of the last; of convolutions one product more each."""
    assert kept('blocks') == 3
    assert kept('convolutions') == 5
    assert kept('none') > 12


@pytest.mark.parametrize('name', remat.POLICIES)
def test_a_blocks_gradients_come_together(name):
    """Of its parameters (two kernels, two biases) and of h, in one barrier for each block."""
    jaxpr = jax.make_jaxpr(jax.grad(loss(name), argnums=(0, 1)))(PARAMS, H).jaxpr
    barriers = [e for e in jaxpr.eqns if e.primitive.name == 'optimization_barrier']
    assert [len(e.outvars) for e in barriers] == [5, 5, 5, 5]  # forward, then in reverse
    assert {jaxpr.outvars[i] for i in range(4)} <= set(barriers[3].outvars)


def test_gradients_that_come_together():
    """In the reverse pass alone, and on GPUs alone: others have nothing to gain from waiting."""

    def product(x, kernel):
        return jnp.sum(jnp.dot(*barriers.together((x, kernel))) ** 2)

    gradient = jax.jit(jax.grad(product, argnums=(0, 1))).trace(H, H.T)
    texts = {
        platform: gradient.lower(lowering_platforms=(platform,)).as_text()
        for platform in ('cpu', 'cuda', 'tpu')
    }
    count = {name: text.count('stablehlo.optimization_barrier') for name, text in texts.items()}
    assert count == {'cpu': 0, 'cuda': 1, 'tpu': 0}
    (barrier,) = re.findall(r'= stablehlo.optimization_barrier (.*)', texts['cuda'])
    assert barrier.count('tensor<5x6xf32>') == barrier.count('tensor<6x5xf32>') == 1


def test_the_gradients_order_changes_no_derivative():
    """Forward, in reverse and twice."""

    def plain(h):
        return jnp.sum(jnp.sin(h) ** 2)

    def turned(h):
        return plain(barriers.together((h, {}))[0])

    h, direction = jnp.asarray(H), jnp.ones_like(H)
    for of in (jax.grad, lambda f: jax.grad(lambda h: jnp.sum(jax.grad(f)(h) ** 3))):
        np.testing.assert_array_equal(of(turned)(h), of(plain)(h))
    expected = jax.jvp(plain, (h,), (direction,))
    np.testing.assert_array_equal(jax.jvp(turned, (h,), (direction,)), expected)


def test_two_branches_at_once():
    """`jax.vmap`, as guidance evaluates two conditions."""
    pairs = np.stack([H, -H])
    found = jax.vmap(lambda h: Two('blocks').apply(PARAMS, h))(pairs)
    np.testing.assert_allclose(found, Two('none').apply(PARAMS, pairs), rtol=1e-5)
