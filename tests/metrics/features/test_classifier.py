"""The digits' classifier: trained once, the same every time, and again where it is damaged."""

import contextlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import logged

from cfg_jax import files
from cfg_jax.data import pipeline
from cfg_jax.metrics.features import classifier


@contextlib.contextmanager
def nothing_trained():
    with pytest.MonkeyPatch.context() as patch, logged() as lines:
        patch.delattr(classifier, 'train')
        yield
    assert lines == []


@pytest.fixture
def kept(swept_workdir, tmp_path):
    """A copy of the classifier that the tiny sweep trained."""
    return shutil.copytree(swept_workdir / 'classifier', tmp_path / 'classifier')


@pytest.fixture
def loaded(tiny_config, kept):
    with nothing_trained():
        return classifier.load_or_train(tiny_config, kept)


def test_every_training_gives_the_same_weights(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, '_EPOCHS', 5)
    with logged() as lines:
        for name in ('first', 'second'):
            classifier.load_or_train(tiny_config, tmp_path / name)
    first, second = (
        files.sha256_of_arrays(files.read_npz(tmp_path / name / 'weights.npz'))
        for name in ('first', 'second')
    )
    assert first == second
    assert len(lines) == 4
    records = [(tmp_path / name / 'classifier.json').read_bytes() for name in ('first', 'second')]
    assert records[0] == records[1]


def test_provenance(kept, loaded):
    record = loaded.provenance()
    assert record == json.loads((kept / 'classifier.json').read_text())
    assert record['name'] == 'classifier'
    assert 'digits train' in record['trained_on']
    assert '80' in record['trained_on']
    assert record['sha256'] == files.sha256_of_arrays(files.read_npz(kept / 'weights.npz'))
    assert 0.95 <= record['held_out_accuracy'] <= 1.0


def test_held_out_accuracy_is_of_images_it_never_saw(tiny_config, loaded):
    batches = list(pipeline.one_epoch(tiny_config.data, 'train[80%:]', 512))
    x = np.concatenate([batch['image'] for batch in batches])
    labels = np.concatenate([batch['condition'] for batch in batches])
    assert len(labels) == pytest.approx(1797 / 5, abs=1)
    uint8 = np.rint((x + 1.0) * 127.5).astype(np.uint8)
    logits = jax.jit(loaded.apply)(loaded.params, uint8).logits
    accuracy = float(np.mean(np.argmax(logits, axis=-1) == labels))
    assert accuracy == pytest.approx(loaded.provenance()['held_out_accuracy'], abs=1e-6)


def test_what_is_held_out_is_not_learnt_from(tiny_config):
    (whole,) = pipeline.one_epoch(tiny_config.data, 'train', 1797)
    trained, held_out = classifier._load(tiny_config.data)
    assert len(trained['condition']) == round(0.8 * 1797)
    for key, values in whole.items():
        np.testing.assert_array_equal(np.concatenate([trained[key], held_out[key]]), values)


def test_features(loaded):
    x = jnp.asarray(np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1)), jnp.uint8)
    features = loaded.apply(loaded.params, x)
    assert features.pooled.shape == (5, 48)
    assert features.logits.shape == (5, 10)
    assert loaded.logits_are_labels
    alone = loaded.apply(loaded.params, x[2:3])
    np.testing.assert_allclose(alone.pooled[0], features.pooled[2], rtol=1e-4, atol=1e-5)


def test_is_kept_and_used_again(tiny_config, kept):
    before = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    with nothing_trained():
        loaded = classifier.load_or_train(tiny_config, kept)
    arrays = {
        '/'.join(key.key for key in path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(loaded.params)
    }
    assert files.sha256_of_arrays(arrays) == loaded.provenance()['sha256']
    assert {path.name: path.stat().st_mtime_ns for path in kept.iterdir()} == before


def test_half_written_is_trained_again(tiny_config, kept, monkeypatch):
    """Killed between the two files: weights without the record that comes last."""
    (kept / 'classifier.json').unlink()
    params = classifier._unflatten(files.read_npz(kept / 'weights.npz'))
    monkeypatch.setattr(classifier, 'train', lambda config_data: (params, 0.99))
    with logged() as lines:
        again = classifier.load_or_train(tiny_config, kept)
    assert again.provenance()['held_out_accuracy'] == 0.99
    assert lines


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('classifier.json', b''),
        ('classifier.json', b'{"name": "classi'),
        ('classifier.json', b'[1, 2]'),
        ('classifier.json', b'{}'),
        ('classifier.json', b'\xff\xfe\x00'),
        ('weights.npz', b''),
        ('weights.npz', 0.5),
        ('weights.npz', None),
        ('weights.npz', 'other weights'),
    ],
)
def test_damaged_files_are_set_aside_and_it_is_trained_again(
    tiny_config, kept, monkeypatch, name, content
):
    """Each of these was a traceback."""
    path, params = kept / name, classifier._unflatten(files.read_npz(kept / 'weights.npz'))
    before = path.read_bytes()
    if content is None:
        path.unlink()
    elif isinstance(content, str):
        files.write_npz(path, {k: v + 1 for k, v in files.read_npz(path).items()})
    else:
        path.write_bytes(before[: len(before) // 2] if content == 0.5 else content)
    damaged = path.read_bytes() if path.exists() else None
    monkeypatch.setattr(classifier, 'train', lambda config_data: (params, 0.99))
    with logged() as lines:
        again = classifier.load_or_train(tiny_config, kept)
    assert again.provenance()['held_out_accuracy'] == 0.99
    warned = damaged is not None
    assert [line.startswith('warning: ') for line in lines] == [True, False, False][not warned :]
    if warned:
        assert str(path) in lines[0]
        assert 'made again' in lines[0]
        assert (kept / f'{name}.damaged').read_bytes() == damaged
    with nothing_trained():
        classifier.load_or_train(tiny_config, kept)


def test_a_slice_of_a_split_has_its_own_held_out_part(tiny_config, monkeypatch):
    """data.split may be a slice, such as 'train[:200]'."""
    monkeypatch.setattr(classifier, '_EPOCHS', 1)
    tiny_config.data.split = 'train[:200]'
    _, accuracy = classifier.train(tiny_config.data)
    assert accuracy * 40 == pytest.approx(round(accuracy * 40), abs=1e-4)
