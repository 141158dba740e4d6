"""Each rule against its published formula, by hand or by NumPy, and at its neutral settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import test_rules_that_draw
from one_level import LABELS, direct, guided, network, normal

from cfg_jax import diffusion
from cfg_jax.errors import UserError
from cfg_jax.guidance import RULES, GuidanceLevel, make_rule
from cfg_jax.guidance.cfg_plus_plus import CFGPlusPlus
from cfg_jax.guidance.cfg_zero_star import CFGZeroStar
from cfg_jax.guidance.classifier_free import guide
from cfg_jax.guidance.frequency_decoupled import low_pass
from cfg_jax.guidance.guided import GuidedDenoiser
from cfg_jax.guidance.rescale import rescale
from cfg_jax.guidance.schedule import KINDS, WeightSchedule
from cfg_jax.guidance.tangential_damping import damp
from cfg_jax.guidance.threshold import threshold
from cfg_jax.models.denoiser import Denoiser
from cfg_jax.samplers.ddim import DDIM
from cfg_jax.samplers.grids import FlowGrid, LogSNRGrid
from cfg_jax.samplers.loop import sample_loop

NEUTRAL = {
    'interval': 'interval',
    'schedule': 'schedule:kind=constant',
    'rescale': 'rescale:phi=0',
    'channels': 'channels',
    'negative': 'negative:keep_null=true,strength=0',
    'composition': 'composition',
    'projected': 'projected:eta=1',
    'cfg_zero_star': 'cfg_zero_star:zero=0,optimised=false',
    'tangential_damping': 'tangential_damping:share=1',
    'frequency_decoupled': 'frequency_decoupled:low=1,high=1',
}


@pytest.mark.parametrize('spec', NEUTRAL.values())
def test_neutral_settings_are_the_papers_rule(spec):
    w = [0.0, 0.3, 1.0, 4.0]  # one per image
    expected = guided('classifier_free', w)[0].eps
    np.testing.assert_allclose(guided(spec, w)[0].eps, expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize('spec', ['classifier_free', 'composition:labels=2', 'independent'])
def test_rules_whose_weights_sum_to_one_do_not_depend_on_the_space(spec):
    """combine() of x-predictions, converted back, is combine() of eps-predictions."""
    rule, z, logsnr = make_rule(spec), normal(0), jnp.float32(0.4)
    level = GuidanceLevel(z, logsnr, jax.random.split(jax.random.key(0), 4))
    eps = tuple(normal(i) for i in range(1, 1 + len(rule.evaluations)))
    w = jnp.asarray([0.1, 1.0, 2.0, 3.0])
    in_eps, _ = rule.combine(level, w, eps, ())
    x = tuple(diffusion.x_from_eps(z, e, logsnr) for e in eps)
    in_x, _ = rule.combine(level, w, x, ())
    np.testing.assert_allclose(diffusion.eps_from_x(z, in_x, logsnr), in_eps, rtol=0, atol=2e-5)


def test_x_of_a_velocity_keeps_its_digits_at_noise():
    """At alpha = 6e-6, where x from eps has an error of 0.01: (z - sigma u) / (alpha + sigma)."""
    logsnr, w, velocity = -24.0, 1.5, {'main': Denoiser(network, diffusion.VELOCITY)}
    z, alpha, sigma = normal(0), np.exp(-12.0), 1.0  # to float32
    u_cond, u_null = (np.float64(direct(c, logsnr)) for c in ((3, 3, 7, 1), 10))
    both = (1 + w) * u_cond - w * u_null
    for spec, u in (
        ('classifier_free', both),
        ('independent+interval:highest=9', u_cond),  # inactive, in a condition
        ('classifier_free+channels:count=3', both),
    ):
        found = guided(spec, w, logsnr=logsnr, networks=velocity)[0]
        expected = (np.float64(z) - sigma * u) / (alpha + sigma)
        np.testing.assert_allclose(found.to_x(z, logsnr), expected, rtol=0, atol=2e-5)
    found = guided('rescale+interval:highest=9', w, logsnr=logsnr, networks=velocity)[0]
    assert found.x is None


def test_rescaling_depends_on_the_space():
    z, logsnr, eps, cond = normal(0), jnp.float32(0.4), normal(1), normal(2)
    in_eps = rescale(eps, cond, 0.7)
    x, x_cond = (diffusion.x_from_eps(z, e, logsnr) for e in (eps, cond))
    in_x = diffusion.eps_from_x(z, rescale(x, x_cond, 0.7), logsnr)
    assert np.abs(in_x - in_eps).max() > 0.01


@pytest.mark.parametrize('kind', KINDS)
def test_schedules_rise_toward_the_image_and_have_mean_one(kind):
    u = (np.arange(20_000) + 0.5) / 20_000
    factor = np.asarray(WeightSchedule(kind, power=2.0).factor(u), np.float64)
    assert np.mean(factor) == pytest.approx(1.0, abs=1e-4)
    assert np.all(np.diff(factor) <= 1e-5)  # u = 1 is noise
    plain = np.asarray(WeightSchedule(kind, power=2.0, normalise=False).factor(u))
    assert plain.max() == pytest.approx(1.0, abs=1e-3)


def test_schedules_by_hand():
    u = jnp.asarray([0.25, 1.0])

    def of(**options):
        return np.asarray(WeightSchedule(**options).factor(u))

    np.testing.assert_allclose(of(kind='linear'), [1.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(of(kind='cosine'), [1 + np.sqrt(0.5), 0.0], atol=1e-6)
    np.testing.assert_allclose(of(kind='linear', minimum=0.4), [1.5, 0.4], atol=1e-6)
    half = 0.5 * (1 - np.cos(np.pi * 0.75**3))
    np.testing.assert_allclose(
        of(kind='powered_cosine', power=3.0, normalise=False), [half, 0.0], atol=1e-6
    )
    expected = np.exp([-0.5, -2.0]) * 2 / (1 - np.exp(-2.0))
    np.testing.assert_allclose(of(kind='exponential', rate=2.0), expected, rtol=1e-5)


def test_a_schedule_changes_w_at_the_level():
    logsnr = 1.3
    factor = WeightSchedule('cosine').factor(diffusion.u_cosine(logsnr))
    expected = guided('classifier_free', 2.0 * factor, logsnr=logsnr)[0].eps
    found = guided('schedule:kind=cosine', 2.0, logsnr=logsnr)[0].eps
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_rescale_gives_the_conditional_deviation():
    cond, tilde = normal(1), 3.0 * normal(2) + 1.0
    whole = np.asarray(rescale(tilde, cond, 1.0))
    np.testing.assert_allclose(whole.std((1, 2, 3)), np.asarray(cond).std((1, 2, 3)), rtol=1e-5)
    half = 0.5 * whole + 0.5 * np.asarray(tilde)
    np.testing.assert_allclose(rescale(tilde, cond, 0.5), half, rtol=1e-5)


def test_dynamic_threshold_against_numpy():
    x = 3.0 * normal(4)
    found = np.asarray(threshold(x, 0.9))
    for i, image in enumerate(np.asarray(x)):
        s = max(1.0, np.quantile(np.abs(image), 0.9))
        np.testing.assert_allclose(found[i], np.clip(image, -s, s) / s, rtol=1e-5)
    np.testing.assert_array_equal(threshold(x, 0.0), np.clip(x, -1, 1))
    small = 0.2 * x / np.abs(x).max()
    np.testing.assert_array_equal(threshold(small, 0.9), small)


def test_threshold_clips_the_guided_x():
    z, logsnr = 5.0 * normal(0), 0.7
    plain = guided('classifier_free', 3.0, z=z)[0].eps
    found = guided('threshold:quantile=0', 3.0, z=z)[0].eps
    x = np.clip(diffusion.x_from_eps(z, plain, logsnr), -1, 1)
    np.testing.assert_allclose(found, diffusion.eps_from_x(z, x, logsnr), rtol=1e-4, atol=1e-5)


def test_guidance_of_some_channels():
    cond, null = direct((3, 3, 7, 1)), direct(10)
    found = np.asarray(guided('classifier_free+channels:count=2', 2.0)[0].eps)
    np.testing.assert_allclose(found[..., :2], (3 * cond - 2 * null)[..., :2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[..., 2], cond[..., 2], rtol=1e-4, atol=1e-5)
    found = guided('cfg_plus_plus+channels:count=1', 0.6)[0]
    np.testing.assert_allclose(found.renoise[..., :1], null[..., :1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.renoise[..., 1:], cond[..., 1:], rtol=1e-4, atol=1e-5)
    rule, pair = make_rule('classifier_mean'), (cond, null)
    expected = rule.mean_gradient(jnp.ones(4), pair)
    rule = make_rule('classifier_mean+channels:count=1')
    gradient = rule.mean_gradient(jnp.ones(4), pair)
    np.testing.assert_array_equal(gradient[..., :1], expected[..., :1])
    assert not np.any(gradient[..., 1:])
    assert np.any(expected[..., 1:])


def test_negative_condition():
    cond, null, negative = direct((3, 3, 7, 1)), direct(10), direct(5)
    found = guided('negative:label=5', 2.0)[0].eps
    np.testing.assert_allclose(found, 3 * cond - 2 * negative, rtol=1e-4, atol=1e-5)
    found = guided('negative:label=5,keep_null=true,strength=0.5', 2.0)[0].eps
    expected = 3 * cond - 2 * null - 0.5 * (negative - null)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_composition_of_and_with_not():
    cond, null, two, four = direct((3, 3, 7, 1)), direct(10), direct(2), direct(4)
    found, state = guided('composition:labels=2/4,weights=1.5/-0.5', 1.0)
    expected = null + 2 * (cond - null) + 1.5 * (two - null) - 0.5 * (four - null)
    np.testing.assert_allclose(found.eps, expected, rtol=1e-4, atol=1e-5)
    assert state.nfe == 4


@pytest.mark.parametrize('name', ['perturbed_attention', 'smoothed_energy', 'skip_layer'])
def test_perturbed_model_stands_for_the_null(name):
    cond = direct((3, 3, 7, 1))
    found, state = guided(name, 2.0)
    np.testing.assert_allclose(found.eps, 3 * cond - 2 * 0.5 * cond, rtol=1e-4, atol=1e-5)
    assert state.nfe == 2


def test_autoguidance():
    cond = direct((3, 3, 7, 1))
    found = guided('autoguidance', 2.0)[0].eps
    np.testing.assert_allclose(found, 3 * cond - 2 * 0.9 * cond, rtol=1e-4, atol=1e-5)


def test_cfg_zero_star_projects_the_unconditional_velocity():
    rule = CFGZeroStar(zero=0.1)
    cond, uncond = np.asarray(normal(1)), np.asarray(normal(2))
    level = GuidanceLevel(normal(0), jnp.float32(0.0), None)
    found, _ = rule.combine(level, jnp.float32(1.5), (cond, uncond), ())
    for i in range(4):
        a = np.vdot(cond[i], uncond[i]) / np.vdot(uncond[i], uncond[i])
        np.testing.assert_allclose(found[i], 2.5 * cond[i] - 1.5 * a * uncond[i], atol=1e-4)
    noise = GuidanceLevel(normal(0), jnp.float32(-19.0), None)
    assert not np.any(rule.combine(noise, jnp.float32(1.5), (cond, uncond), ())[0])


def test_cfg_zero_star_leaves_out_a_share_of_the_steps_of_a_flow():
    """Published: the first 4 % of steps that are uniform in t; of 130 steps six."""
    ones = np.ones((1, 2, 2, 1), np.float32)
    levels = FlowGrid(diffusion.CosineSchedule(-20.0, 20.0), last=1 / 130).levels(130)
    moving = []
    for logsnr in levels:
        level = GuidanceLevel(ones, logsnr, None)
        found, _ = CFGZeroStar().combine(level, jnp.float32(1.5), (ones, ones), ())
        moving.append(bool(np.any(found)))
    assert moving == [False] * 6 + [True] * 124


def test_tangential_damping_against_an_svd():
    cond, uncond = np.asarray(normal(1)), np.asarray(normal(1) + 0.3 * normal(2))
    found = np.asarray(damp(cond, uncond, 0.0))
    for i in range(4):
        _, _, vh = np.linalg.svd(np.stack([cond[i].ravel(), uncond[i].ravel()]).astype(float))
        expected = np.dot(uncond[i].ravel(), vh[0]) * vh[0]
        np.testing.assert_allclose(found[i].ravel(), expected, atol=1e-4)


def test_low_pass_against_scipy():
    image = np.asarray(normal(3))
    taps = np.array([1, 4, 6, 4, 1]) / 16
    expected = scipy.ndimage.convolve1d(image, taps, axis=1, mode='nearest')
    expected = scipy.ndimage.convolve1d(expected, taps, axis=2, mode='nearest')
    np.testing.assert_allclose(low_pass(image), expected, rtol=1e-4, atol=1e-6)


def test_frequency_bands_have_their_own_weights():
    cond, null = direct((3, 3, 7, 1)), direct(10)
    difference = cond - null
    low = low_pass(difference)
    found = guided('frequency_decoupled:low=0.2,high=2', 1.5)[0].eps
    expected = cond + 1.5 * (0.2 * low + 2 * (difference - low))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_cfg_plus_plus_is_guidance_with_a_scale_of_the_step():
    """One step equals DDIM under s = w / (1 - exp(-(logsnr' - logsnr) / 2))."""
    z, w, logsnr, prime = normal(0), 0.6, jnp.float32(-0.8), jnp.float32(0.5)
    cond, null = direct((3, 3, 7, 1)), direct(10)
    rule, level = CFGPlusPlus(), GuidanceLevel(z, logsnr, None)
    eps, _ = rule.combine(level, jnp.float32(w), (cond, null), ())
    x = diffusion.x_from_eps(z, eps, logsnr)
    found = diffusion.q_sample(x, prime, rule.renoise(jnp.float32(w), (cond, null)))
    scale = w / (1 - np.exp(-(float(prime) - float(logsnr)) / 2))
    guided_eps = guide(cond, null, scale - 1)
    expected = diffusion.q_sample(diffusion.x_from_eps(z, guided_eps, logsnr), prime, guided_eps)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_ddim_takes_the_eps_that_cfg_plus_plus_gives():
    grid = LogSNRGrid(diffusion.CosineSchedule(-1.0, 1.0))
    sampler = DDIM(num_steps=2, clip=False, grid=grid)
    keys = jax.random.split(jax.random.key(5), 4)
    label = jnp.asarray((3, 3, 7, 1))
    bound = GuidedDenoiser(
        CFGPlusPlus(),
        {'main': Denoiser(network)},
        {'main': ()},
        LABELS,
        label,
        keys,
        jnp.full(4, 0.6),
    )
    z, low, high = normal(0), jnp.float32(-1.0), jnp.float32(1.0)
    x, state = sample_loop(sampler, bound, z, keys)
    cond, null = direct(label, -1.0), direct(10, -1.0)
    x_1 = diffusion.x_from_eps(z, null + 0.6 * (cond - null), low)
    z_2 = diffusion.q_sample(x_1, high, null)
    prediction, _ = bound(z_2, high, bound.init(z))
    np.testing.assert_allclose(x, diffusion.x_from_eps(z_2, prediction.eps, high), atol=1e-5)
    assert state.nfe == 4


def test_modifiers_compose_from_left_to_right():
    rule = make_rule('projected:eta=0.2+interval:highest=5,lowest=0.1+schedule:kind=cosine')
    assert type(rule).__name__ == 'WeightSchedule'
    assert type(rule.inner).__name__ == 'Interval'
    assert rule.inner.inner == make_rule('projected:eta=0.2')
    assert rule.evaluations == make_rule('projected').evaluations
    with_exponent = make_rule('interval:highest=1e+2+rescale')
    assert with_exponent == make_rule('interval:highest=100+rescale')
    outside = jnp.float32(-2 * np.log(6.0))
    assert not rule.active(outside)
    assert rule.active(jnp.float32(0.0))


@pytest.mark.parametrize(
    ('spec', 'words'),
    [
        ('interval+projected', "'projected' is not a modifier"),
        ('projekted', "did you mean 'projected'"),
        ('rescale:phi=2', 'phi is in [0, 1]'),
        ('channels:count=0', 'count is at least 1'),
        ('rescale:phi', "no option 'phi'"),
        ('rescale:phi=x', "phi='x' is not a number"),
        ('composition:labels=2/3,weights=1/2/3', '2 labels need as many weights'),
        ('schedule:kind=foo', 'kind is one of'),
        ('annealed_condition:tau1=0.9,tau2=0.5', '0 <= tau1 < tau2'),
    ],
)
def test_wrong_rules_are_refused_in_one_sentence(spec, words):
    with pytest.raises(UserError) as caught:
        make_rule(spec)
    assert words in str(caught.value)


# Of each rule, the test of its formula; those of some have a file of their own.
FORMULAS = {
    'schedule': test_a_schedule_changes_w_at_the_level,
    'rescale': test_rescale_gives_the_conditional_deviation,
    'threshold': test_dynamic_threshold_against_numpy,
    'channels': test_guidance_of_some_channels,
    'negative': test_negative_condition,
    'composition': test_composition_of_and_with_not,
    'independent': test_rules_that_draw.test_independent_condition_needs_no_null_label,
    'time_step': test_rules_that_draw.test_time_step_guidance_shows_a_wrong_level,
    'autoguidance': test_autoguidance,
    'perturbed_attention': test_perturbed_model_stands_for_the_null,
    'smoothed_energy': test_perturbed_model_stands_for_the_null,
    'skip_layer': test_perturbed_model_stands_for_the_null,
    'annealed_condition': test_rules_that_draw.test_annealed_condition_by_hand,
    'cfg_plus_plus': test_cfg_plus_plus_is_guidance_with_a_scale_of_the_step,
    'cfg_zero_star': test_cfg_zero_star_projects_the_unconditional_velocity,
    'tangential_damping': test_tangential_damping_against_an_svd,
    'frequency_decoupled': test_frequency_bands_have_their_own_weights,
}
ELSEWHERE = {'classifier_free', 'classifier_mean', 'classifier_eps', 'interval', 'projected'}
ELSEWHERE |= {'two_conditions'}


def test_every_rule_is_tried():
    """A rule that is added gets a test of its formula."""
    assert set(RULES) == {*FORMULAS, *ELSEWHERE}
