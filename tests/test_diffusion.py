"""The process in log-SNR against float64 NumPy formulas of the textbook."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import diffusion, registry

LEVELS = np.linspace(-20.0, 20.0, 81, dtype=np.float32)
# (noisier, cleaner) pairs: neighbours, the first step of a sampler, far apart.
PAIRS = [(-20.0, -10.165), (-20.0, 20.0), (-3.0, -2.5), (0.0, 0.02), (1.0, 6.0), (10.165, 20.0)]


def schedule64(u, logsnr_min=-20.0, logsnr_max=20.0):
    """-2 log tan(a u + b), section 2 of the paper, in float64."""
    b = np.arctan(np.exp(-logsnr_max / 2))
    a = np.arctan(np.exp(-logsnr_min / 2)) - b
    return -2 * np.log(np.tan(a * np.asarray(u, np.float64) + b))


def alpha_sigma64(logsnr):
    """(alpha, sigma) in float64: alpha^2 = 1 / (1 + exp(-logsnr)), sigma^2 = 1 - alpha^2."""
    logsnr = np.asarray(logsnr, np.float64)
    return (1 + np.exp(-logsnr)) ** -0.5, (1 + np.exp(logsnr)) ** -0.5


def images(seed, batch=3):
    return np.random.default_rng(seed).normal(size=(batch, 4, 5, 2)).astype(np.float32)


def assert_close(actual, expected, relative=2e-6):
    """Equal up to float32 rounding, relative to the largest entry."""
    expected = np.asarray(expected, np.float64)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * scale)


def dense_u():
    """u in [0, 1] as float32, crowded at both ends, where the schedule is steep."""
    near = np.logspace(-8, -1, 500)
    return np.unique(np.concatenate([np.linspace(0, 1, 2001), near, 1 - near]).astype(np.float32))


@pytest.mark.parametrize('jit', [False, True])
def test_schedule_is_the_papers_formula(jit):
    u = dense_u()
    schedule = jax.jit(diffusion.logsnr_cosine) if jit else diffusion.logsnr_cosine
    logsnr = np.asarray(schedule(u))
    assert logsnr.dtype == np.float32
    # A float32 near 20 is 1.9e-6 from the next: two of those.
    np.testing.assert_allclose(logsnr, schedule64(u), rtol=0, atol=4e-6)
    assert np.all(np.diff(logsnr) <= 0)


def test_schedule_ends_exactly_at_its_limits():
    assert float(diffusion.logsnr_cosine(0.0)) == 20.0
    assert float(diffusion.logsnr_cosine(1.0)) == -20.0
    assert abs(float(diffusion.logsnr_cosine(0.5))) < 4e-6  # the ends are symmetric


def test_schedule_with_other_limits():
    u = dense_u()
    np.testing.assert_allclose(
        diffusion.logsnr_cosine(u, -12.0, 5.0), schedule64(u, -12.0, 5.0), rtol=0, atol=4e-6
    )
    np.testing.assert_allclose(
        diffusion.u_cosine(diffusion.logsnr_cosine(u, -12.0, 5.0), -12.0, 5.0), u, atol=3e-7
    )


def test_u_cosine_inverts_the_schedule():
    u = dense_u()
    # |du/dlogsnr| <= 1 / (2 pi), so that 4e-6 of logsnr are at most 7e-7 of u.
    np.testing.assert_allclose(diffusion.u_cosine(diffusion.logsnr_cosine(u)), u, rtol=0, atol=7e-7)


def test_u_cosine_is_the_inverse_formula():
    b = np.arctan(np.exp(-10.0))
    a = np.arctan(np.exp(10.0)) - b
    expected = (np.arctan(np.exp(-0.5 * LEVELS.astype(np.float64))) - b) / a
    np.testing.assert_allclose(diffusion.u_cosine(LEVELS), expected, rtol=0, atol=2e-7)


def test_variance_preserving():
    alpha = np.asarray(diffusion.alpha(LEVELS), np.float64)
    sigma = np.asarray(diffusion.sigma(LEVELS), np.float64)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=0, atol=3e-7)
    expected_alpha, expected_sigma = alpha_sigma64(LEVELS)
    # Relative: both ends keep all digits of the smaller of the two.
    np.testing.assert_allclose(alpha, expected_alpha, rtol=2e-6)
    np.testing.assert_allclose(sigma, expected_sigma, rtol=2e-6)
    np.testing.assert_allclose(2 * np.log(alpha / sigma), LEVELS, rtol=0, atol=1e-5)


def test_everything_is_finite_in_float32():
    x, z, eps = images(0, 1), images(1, 1), images(2, 1)
    outputs = []
    for logsnr in LEVELS:
        outputs += [
            diffusion.q_sample(x, logsnr, eps),
            diffusion.x_from_eps(z, eps, logsnr),
            diffusion.eps_from_x(z, x, logsnr),
            diffusion.V.of(x, eps, logsnr),
            *(target.of(x, eps, logsnr) for target in TARGETS.values()),
            *(target.to_eps(z, eps, logsnr) for target in TARGETS.values()),
        ]
    lower, upper = np.triu_indices(len(LEVELS), k=1)
    low, high = LEVELS[lower], LEVELS[upper]
    z_pairs = np.broadcast_to(z, (len(low), *z.shape[1:]))
    x_pairs = np.broadcast_to(x, z_pairs.shape)
    outputs += diffusion.q_forward(z_pairs, high, low)
    for v in (0.0, 0.3, 1.0):
        outputs += diffusion.q_posterior(z_pairs, x_pairs, low, high, v)
    for output in outputs:
        assert output.dtype == jnp.float32
        assert np.isfinite(output).all()


def test_q_sample_is_alpha_x_plus_sigma_eps():
    x, eps = images(0), images(1)
    for logsnr in LEVELS:
        alpha, sigma = alpha_sigma64(logsnr)
        assert_close(diffusion.q_sample(x, logsnr, eps), alpha * x + sigma * eps)


@pytest.mark.parametrize('logsnr', [-6.0, -1.5, 0.0, 1.5, 6.0])
def test_x_eps_and_v_describe_the_same_z(logsnr):
    x, eps = images(0), images(1)
    z = diffusion.q_sample(x, logsnr, eps)
    v = diffusion.V.of(x, eps, logsnr)
    # Dividing by alpha or sigma >= exp(-3) multiplies the rounding of z by at most 20.
    for actual, expected in (
        (diffusion.x_from_eps(z, eps, logsnr), x),
        (diffusion.eps_from_x(z, x, logsnr), eps),
        (diffusion.V.to_eps(z, v, logsnr), eps),
    ):
        assert_close(actual, expected, relative=2e-5)


def test_conversions_are_their_formulas_at_the_ends():
    z, other = images(0), images(1)
    for logsnr in LEVELS:
        alpha, sigma = alpha_sigma64(logsnr)
        assert_close(diffusion.x_from_eps(z, other, logsnr), (z - sigma * other) / alpha)
        assert_close(diffusion.eps_from_x(z, other, logsnr), (z - alpha * other) / sigma)
        assert_close(diffusion.V.of(z, other, logsnr), alpha * other - sigma * z)
        assert_close(diffusion.V.to_eps(z, other, logsnr), sigma * z + alpha * other)
        assert_close(diffusion.X.to_eps(z, other, logsnr), (z - alpha * other) / sigma)
        assert_close(
            diffusion.VELOCITY.to_eps(z, other, logsnr), (alpha * other + z) / (alpha + sigma)
        )
        assert_close(diffusion.X.of(z, other, logsnr), z)
        assert_close(diffusion.VELOCITY.of(z, other, logsnr), other - z)
        assert_close(diffusion.EPS.of(z, other, logsnr), other)
        assert_close(diffusion.EPS.to_eps(z, other, logsnr), other)


def forward64(low, high):
    """(ratio, variance) of q(z | z') = N(ratio z', variance), from the two marginals."""
    (alpha, sigma), (alpha_p, sigma_p) = alpha_sigma64(low), alpha_sigma64(high)
    ratio = alpha / alpha_p
    return ratio, sigma**2 - ratio**2 * sigma_p**2


@pytest.mark.parametrize(('low', 'high'), PAIRS)
def test_forward_transition(low, high):
    z_prime = images(0)
    ratio, variance = forward64(low, high)
    mean, log_variance = diffusion.q_forward(z_prime, high, low)
    assert_close(mean, ratio * z_prime, relative=1e-5)
    np.testing.assert_allclose(np.exp(log_variance), variance, rtol=1e-5)


@pytest.mark.parametrize(('low', 'high'), PAIRS)
def test_forward_transition_composes_to_the_marginal(low, high):
    """z' ~ q(z' | x), z ~ q(z | z') gives z ~ q(z | x): ratio alpha' = alpha, variances add up."""
    x = images(0)
    alpha_p, sigma_p = alpha_sigma64(high)
    alpha, sigma = alpha_sigma64(low)
    mean, log_variance = diffusion.q_forward(alpha_p * x, high, low)
    assert_close(mean, alpha * x, relative=1e-5)
    ratio = np.asarray(diffusion.q_forward(np.ones((1, 1)), high, low)[0])  # acts linearly on z'
    variance = ratio**2 * sigma_p**2 + np.exp(log_variance)
    np.testing.assert_allclose(variance.ravel(), sigma**2, rtol=1e-5)


@pytest.mark.parametrize(('low', 'high'), PAIRS)
def test_posterior_is_bayes_rule(low, high):
    """q(z' | z, x) ~ q(z | z') q(z' | x): precisions add, means are weighted by precision."""
    x, z = images(0), images(1)
    alpha_p, sigma_p = alpha_sigma64(high)
    ratio, forward_variance = forward64(low, high)
    variance = 1 / (1 / sigma_p**2 + ratio**2 / forward_variance)
    expected = variance * (alpha_p * x / sigma_p**2 + ratio * z / forward_variance)
    mean, log_variance = diffusion.q_posterior(z, x, low, high)
    assert_close(mean, expected, relative=1e-5)
    np.testing.assert_allclose(np.exp(log_variance), variance, rtol=1e-5)


@pytest.mark.parametrize(('low', 'high'), PAIRS)
def test_variance_goes_from_the_posteriors_to_the_forward_process(low, high):
    x, z = images(0), images(1)
    sigma_p = alpha_sigma64(high)[1]
    forward_variance = forward64(low, high)[1]
    posterior_variance = sigma_p**2 * (1 - np.exp(low - high))
    for v in (0.0, 0.2, 0.3, 1.0):
        mean, log_variance = diffusion.q_posterior(z, x, low, high, v)
        expected = posterior_variance ** (1 - v) * forward_variance**v
        np.testing.assert_allclose(np.exp(log_variance), expected, rtol=1e-5)
        np.testing.assert_array_equal(mean, diffusion.q_posterior(z, x, low, high)[0])


def test_scalar_and_per_example_logsnr_agree():
    x, z = images(0), images(1)
    low, high = np.float32([-20.0, -1.0, 3.0]), np.float32([-10.0, 0.5, 20.0])

    def outputs(x, z, low, high):
        return [
            diffusion.q_sample(x, low, z),
            *diffusion.q_forward(z, high, low),
            *diffusion.q_posterior(z, x, low, high, 0.3),
            diffusion.x_from_eps(z, x, low),
            diffusion.eps_from_x(z, x, low),
            diffusion.V.of(x, z, low),
            *(target.to_eps(z, x, low) for target in TARGETS.values()),
        ]

    batched = outputs(x, z, low, high)
    for i in range(3):
        single = outputs(x[i : i + 1], z[i : i + 1], low[i], high[i])
        for a, b in zip(batched, single, strict=True):
            np.testing.assert_allclose(a[i], np.asarray(b).reshape(a[i].shape), rtol=1e-6)


@pytest.mark.usefixtures('unchecked')
def test_shapes_that_disagree_are_refused_while_tracing():
    """Of two images one in three has another batch, other sides or one channel for all."""
    image = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32)
    for shape in ((1, 8, 8, 3), (4, 1, 1, 1), (4, 8, 8, 1), (4, 8, 8), (8, 8, 3)):
        other = jax.ShapeDtypeStruct(shape, jnp.float32)
        for pair in ((image, other), (other, image)):
            for fn in (
                lambda a, b: diffusion.q_sample(a, 0.0, b),
                lambda a, b: diffusion.x_from_eps(a, b, 0.0),
                lambda a, b: diffusion.eps_from_x(a, b, 0.0),
                lambda a, b: diffusion.q_posterior(a, b, 0.0, 1.0),
                lambda a, b: diffusion.V.of(a, b, 0.0),
                lambda a, b: diffusion.EPS.of(a, b, 0.0),
                lambda a, b: diffusion.X.to_eps(a, b, 0.0),
                lambda a, b: diffusion.EPS.to_eps(a, b, 0.0),
            ):
                with pytest.raises(ValueError, match='has the shape'):
                    jax.eval_shape(fn, *pair)
    for shape in ((1,), (3,), (4, 1, 1, 1)):
        logsnr = jax.ShapeDtypeStruct(shape, jnp.float32)
        with pytest.raises(ValueError, match='one value for each of 4 images'):
            jax.eval_shape(diffusion.q_sample, image, logsnr, image)


TARGETS = {
    'eps': diffusion.EPS,
    'x': diffusion.X,
    'v': diffusion.V,
    'velocity': diffusion.VELOCITY,
}


def test_the_registry_holds_these_targets():
    assert {name: registry.TARGETS.load(name) for name in registry.TARGETS} == TARGETS


@pytest.mark.parametrize('name', TARGETS)
@pytest.mark.parametrize('logsnr', [-20.0, -6.0, -1.5, 0.0, 1.5, 6.0, 20.0])
def test_targets_round_trip_and_their_derivative(name, logsnr):
    """to_eps(z, of(x, eps)) = eps, and eps moves with the prediction by eps_per_prediction."""
    target = TARGETS[name]
    x, eps, step = images(0), images(1), images(2)
    z = diffusion.q_sample(x, logsnr, eps)
    prediction = target.of(x, eps, logsnr)
    # Rounding of z counts 1 / sigma times where eps follows from x.
    tolerance = 2e-6 * max(1.0, 1 / float(diffusion.sigma(logsnr)))
    np.testing.assert_allclose(
        target.to_eps(z, prediction, logsnr), eps, rtol=0, atol=10 * tolerance
    )
    # x too, and where the network does not predict eps, without 1 / alpha.
    lost = 1 / float(diffusion.alpha(logsnr)) if name == 'eps' else 1.0
    found = target.to_x(z, prediction, logsnr)
    np.testing.assert_allclose(found, x, rtol=0, atol=2e-6 * max(1.0, lost))
    moved = target.to_eps(0 * z, prediction + step, logsnr) - target.to_eps(
        0 * z, prediction, logsnr
    )
    assert_close(moved, float(target.eps_per_prediction(logsnr)) * np.asarray(step), relative=1e-4)


@pytest.mark.parametrize(
    ('scaling', 'alpha64'),
    [
        ('variance_preserving', lambda logsnr: np.sqrt(1 / (1 + np.exp(-logsnr)))),
        ('flow', lambda logsnr: 1 / (1 + np.exp(-logsnr / 2))),
        ('edm', np.ones_like),
    ],
)
def test_scalings_have_the_same_logsnr(scaling, alpha64):
    """factor = alpha of the process over alpha of the variance-preserving one."""
    logsnr = LEVELS.astype(np.float64)
    expected = alpha64(logsnr) / alpha_sigma64(logsnr)[0]
    found = registry.SCALINGS.load(scaling).factor(LEVELS)
    np.testing.assert_allclose(found, expected, rtol=3e-6)
    if scaling == 'flow':  # z = (1 - t) x + t eps with t = sigma
        sigma = alpha64(logsnr) * np.exp(-logsnr / 2)
        np.testing.assert_allclose(alpha64(logsnr) + sigma, 1.0, rtol=1e-12)


def test_linear_beta_is_the_product_of_one_minus_beta():
    betas = np.linspace(1e-4, 0.02, 1000)
    alpha_2 = np.cumprod(1 - betas)
    expected = np.log(alpha_2 / (1 - alpha_2))
    u = np.array([0, 1, 37, 500, 998, 999]) / 999
    found = diffusion.LinearBetaSchedule()(u)
    np.testing.assert_allclose(found, expected[[0, 1, 37, 500, 998, 999]], rtol=1e-5, atol=1e-5)
    middle = float(diffusion.LinearBetaSchedule()(37.25 / 999))
    assert middle == pytest.approx(0.75 * expected[37] + 0.25 * expected[38], abs=1e-4)


@pytest.mark.parametrize(
    'schedule', [diffusion.LinearBetaSchedule(), diffusion.CosineBetaSchedule()]
)
def test_step_inverts_a_table(schedule):
    steps = np.array([0, 1, 37, 500, 998, 999])
    np.testing.assert_allclose(schedule.step(schedule(steps / 999)), steps, rtol=0, atol=2e-3)
    halfway = schedule.table()[36:38].mean()
    assert float(schedule.step(halfway)) == pytest.approx(36.5, abs=1e-3)


def test_cosine_beta_is_the_cosine_where_beta_is_not_cut_off():
    """alpha^2_i = f(i + 1) / f(0), f(i) = cos^2(pi / 2 (i / 1000 + 0.008) / 1.008)."""
    schedule = diffusion.CosineBetaSchedule()
    i = np.arange(999)
    angle = np.pi / 2 * ((i + 1) / 1000 + 0.008) / 1.008
    alpha_2 = (np.cos(angle) / np.cos(np.pi / 2 * 0.008 / 1.008)) ** 2
    np.testing.assert_allclose(schedule.table()[:-1], np.log(alpha_2 / (1 - alpha_2)), rtol=1e-9)
    assert schedule.betas()[-1] == 0.999


def test_the_flow_schedule_is_uniform_in_t():
    u = np.linspace(0, 1, 11)
    found = np.asarray(diffusion.FlowSchedule(-9.0, 9.0)(u), np.float64)
    np.testing.assert_allclose(1 / (1 + np.exp(found[1:-1] / 2)), u[1:-1], rtol=1e-6)
    np.testing.assert_array_equal(found[[0, -1]], [9.0, -9.0])


def test_shifted_cosine_is_cosine_plus_a_constant_with_the_same_ends():
    schedule = diffusion.ShiftedCosineSchedule(-15.0, 15.0, shift=-2.0)
    u = dense_u()
    found = np.asarray(schedule(u))
    np.testing.assert_allclose(found[[0, -1]], [15.0, -15.0], atol=1e-4)
    np.testing.assert_allclose(
        found, diffusion.logsnr_cosine(u, -13.0, 17.0) - 2.0, rtol=0, atol=1e-5
    )
