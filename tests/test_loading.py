"""Models of work directories: two networks together, and how they may not fit."""

import functools
import shutil

import numpy as np
import pytest
from support import (
    CLASSIFIER,
    checkpoint_arrays,
    make_tiny_config,
    toy_instead_of_networks,
    toy_second_branch,
    user_error,
)

import cfg_jax
from cfg_jax import config as config_lib, loading
from cfg_jax.errors import UserError
from cfg_jax.explorer.studio import Studio
from cfg_jax.guidance.interval import Interval
from cfg_jax.perf import cost
from cfg_jax.samplers.ancestral import Ancestral
from cfg_jax.training import loop, workdirs


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Work directories of a toy U-Net and a toy classifier, trained for a few steps."""
    root = tmp_path_factory.mktemp('runs')
    with toy_instead_of_networks():
        loop.train(make_tiny_config(), root / 'unet')
        loop.train(make_tiny_config(CLASSIFIER), root / 'classifier')
    return root


def guided(runs, config=None, form='mean', conditional=True):
    return loading.load(
        runs / 'unet',
        config=config,
        guidance=f'classifier_{form}:conditional={conditional}',
        guidance_network=runs / 'classifier',
    )


def images_of(model, labels, w):
    return np.asarray(model.generate(0, labels, np.int32(labels), w).x)


def test_the_door_of_the_library(runs, toy_networks):
    assert cfg_jax.load is loading.load
    model = cfg_jax.load(str(runs / 'unet'))
    assert isinstance(model, cfg_jax.Model)
    assert model.sample([3, 3, 7], w=3.0, seed=0).shape == (3, 8, 8, 1)


def test_classes_have_the_names_that_they_were_trained_under(runs, toy_networks):
    """Whatever the data set calls them by now."""
    path = runs / 'unet' / 'classes.json'
    kept = path.read_text()
    path.write_text(kept.replace('"3"', '"trois"'))
    assert loading.load(runs / 'unet').class_names[2:5] == ['2', 'trois', '4']
    path.write_text(kept)


def test_another_config_is_given_to_load(runs, toy_networks):
    model = loading.load(runs / 'unet')
    with pytest.raises(AttributeError, match='immutable'):
        model.config.sampler.num_steps = 2
    config = config_lib.thawed(model.config)
    config.sampler.num_steps = 2
    changed = loading.load(runs / 'unet', config=config)
    assert (model.sampler.num_steps, changed.sampler.num_steps) == (4, 2)
    assert loading.load(runs / 'unet', config=model.config).sampler == model.sampler


def test_rules_and_samplers_are_names_or_themselves(runs, toy_networks):
    model, labels = loading.load(runs / 'unet'), [3, 7]
    rule, sampler = Interval(highest=5.0), Ancestral(num_steps=2, v=0.1)
    by_name = model.sample(labels, 2.0, guidance='interval:highest=5', sampler='ancestral:v=0.1')
    again = model.sample(labels, 2.0, guidance=rule, sampler='ancestral:v=0.1')
    np.testing.assert_array_equal(again, by_name)
    assert model.with_settings(sampler=sampler).sampler is sampler
    made = cfg_jax.Model(model.config, model.params, rule='interval:highest=5', sampler='ddim')
    assert (made.rule, made.sampler.num_steps) == (rule, model.sampler.num_steps)
    another = functools.partial(cfg_jax.Model, model.config)
    for wrong in (3, 0, Interval, ['interval']):
        for refused, name in ((model.with_settings, 'guidance'), (another, 'rule')):
            assert 'a guidance rule is a text' in user_error(refused, **{name: wrong})
            assert 'a sampler is a text' in user_error(refused, sampler=wrong)
        assert 'load takes the name of a rule' in user_error(
            loading.load, runs / 'unet', guidance=wrong
        )


def test_weights_are_the_ema_of_the_newest_checkpoint(runs, toy_networks):
    model = loading.load(runs / 'unet')
    saved = checkpoint_arrays(runs / 'unet', 6)
    (ema,) = [
        a
        for name, a in saved.items()
        if 'ema_params' in name and 'Conv_0' in name and 'kernel' in name
    ]
    np.testing.assert_array_equal(model.params['main']['params']['Conv_0']['kernel'], ema)
    assert model.provenance()['checkpoint_step'] == 6
    earlier = loading.load(runs / 'unet', step=3)
    assert earlier.provenance()['checkpoint_step'] == 3
    assert earlier.provenance()['weights_sha256'] != model.provenance()['weights_sha256']
    message = user_error(loading.load, runs / 'unet', step=4)
    assert '4' in message
    assert '3, 6' in message


def test_guided_by_a_trained_classifier(runs, toy_networks):
    plain = loading.load(runs / 'unet')
    model = guided(runs)
    labels = np.arange(6)
    x0 = images_of(plain, labels, 0.0)
    np.testing.assert_array_equal(images_of(model, labels, 0.0), x0)
    moved = np.abs(images_of(model, labels, 50.0) - x0).max(axis=(1, 2, 3))
    assert np.all(moved > 1e-3)
    unconditional = images_of(guided(runs, conditional=False), labels, 0.0)
    assert np.abs(unconditional - x0).max() > 1e-4


def test_a_guide_that_never_saw_a_class_is_refused(runs, toy_networks, tmp_path):
    other = tmp_path / 'no_class'
    config = loading.read_config(runs / 'unet')
    config.p_uncond = 1.0
    workdirs.create_or_validate_workdir(config, other)
    arguments = {'guidance': 'autoguidance', 'guidance_network': other}
    assert 'p_uncond=1 and never saw the classes' in user_error(
        lambda: loading.load(runs / 'unet', **arguments)
    )


def test_guided_by_another_checkpoint(runs, toy_networks):
    """Autoguidance by the model itself is the model; away from its null condition it is not."""
    model = loading.load(runs / 'unet', guidance='autoguidance', guidance_network=runs / 'unet')
    labels = np.arange(4)
    x0 = images_of(loading.load(runs / 'unet'), labels, 0.0)
    np.testing.assert_allclose(images_of(model, labels, 3.0), x0, rtol=0, atol=2e-3)
    free = images_of(loading.load(runs / 'unet'), labels, 3.0)
    assert np.abs(free - x0).max() > 1e-2


def test_operations_of_an_image(runs, toy_networks):
    """4 levels: a pass each, most of two if guided; a classifier's forward and backward pass."""
    plain, model = loading.load(runs / 'unet'), guided(runs)
    one_pass = cost.describe(make_tiny_config())['forward_gflop_per_image'] * 1e9
    assert plain.flops_per_image(0.0) == 4 * one_pass
    assert plain.flops_per_image(1.0) == 4 * (one_pass + toy_second_branch(make_tiny_config()))
    classifier = cost.describe(make_tiny_config(CLASSIFIER))['forward_gflop_per_image'] * 1e9
    gradients = model.flops_per_image(1.0) / 4 - one_pass
    # The backward pass towards z alone repeats each product once at most.
    assert classifier < gradients <= 2 * classifier


