"""Features do not depend on batches, chunks, devices or on when they are fetched."""

import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.data import images
from cfg_jax.metrics.features import Features, extraction


class Pixels:
    """Gives each image back, as its pooled features; sees no more than `chunk` at a time."""

    name, distance, params, logits_are_labels = 'pixels', 'FID', 3.0, False

    def __init__(self, chunk=4):
        self.chunk = chunk
        self.seen = []

    def apply(self, params, x):
        self.seen.append(x.shape[0])
        assert x.dtype == jnp.uint8
        pixels = x.reshape(len(x), -1).astype(jnp.float32)
        return Features(params * pixels, logits=-pixels)

    def provenance(self):
        return {'name': self.name, 'sha256': ''}


@pytest.mark.parametrize('count', [1, 3, 4, 5, 8, 11])
def test_every_image_in_its_place(count):
    x = np.random.default_rng(0).integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)
    extractor = Pixels()
    features = extraction.make_extract(extractor)(3.0, x)
    np.testing.assert_array_equal(features.pooled, 3.0 * x.reshape(count, -1))
    np.testing.assert_array_equal(features.logits, -1.0 * x.reshape(count, -1))
    assert features.spatial is None
    assert max(extractor.seen) <= 4


def test_images_in_minus_one_to_one_are_rounded_first():
    x = np.random.default_rng(0).uniform(-1.2, 1.2, (5, 2, 2, 3)).astype(np.float32)
    features = extraction.make_extract(Pixels())(1.0, x)
    expected = np.asarray(images.to_uint8(jnp.asarray(x))).reshape(5, -1)
    np.testing.assert_array_equal(features.pooled, expected)


def test_images_that_are_not_finite_have_no_features():
    """Rounded they would be black, and their features numbers like any other."""
    x = np.random.default_rng(0).uniform(-1.2, 1.2, (7, 2, 2, 3)).astype(np.float32)
    expected = extraction.make_extract(Pixels())(1.0, x)
    x[2, 1, 0, 2], x[5, 0, 1, 1] = np.nan, np.inf
    features = extraction.make_extract(Pixels())(1.0, x)
    bad = np.array([2, 5])
    good = np.setdiff1d(np.arange(7), bad)
    for found, whole in ((features.pooled, expected.pooled), (features.logits, expected.logits)):
        assert np.isnan(np.asarray(found)[bad]).all()
        np.testing.assert_array_equal(np.asarray(found)[good], np.asarray(whole)[good])


def test_batches_of_any_size_in_order():
    x = np.random.default_rng(0).integers(0, 256, (23, 2, 2, 3), dtype=np.uint8)
    for cuts in ([5, 10, 15, 20], [7, 14, 21], [1, 2, 9, 16], []):
        batches = np.split(x, cuts)
        size = max(len(batch) for batch in batches)
        extractor = Pixels(chunk=100)
        features = extraction.concatenate(extraction.extract_all(extractor, batches, size))
        np.testing.assert_array_equal(features.pooled, 3.0 * x.reshape(23, -1))
        assert isinstance(features.pooled, np.ndarray)
        assert extractor.seen == [size]  # traced once: one compilation


def test_next_batch_is_dispatched_before_the_last_is_fetched():
    taken = []

    def batches():
        for number in range(3):
            taken.append(number)
            yield np.full((2, 1, 1, 3), number, np.uint8)

    stream = extraction.extract_all(Pixels(), batches(), 2)
    first = next(stream)
    assert taken == [0, 1]
    assert first.pooled[0, 0] == 0
    assert [part.pooled[0, 0] for part in stream] == [3.0, 6.0]


def test_nothing_in_nothing_out():
    assert list(extraction.extract_all(Pixels(), [], 4)) == []


def test_parameters_are_no_constants():
    """The same compiled function serves other weights."""
    extract = extraction.make_extract(Pixels())
    x = np.ones((4, 1, 1, 3), np.uint8)
    assert extract(2.0, x).pooled[0, 0] == 2.0
    assert extract(5.0, x).pooled[0, 0] == 5.0
    assert extract._cache_size() == 1
