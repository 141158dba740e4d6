"""Reference statistics as others publish them: read, or refused with the file's name."""

import numpy as np
import pytest
from linear_features import Linear, pixels
from support import user_error

from cfg_jax.evaluation import reference as library


def published(dim=5, seed=0, suffix=''):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(dim, dim))
    return {f'mu{suffix}': rng.normal(size=dim), f'sigma{suffix}': root @ root.T}


def test_pytorch_fid_statistics(tmp_path):
    arrays = published()
    np.savez(tmp_path / 'fid.npz', **arrays)
    for path in (tmp_path / 'fid.npz', str(tmp_path / 'fid.npz')):
        reference = library.load(path, Linear())  # which says nothing of its weights
        np.testing.assert_array_equal(reference.pooled.mu, arrays['mu'])
        np.testing.assert_array_equal(reference.pooled.sigma, arrays['sigma'])
        assert reference.spatial is None
        assert reference.features is None
        assert reference.record['file'] == 'fid.npz'
        assert len(reference.record['sha256']) == 64


def test_adm_reference_batches(tmp_path):
    arrays = published() | published(7, 1, '_s') | {'arr_0': pixels()}
    np.savez_compressed(tmp_path / 'adm.npz', **arrays)
    reference = library.load(tmp_path / 'adm.npz')
    np.testing.assert_array_equal(reference.pooled.mu, arrays['mu'])
    np.testing.assert_array_equal(reference.pooled.sigma, arrays['sigma'])
    np.testing.assert_array_equal(reference.spatial.mu, arrays['mu_s'])
    np.testing.assert_array_equal(reference.spatial.sigma, arrays['sigma_s'])
    assert reference.features is None


@pytest.mark.parametrize('dim', [1, 5])
@pytest.mark.parametrize('shape', [(-1,), (1, -1)])
def test_statistics_in_float32(tmp_path, shape, dim):
    arrays = {name: array.astype(np.float32) for name, array in published(dim).items()}
    np.savez(tmp_path / 'fid.npz', mu=arrays['mu'].reshape(shape), sigma=arrays['sigma'])
    pooled = library.load(tmp_path / 'fid.npz').pooled
    assert pooled.mu.shape == (dim,)
    assert pooled.mu.dtype == pooled.sigma.dtype == np.float64
    np.testing.assert_array_equal(pooled.mu, arrays['mu'])
    np.testing.assert_array_equal(pooled.sigma, arrays['sigma'])


def test_has_statistics(tmp_path):
    np.savez(tmp_path / 'with.npz', arr_0=pixels(), **published())
    np.savez(tmp_path / 'without.npz', arr_0=pixels())
    assert library.has_statistics(tmp_path / 'with.npz')
    assert not library.has_statistics(tmp_path / 'without.npz')


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'mu': None}, "no 'mu' and 'sigma'"),
        ({'sigma': None}, "no 'mu' and 'sigma'"),
        ({'sigma_s': None}, "no 'mu_s' and 'sigma_s'"),
        ({'mu': None, 'sigma': None, 'arr_0': pixels()}, "no 'mu' and 'sigma'"),
        ({'mu': np.zeros(4)}, '(5, 5)'),
        ({'sigma': np.eye(6)}, '(6, 6)'),
        ({'sigma': np.ones(5)}, '(5,)'),
        ({'sigma': np.ones((5, 4))}, '(5, 4)'),
        ({'sigma': np.ones((1, 25))}, '(1, 25)'),
        ({'sigma_s': np.eye(6)}, 'sigma_s'),
        ({'mu': np.array([{}] * 5)}, 'damaged'),
    ],
)
def test_files_without_sound_statistics(tmp_path, changes, words):
    arrays = published() | published(7, 1, '_s') | changes
    path = tmp_path / 'statistics.npz'
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    message = user_error(library.load, path)
    assert str(path) in message
    assert words in message


def test_missing_and_damaged_files(tmp_path):
    path = tmp_path / 'statistics.npz'
    assert str(path) in user_error(library.load, path)
    np.savez(path, **published(50))
    sound = path.read_bytes()
    wrong = sound[:5000] + bytes([sound[5000] ^ 0x55]) + sound[5001:]
    for bad in (b'', b'no archive', sound[:1000], sound[:-1], wrong):
        path.write_bytes(bad)
        assert str(path) in user_error(library.load, path)


def test_damaged_compressed_files(tmp_path):
    path = tmp_path / 'statistics.npz'
    np.savez_compressed(path, **published(50))
    sound = path.read_bytes()
    for place in range(300, 10_000, 500):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x55]) + sound[place + 1 :])
        assert str(path) in user_error(library.load, path)


def test_files_of_another_kind(tmp_path):
    np.save(tmp_path / 'array.npy', np.zeros(5))
    (tmp_path / 'folder').mkdir()
    for name in ('array.npy', 'folder'):
        assert str(tmp_path / name) in user_error(library.load, tmp_path / name)
