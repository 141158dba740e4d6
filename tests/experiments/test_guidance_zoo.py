"""The zoo's verdicts on made-up points, what it measures, and the command at toy size."""

import argparse
import json
import os

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
    user_error,
)
from test_comparison import Means

from cfg_jax import loading
from cfg_jax.guidance import RULES, make_rule
from cfg_jax.metrics.features import classifier
from cfg_jax.metrics.inception_score import log_softmax, of_one_split
from cfg_jax.metrics.influence import Influence
from cfg_jax.samplers import SAMPLERS
from cfg_jax.training import export, loop

settings = experiment('guidance_zoo_parts.settings')
measurement = experiment('guidance_zoo_parts.measurement')
publication = experiment('guidance_zoo_parts.publication')
verdicts = experiment('guidance_zoo_parts.verdicts')
Point, Setting = measurement.Point, settings.Setting

COUNT = 400
PAPERS = 512  # evaluations of the paper's sampler here
OPTIONS = argparse.Namespace(num_steps=8, paper_steps=64, w=0.3)


def influence(seed, size):
    rng = np.random.default_rng(seed)
    return Influence(size * rng.normal(size=COUNT), np.zeros(0), np.zeros(COUNT, int))


def point(fid, score, w=1.0, rule='classifier_free', nfe=40, seed=0, error=1.0, part='rules'):
    """FID and IS whose standard errors are about `error` and a hundredth of it."""
    size = error * np.sqrt(COUNT)
    kept = {'fid': influence(seed, size), 'is': influence(seed + 100, 0.01 * size)}
    sampler = 'ancestral' if nfe == PAPERS else 'ddim'
    setting = Setting(part, rule, sampler, 20, 'schedule', (w,))
    return Point(setting, w, {'fid': fid, 'is': score, 'nfe': nfe}, kept)


PLAIN = [
    point(5.0, 9.0, w=0.0, seed=1),
    point(9.0, 9.4, w=0.5, seed=2),
    point(17.0, 9.6, w=1.0, seed=3),
]


def test_the_influence_on_the_score_is_its_derivative():
    logits = np.random.default_rng(0).normal(size=(30, 4)) * 2
    found = measurement.score_influence(logits, np.zeros(30, int)).first
    log_p, h = log_softmax(logits), 1e-6
    for i in range(30):

        def score(change, i=i):
            share = np.full(30, (1.0 - change) / 30)  # towards the image alone
            share[i] += change
            return of_one_split(log_p, share)

        assert found[i] == pytest.approx((score(h) - score(-h)) / (2 * h), rel=1e-4, abs=1e-5)


def test_the_error_of_the_score_is_that_of_new_draws():
    """Logits drawn again and again: the scores' deviation is what one draw says of itself."""
    rng = np.random.default_rng(1)
    scores, errors = [], []
    for _ in range(300):
        logits = 3.0 * rng.normal(size=(COUNT, 5))
        found = measurement.score_influence(logits, np.zeros(COUNT, int))
        errors.append(found.standard_error())
        scores.append(of_one_split(log_softmax(logits), np.full(COUNT, 1 / COUNT)))
    assert np.mean(errors) == pytest.approx(np.std(scores), rel=0.15)


def test_fid_at_the_same_score_lies_on_the_line_between_points():
    found = verdicts.at_equal_score(point(10.0, 9.5, seed=7), PLAIN)
    assert found.value == pytest.approx(10.0 - 13.0)
    # Halfway: the slope is 8 / 0.2 = 40 a unit of IS, whose error is a hundredth of FID's.
    expected = np.sqrt(1 + 0.25 + 0.25 + 0.4**2 * (1 + 0.25 + 0.25))
    assert found.error == pytest.approx(expected, rel=0.1)


def test_a_weight_at_which_plain_guidance_is_worse_in_both_is_no_comparison():
    """At w = 4 it has less IS than at w = 1, and more FID: nobody would sample there."""
    own, fallen = point(20.0, 9.58, seed=7), point(66.0, 9.5, w=4.0, seed=4)
    alone, found = (verdicts.at_equal_score(own, plain) for plain in (PLAIN, [*PLAIN, fallen]))
    assert found == alone
    assert found.value == pytest.approx(20.0 - 16.2)


