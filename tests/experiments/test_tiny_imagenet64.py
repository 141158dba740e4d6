"""The real-images experiment on made-up images, with toys for networks and instruments."""

import json
import os
import re

import jax.numpy as jnp
import numpy as np
import pytest
from blobs import Colours, blobs as blobs
from PIL import Image
from support import (
    ROOT,
    checkpoint_arrays,
    experiment,
    make_tiny_config,
    run_here,
    toy_instead_of_networks,
    user_error,
)

from cfg_jax import config as config_lib, files, loading
from cfg_jax.evaluation import reference
from cfg_jax.evaluation.cache import Samples
from cfg_jax.guidance.interval import Interval
from cfg_jax.inference import Model
from cfg_jax.metrics import frechet
from cfg_jax.metrics.features import Features
from cfg_jax.training import export, starting, step as train_step

COMMAND = 'experiments/tiny_imagenet64.py'
ALL_PARTS = 'sweep,steps,p_uncond,branches,T,rules,classifier'


class Instruments(Colours):
    """In the place of both: two classes more than the data set's."""

    logits_are_labels = True
    inception = Colours()

    def apply(self, params, images):
        found = super().apply(params, images)
        colours = 20.0 * found.pooled[:, :3]
        return found._replace(logits=jnp.concatenate([colours, 0.5 * colours[:, :2]], axis=-1))


def arguments(data, root, *more):
    return (
        f'--data={data}',
        '--inception=made_up.npz',
        '--googlenet=made_up.npz',
        f'--root={root}',
        '--preset=toy',
        '--real=20',
        '--branch_steps=5',
        '--config.data.image_size=8',
        '--config.sampler.num_steps=8',
        '--config.sweep.num_samples=30',
        '--config.sweep.w=(0.0,0.3,4.0)',
        '--w=0.3,4',
        *more,
    )


@pytest.fixture
def toys(monkeypatch):
    """Toys for networks and instruments."""
    patch_instruments(monkeypatch)
    with toy_instead_of_networks():
        yield


def patch_instruments(patch):
    patch.setattr(
        experiment('tiny_imagenet64_parts.extractor'), 'load', lambda *args: Instruments()
    )


@pytest.fixture(scope='module')
def root(blobs, tmp_path_factory):
    """Every part, at toy size, with one of each kind."""
    if not os.environ.get('CFG_JAX_SLOW'):
        pytest.skip(
            'minutes; CFG_JAX_SLOW=1 pytest tests/experiments/test_tiny_imagenet64.py runs it'
        )
    root = tmp_path_factory.mktemp('real') / 'root'
    part_lib = experiment('tiny_imagenet64_parts.parts')
    with pytest.MonkeyPatch.context() as patch, toy_instead_of_networks():
        patch_instruments(patch)
        patch.setattr(part_lib, 'INTERVALS', ((0.28, 2.9),))
        patch.setattr(part_lib, 'RADII', (2.2,))
        patch.setattr(part_lib, 'P_UNCOND', (0.1, 0.5))
        patch.chdir(ROOT)
        experiment('tiny_imagenet64').main(arguments(blobs, root, f'--parts={ALL_PARTS}'))
    return root


def results_of(root):
    return json.loads((root / 'results' / 'results.json').read_text())


def test_one_command_leaves_everything(root):
    out = root / 'results'
    pictures = {'tradeoff', 'loss', 'one_class', 'classes', *ALL_PARTS.split(',')} - {'sweep'}
    for name in pictures:
        assert min(Image.open(out / f'{name}.png').size) > 200, name
    results = results_of(root)
    assert results['checkpoint_step'] == 24
    assert results['training']['images'] == 24 * 16
    assert results['training']['seconds'] > 0
    assert results['convention'].startswith('eps = (1 + w) eps_cond')
    assert results['names']['is'] == 'IS (GoogLeNet)'
    assert 'versions' in results
    command = (out / 'command.txt').read_text()
    assert command.startswith('python experiments/tiny_imagenet64.py --data=')
    assert '\njax ' in command
    lines = (out / 'table.md').read_text().splitlines()
    assert not [line for line in lines if line.startswith('|') and re.search(r'\bFID\b', line)]


