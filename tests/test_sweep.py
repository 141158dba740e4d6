import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image
from support import make_tiny_config, user_error

from cfg_jax import data, files, generation, images, sweep, trained
from cfg_jax.metrics.statistics import Moments


def results_of(workdir, name='tiny'):
    return json.loads((workdir / 'sweep' / name / 'results.json').read_text())


def moments_of(workdir, name, w):
    """Moments over all shards of one w."""
    total = None
    paths = sorted((workdir / 'sweep' / name / 'shards').glob(f'w_{w}_*.npz'))
    for path in paths:
        part = Moments.from_arrays(files.read_npz(path))
        total = part if total is None else total.merge(part)
    return total, len(paths)


@pytest.fixture
def workdir(swept_workdir, tmp_path):
    """A copy of the swept work directory to change."""
    return shutil.copytree(swept_workdir, tmp_path / 'run')


def test_results_have_the_fields_of_the_design(swept_workdir):
    results = results_of(swept_workdir)
    assert results['dataset'] == 'digits'
    assert results['checkpoint_step'] == 6
    assert results['num_samples'] == 40
    assert results['seed'] == 0
    assert results['sampler'] == {
        'sampler': 'ancestral',
        'num_steps': 4,
        'v': 0.3,
        'clip': True,
        'logsnr_min': -20.0,
        'logsnr_max': 20.0,
    }
    weights = files.read_npz(swept_workdir / 'classifier' / 'weights.npz')
    assert results['features']['name'] == 'classifier'
    assert results['features']['sha256'] == files.sha256_of_arrays(weights)
    assert results['reference']['dataset'] == 'digits'
    assert results['reference']['num_images'] == 1797
    assert len(results['reference']['sha256']) == 64
    assert '(1 + w) eps_cond - w eps_uncond' in results['convention']
    assert results['weights_sha256'] == trained.TrainedModel(swept_workdir).weights_sha256()
    assert [row['w'] for row in results['rows']] == [0.0, 1.0]
    for row in results['rows']:
        assert {'w', 'fid', 'is', 'is_std'} <= row.keys()
        assert all(math.isfinite(value) for value in row.values())
        assert row['fid'] > 0
        assert 1.0 <= row['is'] <= 10.0
        assert 0.0 <= row['class_agreement'] <= 1.0


def test_table_shows_the_rows(swept_workdir):
    text = (swept_workdir / 'sweep' / 'tiny' / 'table.md').read_text()
    lines = text.splitlines()
    rows = results_of(swept_workdir)['rows']
    assert lines[0].startswith('| w | s = 1 + w | FID | IS |')
    assert len(lines) == 2 + len(rows)
    for line, row in zip(lines[2:], rows, strict=True):
        cells = [cell.strip().strip('*') for cell in line.strip('|').split('|')]
        assert cells[:3] == [f'{row["w"]:g}', f'{1 + row["w"]:g}', f'{row["fid"]:.2f}']
        assert f'{row["is"]:.3f}' in cells[3]
    best = min(range(2), key=lambda i: rows[i]['fid'])
    assert [f'**{row["fid"]:.2f}**' in text for row in rows] == [i == best for i in range(2)]


def test_pictures(swept_workdir):
    for name in ('tradeoff.png', 'samples.png'):
        picture = np.asarray(Image.open(swept_workdir / 'sweep' / 'tiny' / name).convert('L'))
        assert min(picture.shape) > 100
        assert picture.std() > 5


def test_scores_are_of_the_promised_images(swept_workdir):
    """Image i is balanced class i mod 10 under the sweep's seed, rounded to uint8."""
    config = make_tiny_config()
    model = trained.TrainedModel(swept_workdir, config)
    indices = np.arange(20, 40)
    labels = generation.image_labels(0, indices, 10, 'balanced')
    assert np.array_equal(labels, indices % 10)
    x = images.to_uint8(model.generate(0, indices, labels, 1.0))
    from cfg_jax.metrics import classifier

    extractor = classifier.load_or_train(config, swept_workdir / 'classifier')
    features = extractor.apply(extractor.params, x)
    shard = swept_workdir / 'sweep' / 'tiny' / 'shards' / 'w_1.0_images_0000020.npz'
    arrays = files.read_npz(shard)
    np.testing.assert_array_equal(arrays['labels'], labels)
    np.testing.assert_allclose(arrays['logits'], features.logits, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        arrays['mean'], np.asarray(features.pooled, np.float64).mean(axis=0), rtol=1e-4, atol=1e-5
    )


def test_reference_is_all_real_images(swept_workdir):
    (path,) = (swept_workdir / 'reference').glob('*.npz')
    reference = Moments.from_arrays(files.read_npz(path))
    config = make_tiny_config()
    from cfg_jax.metrics import classifier

    extractor = classifier.load_or_train(config, swept_workdir / 'classifier')
    pooled = [
        extractor.apply(extractor.params, np.rint((batch['image'] + 1) * 127.5)).pooled
        for batch in data.one_epoch(config.data, 'train', 600)
    ]
    pooled = np.concatenate(pooled).astype(np.float64)
    assert reference.count == len(pooled) == 1797
    np.testing.assert_allclose(reference.mean, pooled.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        reference.covariance(), np.cov(pooled, rowvar=False), rtol=1e-3, atol=1e-4
    )


