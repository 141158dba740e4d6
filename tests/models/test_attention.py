"""The choice of a kernel, what cuDNN's is given, and what is counted of it."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import config_fields
from cfg_jax.models import attention
from cfg_jax.perf import operations


def gpu(capability='9.0', platform_version='PJRT C API\ncuda 12090'):
    client = types.SimpleNamespace(platform_version=platform_version)
    return types.SimpleNamespace(platform='gpu', client=client, compute_capability=capability)


@pytest.mark.parametrize(
    ('device', 'expected'),
    [
        (gpu(), 'cudnn'),
        (gpu('8.0'), 'cudnn'),
        (gpu('10.3'), 'cudnn'),
        (gpu('7.5'), 'xla'),
        (gpu(platform_version='PJRT C API\nNVIDIA H200'), 'cudnn'),  # described
        (gpu(platform_version='rocm 60400'), 'xla'),
        (types.SimpleNamespace(platform='tpu', client=gpu().client), 'pallas'),
        (types.SimpleNamespace(platform='cpu', client=gpu().client), 'xla'),
    ],
)
def test_the_kernel_of_a_device(device, expected):
    assert attention.flash_kernel(device) == expected


@pytest.mark.parametrize(
    ('dtype', 'channels', 'expected'),
    [
        (jnp.bfloat16, 64, True),
        (jnp.float16, 128, True),
        (jnp.float32, 64, False),
        (jnp.bfloat16, 256, False),
        (jnp.bfloat16, 20, False),
    ],
)
def test_heads_that_cudnn_knows(dtype, channels, expected):
    assert attention.knows_heads(jnp.zeros((), dtype).dtype, channels) == expected


@pytest.mark.parametrize('positions', [6, 16, 512, 520])  # apart, in slices, in parts, of one
def test_products_and_their_gradients_are_the_formula(positions):
    q, k, v, cotangent = np.random.default_rng(1).normal(size=(4, 2, positions, 2, 4))

    def formula(q, k, v):
        logits = jnp.einsum('bthc,bshc->bhts', q, k) / 2.0
        return jnp.einsum('bhts,bshc->bthc', jax.nn.softmax(logits), v)

    with jax.enable_x64(True):
        expected, backward = jax.vjp(formula, q, k, v)
        expected_gradients = backward(cotangent)
        found, backward = jax.vjp(jax.jit(attention.products), q, k, v)
        np.testing.assert_allclose(found, expected, rtol=1e-10)
        for gradient, wanted in zip(backward(cotangent), expected_gradients, strict=True):
            np.testing.assert_allclose(gradient, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('queries', [3, 512])
def test_products_of_other_keys_in_bfloat16(queries):
    rng = np.random.default_rng(2)
    q, k, v = (rng.normal(size=(1, length, 2, 8)) for length in (queries, 1024, 1024))
    logits = np.einsum('bthc,bshc->bhts', q, k) / np.sqrt(8)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    expected = np.einsum('bhts,bshc->bthc', weights / weights.sum(-1, keepdims=True), v)
    found = attention.products(*(jnp.asarray(a, jnp.bfloat16) for a in (q, k, v)))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, atol=0.02)


def test_products_of_large_logits_are_finite():
    q = k = v = np.full((1, 8, 1, 4), 1e3, np.float32)
    np.testing.assert_allclose(attention.products(q, k, v), v)


def test_xla_computes_the_formula():
    q, k, v = np.random.default_rng(0).normal(size=(3, 2, 5, 3, 4)).astype(np.float32)
    weights = np.exp(np.einsum('bthc,bshc->bhts', q, k) / 2.0)
    weights /= weights.sum(-1, keepdims=True)
    expected = np.einsum('bhts,bshc->bthc', weights, v)
    for kernel in config_fields.ATTENTION_KERNELS:  # all are XLA's on this machine
        np.testing.assert_allclose(attention.attend(q, k, v, kernel), expected, atol=1e-5)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('limit', [1, 10**9])
def test_products_are_jaxs_attention(monkeypatch, dtype, limit):
    """Value and gradient, image by image or all at once; as many keys as queries or fewer."""
    monkeypatch.setattr(attention, '_LARGE', limit)
    rng = np.random.default_rng(0)
    q, *rest = (rng.normal(size=(2, n, 3, 4)).astype(np.float32) for n in (6, 5, 5))
    inputs = [jnp.asarray(a, dtype) for a in (q, *rest)]

    def weighed(function):
        def loss(*inputs):
            return jnp.sum(jnp.asarray(q, dtype) * function(*inputs)).astype(jnp.float32)

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*inputs)

    ours, theirs = weighed(attention.products), weighed(jax.nn.dot_product_attention)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        tolerance = 1e-5 if dtype == jnp.float32 else 0.03
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max()))


class TestFlash:
    """Lowered for CUDA here, with the checks of the machine answered for it."""

    q = jax.ShapeDtypeStruct((2, 16, 3, 8), jnp.bfloat16)

    @pytest.fixture(autouse=True)
    def a_gpu_with_cudnn(self, monkeypatch):
        cudnn = 'jax._src.cudnn.fused_attention_stablehlo'
        monkeypatch.setattr(f'{cudnn}.check_cudnn_version', lambda: 91000)
        monkeypatch.setattr(f'{cudnn}.check_compute_capability', lambda capability: True)
        monkeypatch.setattr(f'{cudnn}.is_cuda_compute_capability_equal', lambda capability: False)
        monkeypatch.setattr(attention, 'flash_kernel', lambda device: 'cudnn')

    def test_both_directions_and_labels_in_pairs_are_lowered_to_it(self):
        def attend(q):
            return attention.attend(q, q, q, 'auto').astype(jnp.float32)

        pairs = jax.ShapeDtypeStruct((2, *self.q.shape), self.q.dtype)
        for function, argument, backward in (
            (attend, self.q, False),
            (jax.grad(lambda q: attend(q).sum()), self.q, True),
            (jax.vmap(attend), pairs, False),
        ):
            text = jax.jit(function).trace(argument).lower(lowering_platforms=('cuda',)).as_text()
            assert '__cudnn$fmhaSoftmax' in text
            assert ('__cudnn$fmhaSoftmaxBackward' in text) == backward

    def test_its_operations_are_counted_as_those_of_xla(self):
        def attend(kernel, q):
            return attention.attend(q, q, q, kernel)

        def loss(kernel, q):
            return attend(kernel, q).astype(jnp.float32).sum()

        forward = 4 * 2 * 16 * 16 * 3 * 8
        for kernel in config_fields.ATTENTION_KERNELS:
            gradient = jax.grad(functools.partial(loss, kernel))
            assert operations.count_flops(functools.partial(attend, kernel), self.q) == forward
            assert operations.count_flops(gradient, self.q) == 3 * forward
