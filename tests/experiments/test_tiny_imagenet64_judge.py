"""The model that the real-images experiment measures, and the judge of its pictures."""

from argparse import Namespace

import jax.numpy as jnp
import numpy as np
import pytest
from support import CLASSIFIER, ROOT, experiment, make_tiny_config, user_error

from cfg_jax import config_files, loading
from cfg_jax.data import sources
from cfg_jax.evaluation import reference
from cfg_jax.evaluation.cache import Samples
from cfg_jax.metrics import frechet
from cfg_jax.metrics.features import Features
from cfg_jax.models import networks
from cfg_jax.training import export, loop, step as train_step


class Pixels:
    """In the place of the Inception: the pixels."""

    def apply(self, params, images):
        return Features(images.reshape(len(images), -1))

    def provenance(self):
        return {'sha256': 64 * '0'}


def test_the_judge_has_scores_of_its_own():
    """Its logits follow GoogLeNet's 1,000: certain and right in nine of ten images."""
    row_lib = experiment('tiny_imagenet64_parts.rows')
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    sure = 20.0 * np.eye(3)[np.where(np.arange(30) < 27, labels, (labels + 1) % 3)]
    logits = np.concatenate([rng.normal(size=(30, 1000)), sure], axis=1)
    features = Features(rng.normal(size=(30, 3)), logits, rng.normal(size=(30, 4)))
    real = reference.of_features(features, {})
    split = row_lib.RealImages(real, frechet.distance_from(real.spatial))
    config = make_tiny_config(data__num_classes=3, sweep__is_splits=1)
    row = row_lib.against(Samples(features, labels, nfe=4, not_finite=0), split, config).row
    assert row['class_agreement_judge'] == pytest.approx(0.9)
    assert row['is_judge'] == pytest.approx(3.0, rel=0.01)
    assert row['class_agreement'] < 0.5
    assert 'is_judge_se' in row


def test_the_judge_is_a_classifier_at_no_noise(toy_networks, tmp_path, monkeypatch):
    extractor = experiment('tiny_imagenet64_parts.extractor')
    config = make_tiny_config(CLASSIFIER)
    params = train_step.create_state(config).ema_params
    path = tmp_path / 'judge.safetensors'
    steps = config.train.steps
    export.write_model(path, params, config, steps - 1)
    assert f'is at step {steps - 1} of {steps}' in user_error(extractor.Judge, path, config)
    export.write_model(path, params, config, steps)
    judge = extractor.Judge(path, config)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, config.data.channels), np.uint8)
    logits = judge.logits(judge.params, images)
    logsnr = np.full(4, config.diffusion.logsnr_max, np.float32)
    expected = networks.make_noisy_classifier(config)(params, images / 127.5 - 1.0, logsnr)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    for name in ('num_classes', 'image_size'):
        other = config.copy_and_resolve_references()
        other.data[name] += 1
        assert f'with data.{name}=' in user_error(extractor.Judge, path, other)
    both = extractor.RealExtractor.__new__(extractor.RealExtractor)
    both.inception, both._judge, both._order = Pixels(), judge, np.arange(1000)
    both._record = {'sha256': 'of GoogLeNet'}
    monkeypatch.setattr(extractor.googlenet, 'logits', lambda net, x: jnp.ones((len(x), 1000)))
    found = both.apply(((), None, judge.params), jnp.asarray(images)).logits
    np.testing.assert_allclose(found[:, 1000:], logits, rtol=1e-4, atol=1e-5)
    assert found.shape[1] == 1000 + config.data.num_classes
    assert both.provenance()['judge_sha256'] == judge.sha256
    config = make_tiny_config()
    export.write_model(path, train_step.create_state(config).ema_params, config, 3)
    assert 'not a classifier' in user_error(extractor.Judge, path, config.data)


def test_a_model_is_measured_as_it_was_trained(toy_networks, tmp_path):
    exported = experiment('tiny_imagenet64_parts.exported')
    config, path = make_tiny_config(), tmp_path / 'model.safetensors'
    export.write_model(path, train_step.create_state(config).ema_params, config, 3)
    found = loading.read_config(path)
    exported.check(path, found, config, exported.OF_TRAINING)
    for change in ({'p_uncond': 0.3}, {'diffusion__logsnr_max': 9.0}, {'data__num_classes': 7}):
        (name,) = change
        message = user_error(
            exported.check, path, found, make_tiny_config(**change), exported.OF_TRAINING
        )
        assert f'was trained with {name.replace("__", ".")}=' in message


def test_a_model_is_exported_anew(toy_networks, tmp_path):
    """At the same step other weights may be there."""
    exported = experiment('tiny_imagenet64_parts.exported')
    hashes = set()
    for seed in (0, 1):
        loop.train(make_tiny_config(seed=seed, train__steps=1), tmp_path / str(seed))
        path = exported.of_workdir(tmp_path / str(seed), tmp_path / 'out')
        hashes.add(loading.load_params(path)[2]['weights_sha256'])
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ('main', 'expected'),
    [('t.py', 't.py:guide'), ('t.py:small', 't.py:guide'), ('t.py:cpu', 't.py:cpu_guide')],
)
def test_other_networks_are_of_the_main_models_size(main, expected):
    assert experiment('tiny_imagenet64_parts.sizes').variant(main, 'guide') == expected


@pytest.mark.parametrize('name', ['guide', 'classifier', 'judge'])
def test_other_networks_for_two_cores_see_the_same_patches_of_the_same_images(name):
    main, other = (
        config_files.load_config(f'{ROOT}/configs/tiny_imagenet32.py:{variant}')
        for variant in ('cpu', f'cpu_{name}')
    )
    assert other.model.patch == main.model.patch == 2
    assert other.data.image_size == main.data.image_size
    assert other.data.num_classes == main.data.num_classes


def test_the_toy_size_of_two_cores_is_the_toy_size():
    sizes = experiment('tiny_imagenet64_parts.sizes')
    options = Namespace(data=str(ROOT), preset='toy')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, 'label_names', lambda data: 200 * ['a'])
        for toy, cpu in (('', ':cpu'), (':guide', ':cpu_guide')):
            path = f'{ROOT}/configs/tiny_imagenet32.py'
            assert sizes.load(options, path + toy) == sizes.load(options, path + cpu)