def test_a_point_of_the_curve_is_no_different_from_it():
    for each in PLAIN:
        found = verdicts.at_equal_score(each, PLAIN)
        assert found.value == pytest.approx(0.0, abs=1e-9)
        assert found.error == pytest.approx(0.0, abs=1e-9)


def test_pairs_make_the_error_smaller():
    other = point(8.0, 9.4, seed=2)  # the same images as those of plain guidance there
    assert verdicts.at_equal_score(other, PLAIN).error < 1e-9
    apart = point(8.0, 9.4, seed=8)
    assert verdicts.at_equal_score(apart, PLAIN).error > 1.2


@pytest.mark.parametrize(
    ('fid', 'score', 'words'),
    [
        (4.0, 9.5, 'beats plain guidance'),
        (40.0, 9.5, 'worse than plain guidance'),
        (12.5, 9.5, 'no difference beyond two standard errors'),
        (1.0, 8.5, 'never reaches the IS of unguided samples'),
        (5.0, 9.9, 'beats plain guidance'),  # beyond the end of the curve
    ],
)
def test_verdicts(fid, score, words):
    own = [point(fid, score, rule='interval', seed=9)]
    assert verdicts.verdict(own, PLAIN).words == words


def test_unguided_points_of_a_rule_say_nothing():
    own = [point(0.0, 9.5, w=0.0, seed=9), point(40.0, 9.5, seed=10)]
    assert verdicts.verdict(own, PLAIN).words.startswith('worse')


def test_cheaper_is_a_tenth_and_no_worse():
    paper = point(10.0, 9.5, nfe=512, seed=1, part='samplers')
    good = point(9.0, 9.51, nfe=50, seed=2)
    others = [
        good,
        point(9.0, 9.51, nfe=52, seed=3),  # more than a tenth
        point(20.0, 9.6, nfe=10, seed=4),  # worse FID
        point(5.0, 9.2, nfe=10, seed=5),  # worse IS
        point(10.5, 9.49, nfe=30, seed=6),  # within the errors
    ]
    assert [c.point.row['nfe'] for c in verdicts.cheaper(paper, others)] == [30, 50]
    found = verdicts.cheaper(paper, [good])[0]
    assert (found.fid.value, found.fid.error) == (-1.0, pytest.approx(np.sqrt(2), rel=0.1))


def without_numbers(lost):
    """A point of images that are not finite, as it is measured."""
    row = {'fid': float('nan'), 'is': float('nan'), 'precision': float('nan')}
    row |= {'recall': float('nan'), 'images_not_finite': 3, 'notes': ['why'], 'nfe': 40}
    return lost._replace(row=row, influences={})


def test_points_of_images_that_are_not_finite_are_rows_without_numbers(tmp_path):
    """Of a rule, and at an end of plain guidance; written, but neither judged nor drawn."""
    supports = {'precision': 0.8, 'recall': 0.7}
    paper = point(10.0, 9.5, w=0.3, nfe=512, seed=20, part='samplers')
    own = [point(4.0, 9.5, rule='interval', seed=9), *PLAIN, paper]
    own = [each._replace(row=each.row | supports) for each in own]
    lost = [
        without_numbers(point(0.0, 0.0, w=9.0, rule='interval')),
        without_numbers(point(0.0, 0.0, w=9.0)),
        without_numbers(point(0.0, 0.0, part='samplers')),
        without_numbers(point(0.0, 0.0, w=0.3, part='together')),
    ]
    found = verdicts.Verdicts([*lost, *own])
    assert found.rules == verdicts.Verdicts(own).rules
    assert found.cheaper == verdicts.Verdicts(own).cheaper
    config = make_tiny_config()
    publication.write(epath.Path(tmp_path), found, config, [], {'seed': 5})
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['seed'] == 5
    written = results['points']
    assert [p.get('images_not_finite') for p in written] == 4 * [3] + len(own) * [None]
    assert all(np.isnan(p['fid']) for p in written[:4])
    table = (tmp_path / 'table.md').read_text().splitlines()
    assert sum('invalid' in line for line in table) == 4
    assert Image.open(tmp_path / 'zoo.png').width > 800


