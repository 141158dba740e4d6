"""Which rules can guide which networks: what was never trained, or is not seen, does not guide."""

import numpy as np
import pytest
from PIL import Image
from support import make_tiny_config, user_error

from cfg_jax import inference, model_checks
from cfg_jax.evaluation import sweep
from cfg_jax.guidance import RULES, make_rule
from cfg_jax.training.pictures import Pictures
from cfg_jax.training.step import create_state

pytestmark = pytest.mark.usefixtures('toy_networks')

LABELS = [3, 7]
NO_NULL = {'p_uncond': 0.0}
NO_CLASS = {'p_uncond': 1.0}
NO_CONDITION = {'condition': 'unconditional', 'p_uncond': 0.0}
# What asks a network of labels for its null, and what differs from no guidance elsewhere.
OF_THE_NULL = ['classifier_free', 'projected', 'cfg_plus_plus', 'tangential_damping']
OF_THE_NULL += ['cfg_zero_star', 'classifier_free+rescale', 'composition:labels=3/7']
BESIDE_THE_CONDITION = ['autoguidance', 'time_step', 'perturbed_attention', 'smoothed_energy']
BESIDE_THE_CONDITION += ['skip_layer', 'classifier_mean', 'classifier_eps:conditional=false']


def model_of(rule='classifier_free', **changes):
    config = make_tiny_config(sampler__name='ddim', sampler__num_steps=2, **changes)
    return inference.Model(config, {'main': create_state(config).params}, rule=make_rule(rule))


@pytest.mark.parametrize('rule', OF_THE_NULL)
def test_a_null_that_was_never_dropped_to_is_none(rule):
    config = make_tiny_config(**NO_NULL)
    message = model_checks.refusal(make_rule(rule), config, 1.0)
    assert 'needs a null condition, which this network was not trained with' in message
    assert model_checks.refusal(make_rule(rule), make_tiny_config(p_uncond=0.01), 1.0) is None
    for other in ('independent', *BESIDE_THE_CONDITION):
        refused = model_checks.refusal(make_rule(other), config, 1.0) is not None
        assert refused == other.endswith('conditional=false'), other


def test_a_model_without_a_trained_null_is_sampled_unguided():
    model = model_of(**NO_NULL)
    assert 'needs a null condition' in user_error(model.sample, LABELS, 1.0)
    assert 'needs a null condition' in user_error(model.trajectory, LABELS, [0.0, 1.0])
    unguided = model.sample(LABELS, 0.0)
    np.testing.assert_array_equal(model.sample(LABELS, [0.0, 0.0]), unguided)
    np.testing.assert_array_equal(model_of().sample(LABELS, 0.0), unguided)
    assert (model.sample(LABELS, 2.0, guidance='independent') != unguided).any()


@pytest.mark.parametrize('rule', ['classifier_free', 'independent', 'projected+interval'])
def test_a_network_without_a_condition_is_not_guided_by_one(rule):
    """It took twice the evaluations for the same images."""
    model = model_of(rule, **NO_CONDITION)
    for message in (
        user_error(model.sample, LABELS, 2.0),
        user_error(model.sample, LABELS, [0.0, 2.0]),
    ):
        assert 'differs from no guidance by the condition alone' in message
        for other in ('perturbed_attention', 'autoguidance', 'classifier_mean', 'w=0'):
            assert other in message
    generated = model.generate(0, range(2), np.int32(LABELS), 0.0)
    assert generated.nfe.tolist() == [2, 2]
    for other in BESIDE_THE_CONDITION:
        assert model_checks.refusal(make_rule(other), model.config, 2.0) is None, other


def test_a_network_without_any_class_gives_unconditional_images():
    model = model_of(**NO_CLASS)
    for w in (0.0, 1.0, [-1.0, 0.0]):
        assert 'was trained without any (p_uncond=1)' in user_error(model.sample, LABELS, w)
    for other in ('interval:highest=1', 'schedule', 'cfg_plus_plus', 'rescale'):  # need a class
        assert model_checks.refusal(make_rule(other), model.config, -1.0) is not None, other
    images = model.sample(LABELS, -1.0)
    np.testing.assert_array_equal(images, model.sample([1, 2], -1.0))


@pytest.mark.parametrize('rule', RULES)
@pytest.mark.parametrize('w', [0.0, 2.0, (-1.0, 3.0)])
def test_what_was_trained_is_guided_by_every_rule(rule, w):
    assert model_checks.refusal(make_rule(rule), make_tiny_config(), w) is None


@pytest.mark.parametrize(
    ('changes', 'columns'),
    [
        ({}, 3),
        (NO_NULL, 1),
        (NO_NULL | {'guidance__rule': 'independent'}, 3),
        (NO_CONDITION, 1),
        (NO_CLASS, 1),
        (NO_CLASS | {'guidance__rule': 'independent'}, 1),
        ({'condition': 'label_only', 'p_uncond': 0.0}, 1),
    ],
)
def test_training_goes_on_without_guided_pictures(tmp_path, changes, columns):
    config = make_tiny_config(**changes)
    Pictures(config, tmp_path).draw(4, create_state(config).params)
    width, height = Image.open(tmp_path / 'samples' / 'step_00000004.png').size
    factor = width // (9 * columns - 1)
    assert (width, height) == (factor * (9 * columns - 1), factor * 89)


def test_a_sweep_is_refused_before_its_first_image(workdir, monkeypatch):
    monkeypatch.setattr(inference.Model, 'generate', None)
    config = make_tiny_config(**NO_NULL)
    assert 'needs a null condition' in user_error(sweep.run, config, workdir, name='new')
    assert not (workdir / 'sweep' / 'new').exists()
