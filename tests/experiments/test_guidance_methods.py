"""Classifier guidance beside classifier-free: selection, costs, and the command at toy size."""

import json

import numpy as np
import pytest
from PIL import Image
from support import (
    ROOT,
    experiment,
    make_tiny_config,
    run_here,
    tiny_arguments,
    toy_second_branch,
    user_error,
)

from cfg_jax import config_fields
from cfg_jax.evaluation import results as results_lib
from cfg_jax.metrics.features import classifier

methods = experiment('classifier_guidance_parts.methods')

COMMAND = 'experiments/classifier_guidance.py'
LISTS = ('--w=0,1', '--scales=2', '--ratios=1,2')


def arguments(root):
    known = config_fields.fields('classifier')
    of_classifier = [a.replace('--config.', '--classifier.') for a in tiny_arguments()]
    of_classifier = [a for a in of_classifier if a[len('--classifier.') : a.index('=')] in known]
    return [
        f'--root={root}',
        '--preset=digits',
        *LISTS,
        *tiny_arguments(['sweep.w']),
        *of_classifier,
    ]


def test_likeliest_of_each_class():
    log_probs = np.log([[0.7, 0.3], [0.2, 0.8], [0.9, 0.1], [0.5, 0.5]])
    chosen = methods.likeliest(log_probs, np.array([0, 1, 0, 1]))
    assert chosen.tolist() == [2, 1, 0, 3]
    message = user_error(methods.likeliest, log_probs, np.zeros(5, int))
    assert '5 images of a class are asked for out of 4' in message


def test_a_larger_pool_is_more_likely():
    log_probs = np.log(np.random.default_rng(0).dirichlet(np.ones(3), size=400))
    labels = np.arange(30) % 3

    def mean(count):
        return log_probs[methods.likeliest(log_probs[:count], labels), labels].mean()

    assert mean(30) < mean(100) < mean(400)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """The command, with toys for networks."""
    from support import toy_instead_of_networks

    root = tmp_path_factory.mktemp('methods') / 'root'
    with toy_instead_of_networks(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, '_EPOCHS', 20)
        command = experiment('classifier_guidance')
        patch.chdir(ROOT)
        command.main(arguments(root))
    return root


def test_one_command_shows_all_methods_with_their_cost(root):
    results = json.loads((root / 'results.json').read_text())
    assert results['config']['data']['name'] == 'digits'
    assert 'versions' in results
    methods = {method['name']: method for method in results['methods']}
    for method in results['methods']:
        held = method['provenance']
        assert held['checkpoint_step'] == 6
        assert len(held['weights_sha256']) == len(held['reference']['sha256']) == 64
    assert len(methods) == 7
    counts = {name: len(method['rows']) for name, method in methods.items()}
    assert counts['classifier-free, ancestral'] == 2
    assert counts['classifier on conditional, mean shift, ancestral'] == 1
    assert counts['classifier on unconditional, eps shift, DDIM'] == 2  # scale 0 too
    for method in methods.values():
        for row in method['rows']:
            assert np.isfinite([row['fid'], row['is'], row['class_agreement']]).all()
            assert row['seconds'] > 0
    table = (root / 'table.md').read_text()
    assert table.count('\n| ') == sum(counts.values())
    assert '| NFE | classifier gradients | GFLOP | ms |' in table
    assert Image.open(root / 'tradeoff.png').width > 1000


def test_costs_follow_from_steps(root, toy_networks):
    """T = 4: one evaluation a step alone, two for classifier-free guidance; of a classifier's two
    one is a gradient."""
    results = json.loads((root / 'results.json').read_text())
    for method in results['methods']:
        for row in method['rows']:
            cost = row['nfe'], row['classifier_gradients']
            if method['strength'] == 'ratio':
                assert cost == (4 * row['strength'], 0)
            elif row['strength'] == 0:
                assert cost == (4, 0)
            elif method['strength'] == 'w':
                assert cost == (8, 0)
            else:
                assert cost == (8, 4)
    free = next(m for m in results['methods'] if m['name'] == 'classifier-free, ancestral')
    by_strength = {row['strength']: row['gflop'] for row in free['rows']}
    second_branches = 4 * toy_second_branch(make_tiny_config()) / 1e9
    assert by_strength[1.0] - by_strength[0.0] == pytest.approx(second_branches)


def test_records_of_the_first_edition_are_understood(root):
    """Its samples are continued: the rule and the classifier that it recorded are the same."""
    first = json.loads((ROOT / 'results' / 'classifier_guidance' / 'results.json').read_text())
    now = json.loads((root / 'results.json').read_text())
    records = {method['name']: method['provenance'] for method in now['methods']}
    compared = 0
    for method in first['methods']:
        if 'features' not in method['provenance']:
            continue  # the pool's row names the model alone
        old = results_lib.comparable(method['provenance'])
        new = results_lib.comparable(records[method['name']])
        assert old.get('guidance') == new.get('guidance'), method['name']
        assert old.keys() & {'classifier_guidance'} == set()
        if 'guidance' in new:
            assert old['guidance_network'].keys() == new['guidance_network'].keys()
            compared += 1
        assert old['sampler']['name'] == new['sampler']['name']
    assert compared == 4


def test_again_costs_no_sampling(root, capsys, toy_networks, monkeypatch):
    monkeypatch.setattr(methods, 'seconds_per_image', lambda model, w: 1.0)
    status, out, _ = run_here(capsys, COMMAND, *arguments(root))
    assert status == 0
    assert not [line for line in out if 'images/s' in line]


def test_mistakes(root, capsys, toy_networks):
    status, _, err = run_here(capsys, COMMAND, *arguments(root), '--classifier.widht=3')
    assert status == 2
    assert "no field 'widht'" in err[0]
    assert "did you mean 'model.width'?" in err[0]
    status, _, err = run_here(capsys, COMMAND, '--preset=tiny')
    assert status == 2
    assert '--data' in err[0]


def test_a_pool_belongs_to_its_sampler(root, toy_networks):
    """Samples of other settings in the same place are refused, not taken for these."""
    config = make_tiny_config(sampler__num_steps=5)
    extractor = classifier.load_or_train(config, root / 'classifier')
    paths = methods.Workdirs(root / 'model', root / 'noisy_classifier')
    arguments = config, paths, (1.0,), root, extractor
    message = user_error(methods.filtered, *arguments)
    assert str(root / 'pool') in message
    assert 'sampler.num_steps: 4 -> 5' in message
