"""Models of work directories: two networks together, and the ways they may not fit."""

import shutil

import numpy as np
import pytest
from support import (
    CLASSIFIER,
    make_tiny_config,
    toy_instead_of_networks,
    toy_second_branch,
    user_error,
)

from cfg_jax import trained
from cfg_jax.perf import cost
from cfg_jax.training import loop


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Work directories of a toy U-Net and a toy classifier, trained for a few steps."""
    root = tmp_path_factory.mktemp('runs')
    with toy_instead_of_networks():
        loop.train(make_tiny_config(), root / 'unet', lambda line: None)
        loop.train(make_tiny_config(CLASSIFIER), root / 'classifier', lambda line: None)
    return root


def guided(runs, config=None, form='mean', conditional=True):
    return trained.ClassifierGuidedModel(
        runs / 'unet', runs / 'classifier', config, form=form, conditional=conditional
    )


def test_guided_by_a_trained_classifier(runs, toy_networks):
    plain = trained.TrainedModel(runs / 'unet')
    model = guided(runs)
    labels = np.arange(6)
    x0 = np.asarray(plain.generate(0, labels, labels, 0.0))
    np.testing.assert_array_equal(model.generate(0, labels, labels, 0.0), x0)
    moved = np.abs(np.asarray(model.generate(0, labels, labels, 50.0)) - x0).max(axis=(1, 2, 3))
    assert np.all(moved > 1e-3)
    unconditional = np.asarray(guided(runs, conditional=False).generate(0, labels, labels, 0.0))
    assert np.abs(unconditional - x0).max() > 1e-4


def test_log_probs_of_finished_images(runs, toy_networks):
    x = np.random.default_rng(0).uniform(-1, 1, size=(5, 8, 8, 1)).astype(np.float32)
    log_probs = np.asarray(guided(runs).log_probs(x))
    assert log_probs.shape == (5, 10)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1.0, rtol=1e-5)
    assert np.abs(log_probs[0] - log_probs[1]).max() > 1e-6


def test_operations_of_an_image(runs, toy_networks):
    """4 levels: a pass each, most of two if guided; a classifier's forward and backward pass."""
    plain, model = trained.TrainedModel(runs / 'unet'), guided(runs)
    one_pass = cost.describe(make_tiny_config())['forward_gflop_per_image'] * 1e9
    assert plain.flops_per_image(0.0) == 4 * one_pass
    assert plain.flops_per_image(1.0) == 4 * (one_pass + toy_second_branch(make_tiny_config()))
    classifier = cost.describe(make_tiny_config(CLASSIFIER))['forward_gflop_per_image'] * 1e9
    gradients = model.flops_per_image(1.0) / 4 - one_pass
    # The backward pass towards z alone repeats each product once at most.
    assert classifier < gradients <= 2 * classifier


def test_provenance_names_both_networks(runs, toy_networks):
    model = guided(runs)
    found = model.provenance()
    assert found['weights_sha256'] == trained.TrainedModel(runs / 'unet').weights_sha256()
    classifier = found['classifier_guidance']
    assert (classifier['form'], classifier['conditional']) == ('mean', True)
    assert classifier['checkpoint_step'] == 6
    assert len(classifier['weights_sha256']) == 64
    assert classifier['weights_sha256'] != found['weights_sha256']


def test_networks_in_each_others_place(runs, toy_networks):
    message = user_error(trained.TrainedModel, runs / 'classifier')
    assert 'holds a noisy classifier' in message
    message = user_error(
        trained.ClassifierGuidedModel, runs / 'unet', runs / 'unet', form='eps', conditional=True
    )
    assert 'holds a diffusion model' in message


def test_mean_shift_is_ancestral(runs, toy_networks):
    config = make_tiny_config(sampler__name='ddim')
    assert 'ancestral' in user_error(guided, runs, config)
    guided(runs, config, form='eps')


def test_networks_of_other_noise(runs, toy_networks, tmp_path):
    config = make_tiny_config(CLASSIFIER, diffusion__logsnr_max=15.0, train__steps=2)
    shutil.copytree(runs / 'unet', tmp_path / 'unet')
    loop.train(config, tmp_path / 'classifier', lambda line: None)
    message = user_error(guided, tmp_path)
    assert 'diffusion.logsnr_max=15.0' in message
    assert str(tmp_path / 'classifier') in message


def test_labels_out_of_range(runs, toy_networks):
    message = user_error(guided(runs).generate, 0, [0, 1], [3, 10], 1.0)
    assert 'label 10' in message
    assert '0..9' in message