def test_curves(root):
    results = results_of(root)
    curves, parts = results['curves'], results['parts']
    assert parts['sweep'] == ['T8']
    assert parts['steps'] == ['T8', 'T2', 'ddim-T2']
    assert parts['T'] == ['T2', 'T4', 'T8']
    assert parts['p_uncond'] == ['T8', 'p_uncond_0.5']
    assert parts['branches'] == ['branch_0.1-annealed_5', 'branch_0.5-annealed_5']
    assert len(parts['rules']) == 1 + 1 + 1 + 2
    assert len(parts['classifier']) == 3
    for slug, curve in curves.items():
        for row in curve['rows']:
            assert np.isfinite([row['fd768'], row['is'], row['class_agreement']]).all(), slug
            assert {'fd768_validation', 'sfid_validation', 'precision', 'fd768_se'} <= row.keys()
    assert [row['w'] for row in curves['T8']['rows']] == [0.0, 0.3, 4.0]
    assert [row['nfe'] for row in curves['T8']['rows']] == [8, 16, 16]
    assert [row['w'] for row in curves['untrained']['rows']] == [0.0]
    assert curves['p_uncond_0.5']['config']['p_uncond'] == 0.5
    assert curves['autoguidance_small']['guidance_network']['checkpoint_step'] == 3
    assert curves['autoguidance_earlier']['guidance_network']['checkpoint_step'] == 8
    noise = abs(curves['seed']['rows'][0]['fd768'] - curves['T8']['rows'][0]['fd768'])
    assert noise > 0


def test_curves_are_compared_with_plain_guidance_at_the_same_w(root):
    results = results_of(root)
    found = results['less_plain']
    assert {(each['curve'], each['less'], each['w']) for each in found['T']} == {
        (slug, 'T8', w) for slug in ('T2', 'T4') for w in (0.3, 4.0)
    }
    assert {each['less'] for each in found['branches']} == {'branch_0.1-annealed_5'}
    assert found['sweep'] == []
    for each in found['steps']:
        own, plain = (
            next(row for row in results['curves'][slug]['rows'] if row['w'] == each['w'])
            for slug in (each['curve'], 'T8')
        )
        assert each['fd768'] == own['fd768'] - plain['fd768']
        # Whatever the correlation, sd(a - b) <= sd(a) + sd(b).
        assert 0 < each['fd768_se'] <= 1.01 * (own['fd768_se'] + plain['fd768_se'])


def test_branches_of_p_uncond_start_from_what_is_measured(root):
    results = results_of(root)
    for value in (0.1, 0.5):
        curve = results['curves'][f'branch_{value:g}-annealed_5']
        assert (curve['checkpoint_step'], curve['config']['p_uncond']) == (5, value)
        record = files.read_json(root / f'branch_{value:g}-annealed_5-from_24' / starting.RECORD)
        assert record['weights_sha256'] == results['curves']['T8']['weights_sha256']
    first, second = (results['curves'][slug]['rows'] for slug in results['parts']['branches'])
    assert first[0]['fd768'] != second[0]['fd768']


def test_the_floor_is_of_real_images(root):
    train, validation = results_of(root)['floor']
    assert (train['images'], train['against'], train['num_images']) == ('train', 'validation', 30)
    assert (validation['images'], validation['num_images']) == ('validation', 24)
    worst = results_of(root)['curves']['untrained']['rows'][0]
    for row in (train, validation):
        assert row['class_agreement'] == 1.0
        assert row['fd768'] < 0.1 * worst['fd768']


def test_table(root):
    table = (root / 'results' / 'table.md').read_text()
    assert '| w | NFE | FD-768 | sFID | FD-768, validation |' in table
    assert '| IS (GoogLeNet) | class agreement (GoogLeNet) |' in table
    assert '| real, validation | 24 | train |' in table
    assert '| untrained network, w = 0 | 30 | train |' in table
    assert table.count('\n## ') == 8


