"""Ablations: every expectation can fail, rows are grouped rightly, the command at toy size."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image
from support import (
    ROOT,
    experiment,
    make_tiny_config,
    tiny_arguments,
    toy_instead_of_networks,
)
from test_comparison import Means

from cfg_jax import loading, model_checks
from cfg_jax.conditioning.label import Label
from cfg_jax.guidance.guided import GuidedDenoiser
from cfg_jax.metrics.features import classifier
from cfg_jax.models.denoiser import Denoiser
from cfg_jax.training import export

noise_rule = experiment('ablations_parts.noise')
untrained_null = experiment('ablations_parts.untrained_null')
row_lib = experiment('ablations_parts.rows')
row_table = experiment('ablations_parts.table')
Relation, Row = row_lib.Relation, row_lib.Row
KEY = jax.random.key(0)


def metrics(fid, agreement=0.5, se=1.0):
    return {'fid': fid, 'fid_se': se, 'is': 5.0, 'class_agreement': agreement, 'count': 100}


@pytest.mark.parametrize(
    ('fid', 'sign', 'holds'),
    [
        (20.0, '>', True),
        (20.0, '<', False),
        (5.0, '<', True),
        (5.0, '>', False),
        (12.0, '>', None),  # the difference has an error of sqrt(2)
        (9.0, '<', None),
        (12.0, '~', True),
        (20.0, '~', False),
        (5.0, '~', False),
        (float('nan'), '>', None),  # images that were not finite
        (float('nan'), '~', None),
    ],
)
def test_a_relation_holds_fails_or_is_undecided(fid, sign, holds):
    rows = {'a': metrics(fid), 'b': metrics(10.0)}
    assert row_table.judge(Relation('fid', sign, 'b'), rows['a'], rows) is holds


@pytest.mark.parametrize(('share', 'holds'), [(0.1, True), (0.16, True), (0.25, False)])
def test_agreement_with_chance(share, holds):
    """The standard error of a share of 0.16 among 100 is 0.037."""
    relation = Relation('class_agreement', '~', 0.1)
    assert row_table.judge(relation, metrics(1.0, share), {}) is holds


def test_an_agreement_of_one_has_an_error():
    rows = {'a': metrics(1.0, 1.0), 'b': metrics(1.0, 0.98)}
    relation = Relation('class_agreement', '>', 'b')
    assert row_table.judge(relation, rows['a'], rows) is None


def test_verdicts_name_what_failed():
    rows = {'a': metrics(20.0, 0.9), 'b': metrics(10.0, 0.2)}
    more, less = Relation('fid', '>', 'b'), Relation('class_agreement', '<', 'b')
    row = Row('a', 'words', (more,), w=1.0)
    assert row_table.verdict(row, rows) == 'as expected'
    row = Row('a', 'words', (more, less), w=1.0)
    assert row_table.verdict(row, rows) == ('not as expected: no class agreement < that of b')
    rows['a']['fid'] = 11.0
    row = Row('a', 'words', (more,), w=1.0)
    assert row_table.verdict(row, rows) == 'undecided: FID > that of b'


def test_rows_refer_to_rows():
    names = [row.name for row in row_lib.ROWS]
    assert len(set(names)) == len(names)
    for row in row_lib.ROWS:
        assert row.relations, row.name
        for relation in row.relations:
            if isinstance(relation.other, str):
                assert relation.other in names
                assert relation.other != row.name


def test_groups_share_a_sampler(tiny_config):
    groups = list(row_lib.groups())
    assert sorted(row.name for group in groups for row in group.rows) == sorted(
        row.name for row in row_lib.ROWS
    )
    assert len({group.slug() for group in groups}) == len(groups)
    plain = groups[0].config(tiny_config)
    assert plain.sweep.w == (-1.0, -0.5, 0.0, 0.5, 1.0, 4.0, 100.0)
    unclipped = next(group for group in groups if group.slug() == 'p0.1-clip-False')
    config = unclipped.config(tiny_config)
    assert (config.sampler.clip, config.sweep.w) == (False, (1.0, 100.0))
    assert tiny_config.sampler.clip


def test_no_row_is_refused(tiny_config):
    for group in row_lib.groups():
        config, rule = group.config(tiny_config), row_table.rule_of(group)
        for w in config.sweep.w:
            assert model_checks.refusal(rule, config, w) is None, (group.slug(), w)


def test_an_untrained_null_is_asked_for_as_any_other():
    rule, labels = untrained_null.UntrainedNull(), jnp.arange(3)
    conditions = rule.conditions(Label(10), labels, jnp.float32(0.0), jax.random.split(KEY, 3))
    asked = [conditions[evaluation.condition] for evaluation in rule.evaluations]
    np.testing.assert_array_equal(asked, [labels, Label(10).null(labels)])


def test_noise_in_the_place_of_the_unconditional_prediction():
    """eps~ - (1 + w) eps is -w times noise: standard normal, the image's own, fresh each level."""
    denoiser = Denoiser(lambda params, z, logsnr, condition: z * params)
    keys = jax.random.split(jax.random.key(0), 500)
    z, label, w = jnp.ones((500, 4, 4, 1)), jnp.zeros(500, jnp.int32), jnp.full(500, 3.0)

    def noise(rows):
        """Of two levels [2, B, ...], for some of the images."""
        predict = GuidedDenoiser(
            noise_rule.NoiseForUnconditional(),
            {'main': denoiser},
            {'main': 2.0},
            Label(10),
            label[rows],
            keys[rows],
            w[rows],
        )
        state, found = predict.init(z[rows]), []
        for level in (0.5, 0.6):
            prediction, state = predict(z[rows], jnp.float32(level), state)
            found.append(np.asarray((4 * 2.0 - prediction.eps) / 3))
        assert int(state.nfe) == 2  # one evaluation a level
        return np.stack(found)

    every = noise(np.arange(500))
    for each in every:
        assert abs(each.mean()) < 5 / np.sqrt(each.size)
        assert abs(each.std() - 1) < 5 / np.sqrt(2 * each.size)
    assert abs(np.mean(every[0] * every[1])) < 5 / np.sqrt(every[0].size)
    assert abs(np.mean(every[:, 1:] * every[:, :-1])) < 5 / np.sqrt(every[:, 1:].size)
    np.testing.assert_array_equal(noise(np.arange(7, 9)), every[:, 7:9])