def test_a_lost_shard_is_computed_again(workdir):
    directory = workdir / 'sweep' / 'tiny'
    before = {path.name: path.read_bytes() for path in directory.glob('*.*')}
    lost = directory / 'shards' / 'w_1.0_images_0000020.npz'
    content = lost.read_bytes()
    kept = directory / 'shards' / 'w_1.0_images_0000000.npz'
    kept_time = kept.stat().st_mtime_ns
    lost.unlink()
    (directory / 'results.json').unlink()
    (directory / 'table.md').unlink()
    reports = []
    sweep.run(make_tiny_config(), workdir, name='tiny', report=reports.append)
    assert len(reports) == 1  # one shard
    assert reports[0].startswith('w=1  40/40 images')
    assert lost.read_bytes() == content
    assert kept.stat().st_mtime_ns == kept_time
    assert (directory / 'table.md').read_bytes() == before['table.md']
    assert (directory / 'results.json').read_bytes() == before['results.json']


def test_more_w_join_the_same_sweep(workdir):
    """Finished w are not computed again, and every file shows the new list."""
    directory = workdir / 'sweep' / 'tiny'
    old_rows = results_of(workdir)['rows']
    old_picture = Image.open(directory / 'samples.png').size
    reports = []
    config = make_tiny_config(sweep__w=(0.0, 1.0, 2.0))
    sweep.run(config, workdir, name='tiny', report=reports.append)
    assert {line.split()[0] for line in reports} == {'w=2'}
    rows = results_of(workdir)['rows']
    assert rows[:2] == old_rows
    assert rows[2]['w'] == 2.0
    assert Image.open(directory / 'samples.png').size[0] > old_picture[0]


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('sweep__num_samples', 20),
        ('sweep__seed', 1),
        ('sweep__labels', 'uniform'),
        ('sampling__v', 0.5),
        ('sampling__sampler', 'ddim'),
        ('sampling__num_steps', 5),
    ],
)
def test_other_settings_need_another_name(swept_workdir, field, value):
    config = make_tiny_config(**{field: value})
    message = user_error(sweep.run, config, swept_workdir, name='tiny')
    assert 'choose another --name' in message
    assert field.rpartition('__')[2] in message


def test_default_names_tell_settings_apart():
    names = {
        sweep.default_name(make_tiny_config(**change), 6)
        for change in (
            {},
            {'sampling__sampler': 'ddim'},
            {'sampling__num_steps': 5},
            {'sampling__v': 0.5},
            {'sweep__num_samples': 50},
            {'sweep__seed': 1},
        )
    } | {sweep.default_name(make_tiny_config(), 7)}
    assert len(names) == 7


def test_moments_do_not_depend_on_shards(workdir):
    config = make_tiny_config(sweep__w=(1.0,), sweep__shard_size=40)
    sweep.run(config, workdir, name='one_shard', report=lambda line: None)
    one, count_one = moments_of(workdir, 'one_shard', 1.0)
    two, count_two = moments_of(workdir, 'tiny', 1.0)
    assert (count_one, count_two) == (1, 2)
    assert one.count == two.count == 40
    np.testing.assert_allclose(one.mean, two.mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(one.scatter, two.scatter, rtol=1e-9, atol=1e-9)


def test_sizes_that_do_not_divide(workdir):
    """17 samples in shards of 12 by batches of 5: nothing is lost, nothing counted twice."""
    config = make_tiny_config(
        sweep__w=(0.0,), sweep__shard_size=12, sweep__batch_size=5, sweep__num_samples=17
    )
    directory = sweep.run(config, workdir, name='odd', report=lambda line: None)
    shards = [files.read_npz(path) for path in sorted((directory / 'shards').iterdir())]
    assert [int(shard['count']) for shard in shards] == [12, 5]
    labels = np.concatenate([shard['labels'] for shard in shards])
    assert np.array_equal(labels, np.arange(17) % 10)
    logits = np.concatenate([shard['logits'] for shard in shards])
    tiny = workdir / 'sweep' / 'tiny' / 'shards' / 'w_0.0_images_0000000.npz'
    np.testing.assert_allclose(logits, files.read_npz(tiny)['logits'][:17], rtol=1e-2, atol=1e-2)


def test_no_checkpoint(tmp_path):
    message = user_error(sweep.run, make_tiny_config(), tmp_path)
    assert 'no complete checkpoint' in message
    assert not (tmp_path / 'sweep').exists()


def test_unknown_features(swept_workdir):
    config = make_tiny_config(sweep__features='inceptoin')
    message = user_error(sweep.run, config, swept_workdir, name='other')
    assert 'inceptoin' in message
    assert 'classifier' in message
    assert not (swept_workdir / 'sweep' / 'other').exists()
