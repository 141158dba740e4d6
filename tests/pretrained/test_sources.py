"""The order of q, k and v in published attention layers, entry by entry."""

import numpy as np
import pytest

from cfg_jax.pretrained.sources import Sources

DEPTH = 2


@pytest.mark.parametrize('heads', [1, 2, 3, 4])
@pytest.mark.parametrize(('qkv_axis', 'pattern'), [(1, 'hpd'), (2, 'hdp')])
def test_outputs_of_qkv(heads, qkv_axis, pattern):
    """Bias entry (part, head, depth) here is the one at the place of that name in the file."""
    sizes = {'h': heads, 'p': 3, 'd': DEPTH}
    theirs = np.arange(3 * heads * DEPTH)
    named = theirs.reshape([sizes[letter] for letter in pattern])
    expected = np.einsum(f'{pattern}->phd', named).ravel()
    layers = Sources()
    layers.pointwise('qkv', 'theirs', theirs.size, 5, 1, heads, qkv_axis)
    bias, kernel = (layers.sources[f'params/qkv/{name}'] for name in ('bias', 'kernel'))
    np.testing.assert_array_equal(bias.convert(theirs), expected)
    inputs = np.arange(5)
    given = (10 * theirs[:, None] + inputs)[:, :, None]
    assert given.shape == kernel.shape
    np.testing.assert_array_equal(kernel.convert(given), (10 * expected[:, None] + inputs).T)
