"""Learning rates; and Muon's updates against the singular value decomposition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import checkpoint_hash, make_tiny_config, toy_instead_of_networks

from cfg_jax.report import card
from cfg_jax.training import loop, optimizer as optimizer_lib


def test_annealing():
    schedule = optimizer_lib.learning_rate(
        make_tiny_config(train__warmup_steps=4, train__anneal_steps=10, train__learning_rate=2.0)
    )
    found = [float(schedule(n)) for n in range(12)]
    expected = [2.0 * min(1, (n + 1) / 4) * max(0, 1 - n / 10) for n in range(12)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_no_warm_up():
    schedule = optimizer_lib.learning_rate(make_tiny_config(train__warmup_steps=0))
    assert float(schedule(jnp.int32(0))) == pytest.approx(2e-3)


def test_the_smallest_step_of_adam():
    """lr g / (|g| + eps) of the first gradient: a third of the rate where g is eps / 2."""
    config = make_tiny_config(
        train__adam_eps=2e-8, train__learning_rate=0.01, train__warmup_steps=0
    )
    transformation = optimizer_lib.make_optimizer(config)
    gradient = jnp.float32(1e-8)
    found, _ = transformation.update(gradient, transformation.init(gradient), gradient)
    assert float(found) == pytest.approx(-0.01 / 3, rel=1e-4)


@functools.cache
def updates(optimizer, **changes):
    """(parameters, gradients, updates) of the first step with a learning rate of 0.01."""
    settings = {'train__learning_rate': 0.01, 'train__warmup_steps': 0} | changes
    transformation = optimizer_lib.make_optimizer(
        make_tiny_config(train__optimizer=optimizer, **settings)
    )
    params, grads = tree_of(0), tree_of(1)

    @jax.jit
    def first(grads, params):
        return transformation.update(grads, transformation.init(params), params)[0]

    return params, grads, first(grads, params)


def tree_of(seed):
    """Parameters of each kind that networks have."""
    rng = np.random.default_rng(seed)

    def of(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        'conv': {'kernel': of(3, 3, 8, 16), 'bias': of(16)},
        'dense': {'kernel': of(8, 64), 'bias': of(64)},
        'norm': {'scale': of(16)},
        'label': {'embedding': of(11, 32)},
    }


def named(tree):
    return {
        jax.tree_util.keystr(path): np.asarray(a) for path, a in jax.tree.leaves_with_path(tree)
    }


def test_muon_makes_updates_of_kernels_orthogonal():
    """-lr 0.2 sqrt(max(fan in, fan out)) U V^T, up to Newton-Schulz's 0.7 to 1.2 for 1."""
    _, grads, found = updates('muon')
    kernels = {name: g for name, g in named(grads).items() if name.endswith("['kernel']")}
    assert any(g.ndim == 4 for g in kernels.values()), 'no convolution'
    for name, gradient in kernels.items():
        matrix = gradient.reshape(-1, gradient.shape[-1]).astype(np.float64)
        u, s, vt = np.linalg.svd(matrix, full_matrices=False)
        update = -named(found)[name].reshape(matrix.shape) / (
            0.01 * 0.2 * np.sqrt(max(matrix.shape))
        )
        # In the gradient's own bases it is diagonal.
        inside = u.T @ update @ vt.T
        large = s > 0.05 * s[0]
        values = np.diag(inside)[large]
        assert values.min() > 0.65 and values.max() < 1.25, name
        np.testing.assert_allclose(inside - np.diag(np.diag(inside)), 0.0, atol=2e-3, err_msg=name)
        np.testing.assert_allclose(update, u @ inside @ vt, atol=2e-3, err_msg=name)


def test_muons_momentum():
    """The running mean of gradients: M' = 0.95 M + 0.05 G, from 0."""
    config = make_tiny_config(train__optimizer='muon', train__warmup_steps=0)
    transformation = optimizer_lib.make_optimizer(config)
    first, second = ({'kernel': tree_of(seed)['dense']['kernel']} for seed in (1, 2))

    @jax.jit
    def two(first, second):
        state = transformation.init(first)
        for gradient in (first, second):
            _, state = transformation.update(gradient, state, first)
        return state

    momenta = [
        leaf
        for path, leaf in jax.tree.leaves_with_path(two(first, second))
        if "'kernel'" in jax.tree_util.keystr(path) and '.mu' in jax.tree_util.keystr(path)
    ]
    (momentum,) = momenta
    expected = 0.95 * 0.05 * first['kernel'] + 0.05 * second['kernel']
    np.testing.assert_allclose(momentum, expected, rtol=0, atol=1e-6)


def test_muon_leaves_the_rest_to_adam():
    """With Nesterov's step, as Muon's own."""
    params, grads, found = updates('muon')
    nadam = optax.nadam(0.01)
    expected, _ = nadam.update(grads, nadam.init(params), params)
    others = [name for name in named(grads) if not name.endswith("['kernel']")]
    assert any('embedding' in name for name in others)
    for name in others:
        np.testing.assert_allclose(named(found)[name], named(expected)[name], rtol=1e-5)


def test_muon_decays_all_parameters_times_the_rate():
    (params, _, plain), (_, _, decayed) = updates('muon'), updates('muon', train__weight_decay=0.5)
    expected = jax.tree.map(lambda u, p: u - 0.01 * 0.5 * p, plain, params)
    for name, value in named(decayed).items():
        np.testing.assert_allclose(value, named(expected)[name], atol=1e-6, err_msg=name)


def test_muon_solves_least_squares():
    """The loss of a linear map falls to zero with the learning rate."""
    config = make_tiny_config(
        train__optimizer='muon',
        train__learning_rate=0.2,
        train__warmup_steps=0,
        train__anneal_steps=300,
    )
    x = jax.random.normal(jax.random.key(0), (256, 12))
    y = x @ jax.random.normal(jax.random.key(1), (12, 5))
    transformation = optimizer_lib.make_optimizer(config)
    params = {'kernel': jnp.zeros((12, 5)), 'bias': jnp.ones(5)}
    state = transformation.init(params)

    def loss(p):
        return jnp.mean(jnp.square(x @ p['kernel'] + p['bias'] - y))

    @jax.jit
    def step(params, state):
        found, state = transformation.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, found), state

    first = float(loss(params))
    for _ in range(300):
        params, state = step(params, state)
    assert float(loss(params)) < 1e-3 * first


def test_a_run_with_muon_resumes_bit_for_bit(tmp_path):
    """Step 6 in one run, and by way of the checkpoint of step 3; its card names the optimizer."""
    config = make_tiny_config(train__optimizer='muon', train__steps=6)
    with toy_instead_of_networks():
        loop.train(config, tmp_path / 'whole')
        loop.train(make_tiny_config(train__optimizer='muon', train__steps=3), tmp_path / 'parts')
        loop.train(config, tmp_path / 'parts')
    assert checkpoint_hash(tmp_path / 'parts', 6) == checkpoint_hash(tmp_path / 'whole', 6)
    assert ', Muon at a learning rate of 0.002' in card._training(config, {'step': 6})