def test_both_trainings_of_dropout_are_judged(monkeypatch):
    """Branches show 0.5 worse, models trained as long do not: the part is named."""
    publication = experiment('tiny_imagenet64_parts.publication')

    def curve(p_uncond, scale):
        config = config_lib.to_json(make_tiny_config(p_uncond=p_uncond))
        rows = [
            {'w': w, 'fd768': scale * (1.0 + w), 'fd768_se': 0.001, 'is': 2.0 + w, 'is_se': 0.001}
            for w in (0.0, 1.0, 4.0)
        ]
        return {'name': f'{p_uncond}, {scale}', 'config': config, 'rows': rows, 'num_samples': 40}

    curves = {
        'main': curve(0.1, 1.0),
        'untrained': {'rows': [{'fd768': 10.0}]},
        **{f'branch {p}': curve(p, scale) for p, scale in ((0.2, 1.01), (0.5, 1.5))},
        **{f'model {p}': curve(p, scale) for p, scale in ((0.2, 1.01), (0.5, 0.5))},
    }
    parts = {
        'sweep': ['main'],
        'branches': ['main', 'branch 0.2', 'branch 0.5'],
        'p_uncond': ['main', 'model 0.2', 'model 0.5'],
    }
    written = publication.Publication.__new__(publication.Publication)
    written._parts = parts
    monkeypatch.setattr(written, '_curve', curves.get)

    def found():
        verdicts = {v.claim: v.verdict for v in written._verdicts()}
        assert sum('IS (GoogLeNet) rises with w (0.1, 1.0)' in claim for claim in verdicts) == 1
        return {k.partition('(GoogLeNet)')[2]: v for k, v in verdicts.items() if '0.5 is' in k}

    assert found() == {
        ' (p_uncond, branches from the main model)': 'supported',
        ' (p_uncond, models trained as long)': 'not supported',
    }
    del parts['p_uncond']
    assert found() == {'': 'supported'}


def test_claims_are_judged_and_name_their_scores(root):
    verdicts = json.loads((root / 'results' / 'claims.json').read_text())
    claims = ' '.join(verdict['claim'] for verdict in verdicts)
    assert "the best FD-768 is below a third of the untrained network's" in claims
    assert 'IS (GoogLeNet) rises with w (p_uncond = 0.1, T = 8)' in claims
    assert 'more sampling steps improve the best FD-768' in claims
    assert 'p_uncond 0.1 and 0.2 agree' in claims
    assert ' FID ' not in claims


def test_again_costs_nothing(root, blobs, toys, capsys):
    before = results_of(root)
    status, out, err = run_here(capsys, COMMAND, *arguments(blobs, root, '--minutes=0'))
    assert (status, err) == (0, [])
    assert not [line for line in out if 'images/s' in line]
    assert results_of(root)['curves'] == before['curves']


def test_other_splits_and_replicates_are_measured_anew(root, blobs, toys, tmp_path, capsys):
    """From the same samples."""
    before = results_of(root)['curves']['T8']['rows']
    more = ('--minutes=0', '--config.sweep.is_splits=3', f'--out={tmp_path / "out"}')
    status, out, err = run_here(capsys, COMMAND, *arguments(blobs, root, *more))
    assert (status, err) == (0, [])
    assert not [line for line in out if 'images/s' in line]
    rows = json.loads((tmp_path / 'out' / 'results.json').read_text())['curves']['T8']['rows']
    for row, earlier in zip(rows, before, strict=True):
        assert (row['is_splits'], earlier['is_splits']) == (3, 1)
        assert row['fd768'] == earlier['fd768']
        assert row['is'] != earlier['is']


def test_the_exported_model_is_what_was_measured(root, blobs, toys, tmp_path, capsys):
    params, config, _ = loading.load_params(root / 'results' / 'model-24.safetensors')
    model = tmp_path / 'friend.safetensors'
    starts = [{'path': 'there', 'images': 1000}, {'path': 'before', 'images': 7}]
    export.write_model(model, params, config, 24, 'bfloat16', starts)
    before = results_of(root)['curves']['T8']
    more = ('--minutes=0', f'--model={model}', '--parts=sweep', f'--out={tmp_path / "out"}')
    status, _, err = run_here(capsys, COMMAND, *arguments(blobs, tmp_path / 'other', *more))
    assert (status, err) == (0, [])
    found = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert found['curves']['T8']['rows'] == before['rows']
    assert found['curves']['T8']['weights_sha256'] == before['weights_sha256']
    counted = {'steps': 24, 'images': 24 * 16, 'starts': starts, 'images_in_all': 24 * 16 + 1007}
    assert found['training'] == counted  # its log lies elsewhere
    assert not (tmp_path / 'other' / 'model').exists()
    parameters = model.stat().st_size / 2
    weights = checkpoint_arrays(root / 'model', 24)
    ema = sum(array.size for name, array in weights.items() if name.startswith("['ema_params']"))
    assert ema <= parameters < 1.5 * ema + 10_000


