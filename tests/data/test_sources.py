"""The registry of data sources, and a source of one's own: one file and one line."""

import subprocess
import sys

import numpy as np
import pytest
from pictures import png, random_pixels
from support import ROOT, make_tiny_config, user_error

from cfg_jax.data import SOURCES, pipeline, sources
from cfg_jax.registry import Registry

# cfg_jax/data/npz.py: images [N, H, W] and labels [N] of one `.npz`, as MNIST is often kept.
NPZ = '''
import io
from pathlib import Path

import numpy as np
from PIL import Image

from cfg_jax.errors import UserError


class Npz:
    """A `Source` of the arrays 'images' (uint8) and 'labels' of an `.npz`; one split, 'train'."""

    splits = ('train',)
    channels = 1

    def __init__(self, path):
        self.name = Path(path).stem
        with np.load(path) as arrays:
            self.images, self.labels = arrays['images'], arrays['labels']
        self.class_names = [str(label) for label in range(self.labels.max() + 1)]

    def examples(self, split):
        if split != 'train':
            raise UserError(f'{self.name} has one split, train; got {split!r}')
        return self

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, number):
        png = io.BytesIO()
        Image.fromarray(self.images[number]).save(png, 'PNG')
        return {'image': png.getvalue(), 'label': int(self.labels[number])}


def open_set(location, data_dir):
    return Npz(Path(data_dir, location))
'''


@pytest.fixture
def npz(tmp_path, monkeypatch):
    """A set in DATA_DIR/digits.npz, with its source registered."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / 'digits.npz', images=images, labels=np.arange(12) % 3)
    (tmp_path / 'npz_source.py').write_text(NPZ)
    monkeypatch.syspath_prepend(tmp_path)
    entry = {'npz': ('npz_source:open_set', 'npz:PATH, arrays of images and labels')}
    monkeypatch.setattr(sources, 'SOURCES', Registry('data source', dict(SOURCES) | entry))
    return images


@pytest.mark.parametrize('num_workers', [0, 1])
def test_a_source_of_ones_own(npz, tmp_path, num_workers):
    config = make_tiny_config(
        data__name='npz:digits.npz',
        data__data_dir=tmp_path,
        data__num_classes=3,
        data__num_workers=num_workers,
    )
    batches = list(pipeline.one_epoch(config.data, 'train', 5))
    seen = np.concatenate([batch['image'] for batch in batches])[..., 0]
    np.testing.assert_allclose(seen, npz / 127.5 - 1, atol=1e-6)
    assert np.concatenate([b['condition'] for b in batches]).tolist() == [*range(3)] * 4
    stream = pipeline.TrainingBatches(config.data, batch_size=4, seed=0)
    assert next(stream)['image'].shape == (4, 8, 8, 1)
    stream.close()
    assert sources.class_names(config.data) == ['0', '1', '2']


def test_it_is_short():
    assert len([line for line in NPZ.splitlines() if line.strip()]) < 40


def test_misspelt_kinds_get_a_suggestion():
    assert "did you mean 'folder'?" in user_error(sources.open_source, 'foldr:/data/pets')
    assert "did you mean 'tfds'?" in user_error(sources.open_source, 'tfd:digits')


def test_names_of_tfds_may_hold_a_colon(digits_dir):
    """TFDS writes versions as NAME:1.0.0; 'tfds:' in front is allowed."""
    data_dir = str(digits_dir.parents[1])
    for name in ('digits:1.0.0', 'tfds:digits', 'tfds:digits:1.0.0', f'tfds:{digits_dir}'):
        assert len(sources.open_source(name, data_dir).examples('train')) == 1797
    assert 'no TFDS data set' in user_error(sources.open_source, 'nothing:1.0.0')


def test_a_directory_without_its_kind_is_helped(tmp_path):
    (tmp_path / 'cat').mkdir()
    (tmp_path / 'cat' / '1.png').write_bytes(png(random_pixels(1)[0]))
    assert f'folder:{tmp_path}' in user_error(sources.open_source, str(tmp_path))


def test_the_registry_starts_nothing():
    """`--help` lists the sources: that must cost neither JAX, nor TFDS, nor Grain."""
    program = (
        'import sys; from cfg_jax.data import SOURCES; SOURCES.help()\n'
        "print([m for m in ('jax', 'tensorflow_datasets', 'grain') if m in sys.modules])"
    )
    command = [sys.executable, '-c', program]
    assert subprocess.check_output(command, cwd=ROOT, text=True).strip() == '[]'
    assert all(SOURCES.load(name) for name in SOURCES)