def test_every_row_says_what_it_is_of(swept_toy_workdir, tmp_path):
    row = Row('w = 0', 'words', (Relation('fid', '>', -1.0),), w=0.0)
    group = row_lib.Group(0.1, (('num_steps', 3),), False, (row,))
    config = group.config(make_tiny_config())
    root = epath.Path(tmp_path)
    with toy_instead_of_networks():
        found = row_table.measure(group, config, epath.Path(swept_toy_workdir), root, Means())
        params, _, _ = loading.load_params(swept_toy_workdir)
    row_table.write(root, [(row, found[row.name])], config)
    [written] = json.loads((tmp_path / 'results.json').read_text())['rows']
    own = written['provenance']
    assert own['weights_sha256'] == export.sha256_of_params(params)
    assert (own['checkpoint_step'], own['seeds']) == (6, [0])
    assert own['sampler']['num_steps'] == 3
    assert own['features'] == Means().provenance()
    assert len(own['reference']['sha256']) == 64


@pytest.mark.skipif(
    not os.environ.get('CFG_JAX_SLOW'),
    reason='half a minute; CFG_JAX_SLOW=1 pytest tests/experiments/test_ablations.py runs it',
)
def test_command_writes_every_row(tmp_path, monkeypatch, capsys):
    untrained = next(row for row in row_lib.ROWS if row.p_uncond == 0.0)
    rows = [*(row_lib.ROWS[i] for i in (2, 4, 9)), untrained]
    rows[1] = rows[1]._replace(relations=(Relation('is', '>', 'w = 0'),))
    rows[2] = rows[2]._replace(relations=(Relation('fid', '>', 'w = 0'),))
    rows[3] = rows[3]._replace(relations=(Relation('fid', '>', 'w = 0'),))
    monkeypatch.setattr(row_lib, 'ROWS', tuple(rows))
    monkeypatch.setattr(classifier, '_EPOCHS', 20)
    monkeypatch.chdir(ROOT)
    with toy_instead_of_networks():
        experiment('ablations').main(
            [f'--root={tmp_path}/a', *tiny_arguments(['sweep.w', 'sampler.num_steps'])]
        )
    results = json.loads((tmp_path / 'a' / 'ablations' / 'results.json').read_text())
    assert [row['name'] for row in results['rows']] == [row.name for row in rows]
    for row in results['rows']:
        assert row['expected']
        assert row['verdict'].startswith(('as expected', 'not as expected', 'undecided'))
    table = (tmp_path / 'a' / 'ablations' / 'table.md').read_text()
    assert table in capsys.readouterr().out
    for row in rows:
        assert f'| {row.name} |' in table
    assert Image.open(tmp_path / 'a' / 'ablations' / 'ablations.png').width > 800
    assert {p.name for p in (tmp_path / 'a').glob('p_uncond_*')} == {'p_uncond_0.1', 'p_uncond_0'}