def test_provenance_names_both_networks(runs, toy_networks):
    found = guided(runs).provenance()
    plain = loading.load(runs / 'unet').provenance()
    assert found['weights_sha256'] == plain['weights_sha256']
    assert 'guidance' not in plain
    assert 'ClassifierMean' in found['guidance']
    assert 'conditional=True' in found['guidance']
    classifier = found['guidance_network']
    assert classifier['checkpoint_step'] == 6
    assert len(classifier['weights_sha256']) == 64
    assert classifier['weights_sha256'] != found['weights_sha256']


@pytest.mark.parametrize(
    ('kind', 'rule'), [('unet', 'autoguidance'), ('classifier', 'classifier_mean')]
)
def test_a_network_for_later_rules(runs, toy_networks, kind, rule):
    """The rule that a model is loaded with may need none: the explorer changes it."""
    model = loading.load(runs / 'unet', guidance_network=runs / kind)
    later = model.with_settings(rule)
    now = loading.load(runs / 'unet', guidance=rule, guidance_network=runs / kind)
    np.testing.assert_array_equal(images_of(later, [3], 2.0), images_of(now, [3], 2.0))
    offered = {each['name'] for each in Studio(model, 'tiny').description['rules']}
    assert rule in offered
    with pytest.raises(UserError):
        loading.load(runs / 'unet', guidance_network=runs / 'no such')


def test_networks_in_each_others_place(runs, toy_networks):
    message = user_error(loading.load, runs / 'classifier')
    assert 'holds a noisy classifier' in message
    message = user_error(
        loading.load, runs / 'unet', guidance='classifier_eps', guidance_network=runs / 'unet'
    )
    assert 'holds a diffusion model' in message
    message = user_error(
        loading.load, runs / 'unet', guidance='autoguidance', guidance_network=runs / 'classifier'
    )
    assert 'holds a noisy classifier' in message


def test_mean_shift_is_ancestral(runs, toy_networks):
    config = make_tiny_config(sampler__name='ddim')
    assert 'ancestral' in user_error(guided, runs, config)
    guided(runs, config, form='eps')


def test_a_rule_without_its_network(runs, toy_networks):
    message = user_error(loading.load, runs / 'unet', guidance='classifier_eps')
    assert '--guidance_network' in message


def test_networks_of_other_noise(runs, toy_networks, tmp_path):
    config = make_tiny_config(CLASSIFIER, diffusion__logsnr_max=15.0, train__steps=2)
    shutil.copytree(runs / 'unet', tmp_path / 'unet')
    loop.train(config, tmp_path / 'classifier')
    message = user_error(guided, tmp_path)
    assert 'diffusion.logsnr_max=15.0' in message
    assert str(tmp_path / 'classifier') in message


def test_labels_out_of_range(runs, toy_networks):
    message = user_error(guided(runs).sample, [3, 10], 1.0)
    assert 'label 10' in message
    assert '0..9' in message


def test_what_is_not_a_model(tmp_path, toy_networks):
    for path in (tmp_path, tmp_path / 'nowhere', str(tmp_path / 'nowhere.safetensors')):
        assert str(path) in user_error(loading.load, path)


def test_a_mistyped_file_is_not_to_be_trained(runs, tmp_path, toy_networks):
    for name in ('nope.pt', 'nope.pkl', 'nope.ckpt'):
        for given in (
            {'path': tmp_path / name},
            {
                'path': runs / 'unet',
                'guidance': 'autoguidance',
                'guidance_network': tmp_path / name,
            },
        ):
            message = user_error(loading.load, **given)
            assert message.startswith(f'there is no file or work directory {tmp_path / name};')
    for name in ('nope', 'p_uncond_0.1'):
        assert 'scripts/train.py' in user_error(loading.load, tmp_path / name)