def test_without_the_papers_sampler_nothing_is_compared():
    paper = point(10.0, 9.5, w=0.3, nfe=512, part='samplers')
    lost = without_numbers(paper)._replace(row=without_numbers(paper).row | {'nfe': 512})
    other = point(5.0, 9.5, nfe=24, part='samplers')
    message = user_error(verdicts.Verdicts, [*PLAIN, lost, other])
    assert "paper's sampler at w = 0.3" in message


def test_the_papers_sampler_is_known_by_its_name():
    """With few steps of its own, others take more evaluations."""
    paper = point(10.0, 9.5, w=0.3, nfe=PAPERS, seed=1, part='samplers')
    paper = paper._replace(row=paper.row | {'nfe': 40})
    heun = point(5.0, 9.6, w=0.3, nfe=50, seed=2, part='samplers')
    assert verdicts.Verdicts([*PLAIN, heun, paper]).paper is paper
    for options in (OPTIONS, argparse.Namespace(num_steps=8, paper_steps=2, w=1.0)):
        every = settings.all_settings(make_tiny_config(), options)
        [own] = [setting for setting in every if settings.is_papers(setting)]
        assert (own.num_steps, own.strengths) == (options.paper_steps, (options.w,))
        assert all(len(set(each.strengths)) == len(each.strengths) for each in every)


def test_an_overflow_is_measured_as_a_point(tmp_path, monkeypatch):
    """Of a weight that is too large for single precision."""

    class Few(Means):
        def apply(self, params, images):
            return super().apply(params, images)._replace(spatial=None)

    config = make_tiny_config(sampler__clip=False, sweep__metrics=('fid', 'is'))
    with toy_instead_of_networks():
        loop.train(config, tmp_path / 'model')
        paths = argparse.Namespace(main=tmp_path / 'model')
        bench = measurement.Bench(config, epath.Path(tmp_path), paths, Few())
        setting = Setting('rules', 'classifier_free', 'ddim', 3, 'schedule', (1.0, 1e38))
        good, lost = bench.measure(setting)
        params, _, _ = loading.load_params(tmp_path / 'model')
    assert (good.valid, lost.valid) == (True, False)
    assert good.influences.keys() == {'fid', 'is'}
    assert lost.influences == {}
    assert np.isnan(lost.fid)
    assert lost.row['images_not_finite'] == 40
    assert lost.row['nfe'] == 6
    main = bench.record['networks']['main']
    assert main['weights_sha256'] == export.sha256_of_params(params)
    assert main['checkpoint_step'] == config.train.steps
    assert bench.record['features'] == Few().provenance()
    assert len(bench.record['reference']['sha256']) == 64


def test_all_points_together():
    paper = point(10.0, 9.5, nfe=512, seed=20, part='samplers')
    rule = point(4.0, 9.5, rule='interval', seed=9)
    lost = without_numbers(point(float('nan'), float('nan'), rule='projected'))
    found = verdicts.Verdicts([*PLAIN, rule, lost, paper])
    assert found.points == [*PLAIN, rule, lost, paper]
    assert found.valid == [*PLAIN, rule, paper]
    assert found.paper is paper
    assert list(found.rules) == ['interval']
    assert [each.point for each in found.cheaper] == [rule]


def test_every_rule_and_sampler_is_measured_or_said_not_to_be():
    found = settings.all_settings(make_tiny_config(), OPTIONS)
    rules = {s.rule.partition(':')[0] for s in found if s.part == 'rules'}
    assert rules | settings.NOT_MEASURED.keys() == set(RULES)
    assert not rules & settings.NOT_MEASURED.keys()
    samplers = {s.sampler.partition(':')[0] for s in found if s.part == 'samplers'}
    assert samplers | {'flow_heun', 'flow_sde'} == set(SAMPLERS)  # those are for models of flows
    assert len({s.slug() for s in found}) == len(found)
    for setting in found:
        rule = make_rule(setting.rule)
        needed = {e.network for e in rule.evaluations} - {'main'}
        assert needed == ({setting.network} if setting.network else set())
        config = setting.config(make_tiny_config())
        assert (config.sampler.num_steps, config.sampler.grid) == (setting.num_steps, setting.grid)
        name = setting.sampler.partition(':')[0]
        assert SAMPLERS.load(name).shifts_mean or not rule.ancestral_only
        assert SAMPLERS.load(name).renoises or not rule.renoises


