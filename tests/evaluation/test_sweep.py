"""What a sweep writes, and the images that it is of."""

import math

import numpy as np
import pytest
from PIL import Image
from support import make_tiny_config
from sweeps_on_disk import results_of, shards_of

from cfg_jax import files, loading
from cfg_jax.data import images, pipeline
from cfg_jax.evaluation import sweep

# Tracing the U-Net anew, and pictures, would be most of every sweep; other files have both.
pytestmark = pytest.mark.usefixtures('toy_networks', 'undrawn')


def test_results_have_the_fields_of_the_design(swept_toy_workdir):
    results = results_of(swept_toy_workdir)
    assert results['dataset'] == 'digits'
    assert results['checkpoint_step'] == 6
    assert results['num_samples'] == 40
    assert results['seed'] == 0
    assert results['sampler'] == {
        'name': 'ancestral',
        'num_steps': 4,
        'v': 0.3,
        'clip': True,
        'grid': 'schedule',
        'options': '',
        'schedule': 'cosine',
        'scaling': 'variance_preserving',
        'shift': 0.0,
        'logsnr_min': -20.0,
        'logsnr_max': 20.0,
    }
    weights = files.read_npz(swept_toy_workdir / 'classifier' / 'weights.npz')
    assert results['features']['name'] == 'classifier'
    assert results['features']['sha256'] == files.sha256_of_arrays(weights)
    assert results['reference']['dataset'] == 'digits'
    assert results['reference']['num_images'] == 1797
    assert len(results['reference']['sha256']) == 64
    assert '(1 + w) eps_cond - w eps_uncond' in results['convention']
    assert (
        results['weights_sha256'] == loading.load(swept_toy_workdir).provenance()['weights_sha256']
    )
    assert [row['w'] for row in results['rows']] == [0.0, 1.0]
    for row in results['rows']:
        assert {'w', 'fid', 'is', 'is_std'} <= row.keys()
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))
        assert row['nfe'] == (4 if row['w'] == 0 else 8)
        assert row['fid'] > 0
        assert 1.0 <= row['is'] <= 10.0
        assert 0.0 <= row['class_agreement'] <= 1.0


def test_table_shows_the_rows(swept_toy_workdir):
    text = (swept_toy_workdir / 'sweep' / 'tiny' / 'table.md').read_text()
    lines = text.splitlines()
    rows = results_of(swept_toy_workdir)['rows']
    assert lines[0].startswith('| w | s = 1 + w | FID | IS |')
    assert len(lines) == 2 + len(rows)
    for line, row in zip(lines[2:], rows, strict=True):
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        assert cells[:2] == [f'{row["w"]:g}', f'{1 + row["w"]:g}']
        assert cells[2].replace('*', '') == f'{row["fid"]:.2f} ± {row["fid_se"]:.2f}'
        assert cells[3].replace('*', '') == f'{row["is"]:.3f} ± {row["is_se"]:.3f}'
    best = min(range(2), key=lambda i: rows[i]['fid'])
    assert [f'**{row["fid"]:.2f}**' in text for row in rows] == [i == best for i in range(2)]


def test_pictures(swept_toy_workdir):
    for name in ('tradeoff.png', 'samples.png'):
        picture = np.asarray(Image.open(swept_toy_workdir / 'sweep' / 'tiny' / name).convert('L'))
        assert min(picture.shape) > 100
        assert picture.std() > 5


def test_scores_are_of_the_promised_images(swept_toy_workdir):
    """Image i is balanced class i mod 10 under the sweep's seed, rounded to uint8."""
    config = make_tiny_config()
    model = loading.load(swept_toy_workdir, config=config)
    indices = np.arange(20, 40)
    labels = model.draw_conditions(0, indices, 'balanced')
    assert np.array_equal(labels, indices % 10)
    x = images.to_uint8(model.generate(0, indices, labels, 1.0).x)
    from cfg_jax.metrics.features import classifier

    extractor = classifier.load_or_train(config, swept_toy_workdir / 'classifier')
    features = extractor.apply(extractor.params, x)
    shard = swept_toy_workdir / 'sweep' / 'tiny' / 'shards' / 'w_1.0_seed_0_images_0000020.npz'
    arrays = files.read_npz(shard)
    np.testing.assert_array_equal(arrays['condition'], labels)
    np.testing.assert_allclose(arrays['logits'], features.logits, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(arrays['pooled'], features.pooled, rtol=1e-3, atol=1e-3)


def test_reference_is_all_real_images(swept_toy_workdir):
    (path,) = (swept_toy_workdir / 'reference').glob('*.npz')
    reference = files.read_npz(path)
    config = make_tiny_config()
    from cfg_jax.metrics.features import classifier

    extractor = classifier.load_or_train(config, swept_toy_workdir / 'classifier')
    pooled = [
        extractor.apply(extractor.params, images.to_uint8(batch['image'])).pooled
        for batch in pipeline.one_epoch(config.data, 'train', 600)
    ]
    pooled = np.concatenate(pooled).astype(np.float64)
    assert len(pooled) == len(reference['features']) == 1797
    np.testing.assert_allclose(reference['mu'], pooled.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        reference['sigma'], np.cov(pooled, rowvar=False), rtol=1e-3, atol=1e-4
    )


def test_features_do_not_depend_on_shards(workdir):
    config = make_tiny_config(sweep__w=(1.0,), sweep__shard_size=40)
    sweep.run(config, workdir, name='one_shard')
    (one,) = shards_of(workdir, 'one_shard', 1.0)
    two = shards_of(workdir, 'tiny', 1.0)
    assert len(two) == 2
    assert (
        one.keys()
        == two[0].keys()
        == {
            'pooled',
            'logits',
            'condition',
            'nfe',
            'finite',
        }
    )
    for key, values in one.items():
        np.testing.assert_array_equal(values, np.concatenate([shard[key] for shard in two]))


def test_sizes_that_do_not_divide(workdir):
    """17 samples in shards of 12 by batches of 5: nothing is lost, nothing counted twice."""
    config = make_tiny_config(
        sweep__w=(0.0,), sweep__shard_size=12, sweep__batch_size=5, sweep__num_samples=17
    )
    directory = sweep.run(config, workdir, name='odd')
    shards = [files.read_npz(path) for path in sorted((directory / 'shards').iterdir())]
    assert [len(shard['pooled']) for shard in shards] == [12, 5]
    labels = np.concatenate([shard['condition'] for shard in shards])
    assert np.array_equal(labels, np.arange(17) % 10)
    logits = np.concatenate([shard['logits'] for shard in shards])
    tiny = workdir / 'sweep' / 'tiny' / 'shards' / 'w_0.0_seed_0_images_0000000.npz'
    np.testing.assert_allclose(logits, files.read_npz(tiny)['logits'][:17], rtol=1e-2, atol=1e-2)


def test_saved_samples_are_the_promised_images(workdir):
    config = make_tiny_config(sweep__w=(1.0,), sweep__save_samples=True)
    sweep.run(config, workdir, name='tiny')
    with np.load(workdir / 'sweep' / 'tiny' / 'batches' / 'w_1.0_seed_0.npz') as batch:
        saved = batch['arr_0']
    assert saved.shape == (40, 8, 8, 1)
    assert saved.dtype == np.uint8
    model = loading.load(workdir, config=config)
    for first in (0, 20):
        indices = np.arange(first, first + 20)
        labels = (indices % 10).astype(np.int32)
        expected = images.to_uint8(model.generate(0, indices, labels, 1.0).x)
        np.testing.assert_array_equal(saved[first : first + 20], expected)
