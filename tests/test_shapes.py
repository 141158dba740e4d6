"""That the tests check shapes and dtypes at every call, and what they check."""

import jax
import jaxtyping
import numpy as np
import pytest
from shapes import checked, unchecked

from cfg_jax import diffusion, losses
from cfg_jax.guidance import guide
from cfg_jax.keys import image_keys, stream

Z = np.zeros((2, 3, 3, 1), np.float32)


@pytest.mark.parametrize(
    ('call', 'words'),
    [
        (lambda: stream(image_keys(3, np.arange(4))[0], 1), 'keys'),
        (lambda: image_keys(0.5, np.arange(4)), 'seed'),
        (lambda: diffusion.q_sample(Z, 0.0, Z[:1]), 'eps'),
        (lambda: diffusion.q_sample(Z, np.zeros(3, np.float32), Z), 'logsnr'),
        (lambda: diffusion.q_sample(Z.astype(int), 0.0, Z), 'x'),
        (lambda: guide(Z, Z, np.ones(3)), 'w'),
        (lambda: losses.weight_x(jax.numpy.zeros((2, 1))), 'logsnr'),
    ],
)
def test_a_wrong_shape_or_dtype_is_an_error(call, words):
    with pytest.raises(jaxtyping.TypeCheckError, match=f"parameter '{words}'"):
        call()


def test_results_are_checked_too(monkeypatch):
    monkeypatch.setattr(diffusion, 'sigma', lambda logsnr: np.ones((2, 3, 3, 2), np.float32))
    with pytest.raises(jaxtyping.TypeCheckError, match='return value'):
        diffusion.q_sample(Z, 0.0, Z)


def test_nothing_is_checked_where_a_test_says_so():
    with unchecked():
        assert losses.weight_x(jax.numpy.zeros((2, 1))).shape == (2, 1)
    with pytest.raises(jaxtyping.TypeCheckError):
        losses.weight_x(jax.numpy.zeros((2, 1)))


def test_functions_without_shapes_are_left_alone():
    def plain(x: int) -> str:
        return x

    assert checked(plain) is plain