def test_what_is_together_costs_a_tenth():
    options = argparse.Namespace(num_steps=20, paper_steps=256, w=0.3)
    every = settings.all_settings(make_tiny_config(), options)
    together = [setting for setting in every if setting.part == 'together']
    assert len(together) == 6  # three rules, two samplers
    for setting in together:
        calls = setting.num_steps * (2 if setting.sampler == 'heun' else 1)
        calls -= setting.sampler == 'heun'
        most = calls * make_rule(setting.rule).nfe_per_level(1.0)
        assert 10 * most <= 2 * 256 * 1.0


def test_an_extractor_without_logits_is_refused_before_anything_is_sampled(tmp_path):
    class WithoutLogits(Means):
        def apply(self, params, images):
            return super().apply(params, images)._replace(logits=None)

    config = make_tiny_config(data__channels=3)
    message = user_error(measurement.Bench, config, tmp_path, None, WithoutLogits())
    assert 'means gives no logits' in message
    assert 'sweep.features=inception' in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('change', [{'sweep__bootstrap': 0}, {'sweep__metrics': ('is',)}])
def test_a_sweep_without_what_is_compared_is_refused(tmp_path, change):
    config = make_tiny_config(**change)
    message = user_error(measurement.Bench, config, tmp_path, None, Means())
    assert 'sweep.bootstrap' in message
    assert 'sweep.metrics' in message
    assert not list(tmp_path.iterdir())


def few_settings(config, options):
    return [
        Setting('rules', 'classifier_free', 'ddim', 3, 'schedule', (1.0, 2.0)),
        Setting('rules', 'autoguidance', 'ddim', 3, 'schedule', (1.0,), 'guide'),
        Setting('samplers', 'classifier_free', 'ancestral', 30, 'schedule', (1.0,)),
        Setting('together', 'classifier_free', 'dpmpp_2m', 3, 'edm', (1.0,)),
    ]


@pytest.mark.skipif(
    not os.environ.get('CFG_JAX_SLOW'),
    reason='half a minute; CFG_JAX_SLOW=1 pytest tests/experiments/test_guidance_zoo.py runs it',
)
def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(settings, 'all_settings', few_settings)
    monkeypatch.setattr(classifier, '_EPOCHS', 20)
    monkeypatch.chdir(ROOT)
    main, root = experiment('guidance_zoo').main, f'--root={tmp_path}'
    with toy_instead_of_networks():
        main([root, *tiny_arguments(['sweep.w', 'sampler.num_steps'], train__steps=2)])
        shown = capsys.readouterr().out
        results = json.loads((tmp_path / 'results' / 'results.json').read_text())
        assert [p['w'] for p in results['points']] == [1.0, 2.0, 1.0, 1.0, 1.0]
        assert set(results['rules']) == {'autoguidance'}
        assert set(results['networks']) == {'main', 'guide'}
        assert (tmp_path / 'results' / 'rules.md').read_text() in shown
        assert (tmp_path / 'results' / 'table.md').read_text().count('\n| ') == 5
        for name in ('zoo.png', 'samplers.png'):
            assert Image.open(tmp_path / 'results' / name).width > 800
        # Again, on the trained model and without a guide: finished samples are not made again.
        monkeypatch.setattr('cfg_jax.inference.Model.generate', None)
        main([root, f'--model={tmp_path}/model'])
    again = json.loads((tmp_path / 'results' / 'results.json').read_text())
    assert again['left_out'] == ['autoguidance: no guide was given']
    others = [p for p in results['points'] if p['rule'] != 'autoguidance']
    assert again['points'] == others