def test_a_part_without_minutes_leaves_the_others(root, blobs, toys, tmp_path, capsys):
    """Branches that nobody had minutes to train are no section of the results."""
    model = root / 'results' / 'model-24.safetensors'
    more = (f'--model={model}', '--minutes=0', f'--root={tmp_path}')
    parts = experiment('tiny_imagenet64_parts.parts').P_UNCOND
    assert parts
    for part in ('sweep', 'branches'):
        status, _, err = run_here(
            capsys, COMMAND, *arguments(blobs, tmp_path, *more, f'--parts={part}')
        )
        assert (status, err) == (0, [])
    assert results_of(tmp_path)['parts'] == {'sweep': ['T8']}


@pytest.mark.parametrize(
    ('argument', 'words'),
    [
        ('--parts=sweep,tea', 'got tea'),
        ('--parts=,', 'got none'),
        ('--minutes=-1', '--minutes is a number of at least 0'),
        ('--data=/nowhere/1.0.0', 'holds no prepared TFDS data set'),
        ('--config.sweep.num_samples=3', 'sweep.num_samples=3: precision and recall need'),
        ('--real=2', '--real=2: precision and recall need at least 4'),
        ('--real=30', "has no split 'validation[:30]'"),
        ('--model=/nowhere.safetensors', 'does not exist'),
        ('--root=gs://bucket/x', 'give --out a local directory'),
        ('--label=3', '--label=3 is not a class; classes are 0..2'),
        ('--config=configs/none.py', "no config file 'configs/none.py'"),
        ('--widht=3', 'unrecognized arguments'),
    ],
)
def test_mistakes(argument, words, root, blobs, toys, capsys):
    more = ('--minutes=0', argument)
    status, _, err = run_here(capsys, COMMAND, *arguments(blobs, root, *more))
    assert status == 2
    assert len(err) == 1
    assert words in err[0]


def test_missing_weights_end_in_one_line(blobs, tmp_path, capsys):
    status, _, err = run_here(capsys, COMMAND, *arguments(blobs, tmp_path / 'root'))
    assert status == 2
    assert 'no GoogLeNet weights at made_up.npz' in err[0]
    load = experiment('tiny_imagenet64_parts.googlenet').load
    assert 'no GoogLeNet weights' in user_error(load, tmp_path)
    assert not (tmp_path / 'root').exists()


def test_an_interval_takes_a_second_evaluation_inside_of_it(toy_networks):
    """The cosine schedule is uniform in arctan(s): s in (1, tan(3 pi / 8)] is a quarter of it."""
    config = make_tiny_config(sampler__num_steps=101)
    params = {'main': train_step.create_state(config).ema_params}
    zero = np.zeros(1, np.int32)

    def nfe(lowest, highest):
        rule = Interval(lowest, highest)
        return int(Model(config, params, rule=rule).generate(0, zero, zero, 1.0).nfe[0])

    assert nfe(0.0, np.inf) == 202
    assert nfe(1.0, np.nextafter(1.0, 2.0)) == 101
    share = nfe(1.0, float(np.tan(3 * np.pi / 8))) / 101 - 1.0
    assert share == pytest.approx(0.25, abs=0.011)


@pytest.mark.parametrize('not_finite', [0, 1])
def test_images_that_are_not_finite_leave_no_metrics(not_finite):
    """Of one image the row tells that it is not finite; otherwise all is measured."""
    row_lib = experiment('tiny_imagenet64_parts.rows')
    rng = np.random.default_rng(0)

    def features():
        return Features(
            rng.normal(size=(20, 3)), rng.normal(size=(20, 5)), rng.normal(size=(20, 4))
        )

    def split():
        real = reference.of_features(features(), {})
        return row_lib.RealImages(real, frechet.distance_from(real.spatial))

    config = make_tiny_config(data__num_classes=3)
    samples = Samples(features(), np.arange(20) % 3, nfe=4, not_finite=not_finite)
    row, influences = row_lib.metrics_of(samples, row_lib.References(split(), split()), config)
    assert influences.keys() == ({'fd768'} if config.sweep.bootstrap and not not_finite else set())
    keys = {'fd768', 'sfid', 'is', 'precision', 'recall', 'class_agreement'}
    keys |= {'fd768_validation', 'sfid_validation'}
    assert keys <= row.keys()
    assert ('fd768_validation_se' in row) == ('fd768_se' in row) == bool(influences)
    assert row.get('images_not_finite', 0) == not_finite
    for key in keys:
        assert np.isfinite(row[key]) == (not not_finite), key
