"""The real images of a sweep: each set and size has its own statistics in a work directory."""

import jax.numpy as jnp
import numpy as np
import pytest
from pictures import class_folder
from support import make_tiny_config

from cfg_jax.data import images, pipeline
from cfg_jax.evaluation import dataset_reference, reference as reference_lib
from cfg_jax.metrics.features import Features


class FourPixels:
    """A feature extractor: grey levels of the corners."""

    name = 'four'
    distance = 'FD-4'
    logits_are_labels = False
    chunk = 50
    params = ()

    def apply(self, params, pixels):
        del params
        corners = pixels[:, :: pixels.shape[1] - 1, :: pixels.shape[2] - 1, 0]
        return Features(corners.reshape(len(pixels), 4).astype(jnp.float32), None, None)

    def provenance(self):
        return {'name': self.name, 'sha256': 'ab' * 32}


def data(image_size=8, split='train[:100]'):
    config = make_tiny_config(sweep__batch_size=50)
    config.data.update(image_size=image_size, split=split)
    return config


@pytest.fixture
def computed(monkeypatch):
    """The sets whose statistics were computed."""
    found = []
    compute = dataset_reference.compute

    def noted(group, *args):
        found.append((group.image_size, group.split))
        compute(group, *args)

    monkeypatch.setattr(dataset_reference, 'compute', noted)
    return found


def test_every_set_has_its_own_statistics(tmp_path, computed):
    sets = [data(), data(image_size=12), data(split='train[100:200]')]
    for config in sets * 2:
        (batch,) = pipeline.one_epoch(config.data, config.data.split, 100)
        corners = np.asarray(images.to_uint8(batch['image']))[:, :: config.data.image_size - 1]
        corners = corners[:, :, :: config.data.image_size - 1].reshape(100, 4)
        found = dataset_reference.reference(config, tmp_path, FourPixels())
        np.testing.assert_allclose(found.pooled.mu, corners.mean(axis=0), rtol=1e-6)
    assert computed == [(config.data.image_size, config.data.split) for config in sets]
    assert len(list((tmp_path / 'reference').glob('*.npz'))) == 3


def test_statistics_that_do_not_say_of_what_are_taken(tmp_path, computed):
    """Files of before their record had the size of the images."""
    found = dataset_reference.reference(data(), tmp_path, FourPixels())
    (path,) = (tmp_path / 'reference').glob('*.npz')
    old = {k: v for k, v in found.record.items() if k not in ('image_size', 'sha256', 'file')}
    reference_lib.save(path, found._replace(record=old))
    dataset_reference.reference(data(), tmp_path, FourPixels())
    assert len(computed) == 1


def test_a_set_with_more_images_has_other_statistics(tmp_path, computed):
    """Where the set is not here, those that are kept are taken."""
    root = class_folder(tmp_path / 'pets', {'cat': 4, 'dog': 4})
    config = data(split='train')
    config.data.update(name=f'folder:{root}', num_classes=2, channels=3)

    def count():
        found = dataset_reference.reference(config, tmp_path / 'run', FourPixels())
        return found.record['num_images']

    assert (count(), count()) == (8, 8)
    class_folder(tmp_path / 'more', {'dog': 2})
    for path in (tmp_path / 'more' / 'dog').iterdir():
        path.rename(root / 'dog' / f'new_{path.name}')
    assert (count(), count()) == (10, 10)
    assert len(computed) == 2
    root.rename(tmp_path / 'away')
    assert count() == 8
