"""Orders of convergence under guidance, and moments of the stochastic samplers, on exact scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

from cfg_jax import diffusion
from cfg_jax.diffusion import CosineSchedule
from cfg_jax.keys import per_image_noise, stream
from cfg_jax.samplers import SAMPLERS
from cfg_jax.samplers.estimates import extrapolation
from cfg_jax.samplers.grids import (
    EDMGrid,
    FlowGrid,
    Grid,
    LogSNRGrid,
    RespacedGrid,
    StridedGrid,
)
from cfg_jax.samplers.loop import _Stateless, follow, trajectory
from cfg_jax.samplers.unipc import _corrected, _History

MEANS, DEVIATION = np.array([-0.6, 0.5]), 0.25  # of the data, a mixture in one dimension
W, ENDS = 1.0, (-6.0, 6.0)
GRID = LogSNRGrid(CosineSchedule(*ENDS))
MEAN = 0.4  # of a single Gaussian


def eps_of_component(z, logsnr, mean, np=jnp):
    """Exact eps of N(mean, DEVIATION^2): sigma (z - alpha mean) / var(z)."""
    alpha_2 = 1 / (1 + np.exp(-logsnr))
    variance = alpha_2 * DEVIATION**2 + 1 - alpha_2
    return np.sqrt(1 - alpha_2) * (z - np.sqrt(alpha_2) * mean) / variance


def guided_eps(z, logsnr, np=jnp):
    """(1 + w) eps(z, c) - w eps(z), c the second component."""
    alpha_2 = 1 / (1 + np.exp(-logsnr))
    variance = alpha_2 * DEVIATION**2 + 1 - alpha_2
    log_p = [-((z - np.sqrt(alpha_2) * m) ** 2) / (2 * variance) for m in MEANS]
    share = 1 / (1 + np.exp(log_p[1] - log_p[0]))
    eps = [eps_of_component(z, logsnr, m, np) for m in MEANS]
    return (1 + W) * eps[1] - W * (share * eps[0] + (1 - share) * eps[1])


def exact_ends(levels):
    """Starts, and the exact x~ at the last of two levels by a high-order solver in float64."""

    def derivative(logsnr, z):
        alpha_2 = 1 / (1 + np.exp(-logsnr))
        alpha, sigma = np.sqrt(alpha_2), np.sqrt(1 - alpha_2)
        eps = guided_eps(z, logsnr, np)
        x = (z - sigma * eps) / alpha
        return 0.5 * alpha * sigma**2 * x - 0.5 * sigma * alpha_2 * eps

    z = np.linspace(-2, 2, 41)
    found = solve_ivp(derivative, levels, z, rtol=1e-10, atol=1e-12, method='DOP853').y[:, -1]
    alpha_2 = 1 / (1 + np.exp(-levels[1]))
    eps = guided_eps(found, levels[1], np)
    return z, (found - np.sqrt(1 - alpha_2) * eps) / np.sqrt(alpha_2)


@pytest.fixture(scope='module')
def ends():
    return exact_ends(ENDS)


@pytest.fixture(scope='module')
def ends_of_the_paper():
    return exact_ends((-20.0, 20.0))


def largest_error(name, num_steps, grid, ends):
    z, exact = ends
    sampler = SAMPLERS.make(name, num_steps=num_steps, clip=False, grid=grid)
    keys = jax.random.split(jax.random.key(0), len(z))
    x = follow(sampler, guided_eps, jnp.asarray(z[:, None], jnp.float32), keys)
    return np.abs(np.asarray(x)[:, 0] - exact).max()


@pytest.mark.parametrize(
    ('name', 'order'),
    [
        ('ddim', 0.9),
        ('euler', 0.9),
        ('heun', 1.8),
        ('flow_heun', 1.8),
        ('dpmpp_2m', 1.8),
        ('unipc', 3.0),  # by the corrector; the predictor alone has 2
    ],
)
def test_order_of_convergence_under_guidance(name, order, ends):
    errors = [largest_error(name, num_steps, GRID, ends) for num_steps in (16, 32, 64)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert orders.min() >= order, (errors, orders)


@pytest.mark.parametrize('grid', [Grid, RespacedGrid])
@pytest.mark.parametrize('name', ['heun', 'flow_heun', 'dpmpp_2m', 'unipc'])
@pytest.mark.parametrize('num_steps', [10, 20, 64])
def test_order_2_is_no_worse_on_the_grid_of_the_paper(name, num_steps, grid, ends_of_the_paper):
    """Its first and last step are ten times as long in log-SNR as those beside them: of order 2
    they overshoot, with 10 levels Heun's by 7."""
    grid = grid(CosineSchedule(-20.0, 20.0))
    errors = [largest_error(each, num_steps, grid, ends_of_the_paper) for each in ('ddim', name)]
    assert errors[1] < errors[0], errors


@pytest.mark.parametrize(
    ('ends', 'count', 'curvature'),
    [((-1.1, -0.4, 0.9), 2, 0.8), ((0.2, 0.9, 1.2), 2, 0.8), ((-1.1, -0.4, 0.9), 1, 0.0)],
)
def test_the_corrector_of_unipc_is_exact_for_parabolas(ends, count, curvature):
    """d (z / sigma) / dl = e^l x with l = log-SNR / 2; of two evaluations, for lines."""

    def x(half):
        return 0.5 - 1.3 * half + curvature * half**2

    before, last, new = ends
    sigma, sigma_new = (1 / np.sqrt(1 + np.exp(2 * half)) for half in (last, new))
    z = 0.7
    exact = sigma_new * (z / sigma + quad(lambda half: np.exp(half) * x(half), last, new)[0])
    history = _History(
        *(jnp.float32([each]) for each in (z, x(last), x(before))),
        *(jnp.float32(2 * each) for each in (last, before)),
        jnp.int32(count),
    )
    found = _corrected(history, jnp.float32([x(new)]), jnp.float32(2 * new))
    np.testing.assert_allclose(found, [exact], rtol=0, atol=1e-6)


def test_few_steps_of_the_sde_on_the_grid_of_the_paper():
    """The standard deviation of a Gaussian, which a line through two estimates makes threefold."""
    x = stochastic_samples('dpmpp_2m_sde', 24, Grid(CosineSchedule(-20.0, 20.0)), 2_000)
    assert x.std() == pytest.approx(DEVIATION, rel=0.1)


@pytest.mark.parametrize('name', ['flow_heun', 'flow_sde'])
def test_flows_keep_sharp_data_sharp_on_the_grid_of_the_paper(name):
    """N(0.4, 0.02^2): noise of the step that leads to t = 0.00005 would stay as a deviation of 0.1,
    and a correction by u' there would multiply changes of x~."""
    deviation, grid = 0.02, Grid(CosineSchedule(-20.0, 20.0))

    def eps(z, logsnr):
        alpha_2 = jax.nn.sigmoid(logsnr)
        variance = alpha_2 * deviation**2 + jax.nn.sigmoid(-logsnr)
        return jnp.sqrt(jax.nn.sigmoid(-logsnr)) * (z - jnp.sqrt(alpha_2) * MEAN) / variance

    keys = jax.random.split(jax.random.key(0), 400)
    z = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 9), (1,)))(keys)
    x = follow(SAMPLERS.make(name, num_steps=20, clip=False, grid=grid), eps, z, keys)
    assert float(x.mean()) == pytest.approx(MEAN, abs=5e-3)
    assert float(x.std()) < 1.5 * deviation


@pytest.mark.parametrize(
    ('h', 'h_last', 'known', 'ratio'),
    [(0.3, 0.2, True, 1.5), (0.2, 0.4, True, 0.5), (0.5, 0.2, True, 0.0), (0.3, 0.0, False, 0.0)],
)
def test_a_line_reaches_no_further_than_twice_its_length(h, h_last, known, ratio):
    found = extrapolation(jnp.float32(h), jnp.float32(h_last), jnp.asarray(known))
    assert found == pytest.approx(ratio)


def stochastic_samples(spec, num_steps, grid, count):
    """Of N(MEAN, DEVIATION^2), whose exact eps is known, float64 [count, 1]."""
    name, _, options = spec.partition(':')
    sampler = SAMPLERS.make(name, options, num_steps=num_steps, clip=False, grid=grid)
    keys = jax.random.split(jax.random.key(1), count)
    z = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 9), (1,)))(keys)
    # The prior at the noisiest level is not exactly N(0, 1): start from the exact marginal.
    alpha_2 = 1 / (1 + np.exp(-np.float64(grid.levels(num_steps)[0])))
    variance = alpha_2 * DEVIATION**2 + 1 - alpha_2
    z = np.sqrt(alpha_2) * MEAN + np.sqrt(variance) * z

    def eps(z, logsnr):
        return eps_of_component(z, logsnr, MEAN)

    return np.asarray(follow(sampler, eps, z, keys), np.float64)


@pytest.mark.parametrize(
    ('spec', 'num_steps'),
    [
        ('ancestral:v=0', 96),
        ('ddim:eta=1', 96),
        ('dpmpp_2m_sde', 96),
        ('heun:churn=20', 96),
    ],
)
def test_stochastic_samplers_reproduce_the_moments(spec, num_steps):
    """Of a Gaussian, whose exact eps is known: mean and variance within Monte-Carlo error.

    Euler's churn, the SDE in t and part of DDIM's noise are compared path by path below.
    """
    count = 20_000
    x = stochastic_samples(spec, num_steps, GRID, count)
    # x~ at the last level is the posterior mean of x, whose variance is a little smaller.
    alpha_2 = 1 / (1 + np.exp(-ENDS[1]))
    shrunk = alpha_2 * DEVIATION**4 / (alpha_2 * DEVIATION**2 + 1 - alpha_2)
    assert abs(x.mean() - MEAN) < 5 * DEVIATION / np.sqrt(count)
    # 5 standard errors of a variance, and 2 % for the steps.
    assert abs(x.var() / shrunk - 1) < 5 * np.sqrt(2 / count) + 0.02


def test_churn_is_the_published_algorithm():
    """EDM's Algorithm 2 without its correction, in float64: a range of s, a cap, and more noise."""
    mean, z, levels = 0.4, np.linspace(-2, 2, 41), np.asarray(GRID.levels(8), np.float64)
    s, low, high, more = np.exp(-levels / 2), 0.2, 5.0, 1.1
    keys = jax.random.split(jax.random.key(3), len(z))
    inside = (low <= s) & (s <= high)
    assert 2 < inside.sum() < 7
    for churn, gamma in ((2.0, 0.25), (40.0, np.sqrt(2) - 1)):
        y = z * np.sqrt(1 + s[0] ** 2)  # z / alpha
        for i in range(8):
            noisier = s[i] * (1 + gamma) if inside[i] and i < 7 else s[i]
            noise = np.asarray(per_image_noise(stream(keys, i), (1,)), np.float64)[:, 0]
            y = y + more * np.sqrt(noisier**2 - s[i] ** 2) * noise
            eps = eps_of_component(y / np.hypot(1, noisier), -2 * np.log(noisier), mean, np)
            x = y - noisier * eps
            y = x + s[i + 1] * eps if i < 7 else x
        options = f'churn={churn},churn_min={low},churn_max={high},churn_noise={more}'
        sampler = SAMPLERS.make('euler', options, num_steps=8, clip=False, grid=GRID)
        found = follow(
            sampler,
            lambda z, logsnr: eps_of_component(z, logsnr, mean),
            jnp.asarray(z[:, None], jnp.float32),
            keys,
        )
        np.testing.assert_allclose(found[:, 0], y, rtol=0, atol=2e-4)


def test_part_of_the_noise_is_ddims():
    """z' = alpha' x + sqrt(sigma'^2 - eta^2 tau^2) eps + eta tau n, in float64."""
    mean, z, eta = 0.4, np.linspace(-2, 2, 41), 0.5
    levels = np.asarray(GRID.levels(8), np.float64)
    keys = jax.random.split(jax.random.key(3), len(z))
    found = follow(
        SAMPLERS.make('ddim', f'eta={eta}', num_steps=8, clip=False, grid=GRID),
        lambda z, logsnr: eps_of_component(z, logsnr, mean),
        jnp.asarray(z[:, None], jnp.float32),
        keys,
    )
    for i in range(8):
        alpha, sigma = np.sqrt(1 / (1 + np.exp([-levels[i], levels[i]])))
        eps = eps_of_component(z, levels[i], mean, np)
        x = (z - sigma * eps) / alpha
        if i == 7:
            break
        alpha, sigma = np.sqrt(1 / (1 + np.exp([-levels[i + 1], levels[i + 1]])))
        tau = np.sqrt(1 - np.exp(levels[i] - levels[i + 1])) * sigma
        noise = np.asarray(per_image_noise(stream(keys, i), (1,)), np.float64)[:, 0]
        z = alpha * x + np.sqrt(sigma**2 - (eta * tau) ** 2) * eps + eta * tau * noise
    np.testing.assert_allclose(found[:, 0], x, rtol=0, atol=2e-4)


@pytest.mark.parametrize(('mean', 'clip'), [(0.4, False), (1.2, True)])
def test_flow_sde_is_euler_maruyama_in_t(mean, clip):
    """y += drift h + sqrt(2 t h) n with the drift x - eps + t * score, score = -eps / t.

    With `clip`, eps is that of the same y with the clipped x.
    """
    z, clipped = np.linspace(-2, 2, 41), []
    grid = FlowGrid(CosineSchedule(-20, 20), last=0.1)
    t = np.linspace(1 / (1 + np.exp(-10)), 0.1, 6)
    np.testing.assert_allclose(jax.nn.sigmoid(-grid.levels(6) / 2), t, rtol=1e-5)
    keys = jax.random.split(jax.random.key(3), len(z))
    noise = [per_image_noise(stream(keys, i), (1,))[:, 0] for i in range(5)]

    y = np.hypot(1 - t[0], t[0]) * z
    for i in range(6):
        length, logsnr = np.hypot(1 - t[i], t[i]), 2 * np.log(1 / t[i] - 1)
        eps = eps_of_component(y / length, logsnr, mean, np)
        x = (y - t[i] * eps) / (1 - t[i])
        if clip:
            clipped.append(np.mean(x > 1))
            x = np.clip(x, -1, 1)
            eps = (y - (1 - t[i]) * x) / t[i]
        h = t[i] - t[i + 1] if i < 5 else t[i]
        y = y + h * (x - eps + t[i] * (-eps / t[i]))
        if i < 5:
            y = y + np.sqrt(2 * t[i] * h) * np.asarray(noise[i], np.float64)
    found = follow(
        SAMPLERS.make('flow_sde', num_steps=6, clip=clip, grid=grid),
        lambda z, logsnr: eps_of_component(z, logsnr, mean),
        jnp.asarray(z[:, None], jnp.float32),
        keys,
    )
    np.testing.assert_allclose(found[:, 0], y, rtol=0, atol=1e-4)
    assert not clip or 0 < min(clipped) < 1


def test_clipped_samplers_go_straight_to_the_clipped_image():
    """Of a network that is sure of x = 2: z = alpha + (sigma / sigma_1) (z_1 - alpha_1), x = 1.

    That is what the ODE says of a constant x, and every solver's formula.
    """
    z = jnp.linspace(-2, 2, 5)[:, None]
    keys = jax.random.split(jax.random.key(0), 5)
    levels = np.asarray(GRID.levels(5), np.float64)[:, None]
    alpha, sigma = np.sqrt(1 / (1 + np.exp(-levels))), np.sqrt(1 / (1 + np.exp(levels)))
    expected = alpha + sigma / sigma[0] * (np.asarray(z)[:, 0] - alpha[0])

    def sure(z, logsnr):
        return diffusion.eps_from_x(z, jnp.full_like(z, 2.0), logsnr)

    @jax.jit
    def ways():
        samplers = {
            name: SAMPLERS.make(name, num_steps=5, clip=True, grid=GRID)
            for name in ('ddim', 'euler', 'heun', 'flow_heun', 'dpmpp_2m', 'unipc')
        }
        return {name: trajectory(s, _Stateless(sure), z, keys) for name, s in samplers.items()}

    for name, way in ways().items():
        np.testing.assert_allclose(way[:-1, :, 0], expected, rtol=0, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(way[-1], 1.0, rtol=0, atol=1e-6, err_msg=name)


def test_flow_heun_is_the_trapezoid_rule_in_t():
    """Of y = (1 - t) x + t eps, dy / dt = eps - x, against a loop in float64."""
    mean, z = 0.4, np.linspace(-2, 2, 41)
    t = np.linspace(0.99, 0.01, 11)
    logsnr = 2 * np.log(1 / t - 1)
    length = np.sqrt((1 - t) ** 2 + t**2)  # z = y / length

    class Levels(Grid):
        def levels(self, num_steps):
            return jnp.asarray(logsnr, jnp.float32)

    def ends(y, i):
        eps = eps_of_component(y / length[i], logsnr[i], mean, np)
        return (y - t[i] * eps) / (1 - t[i]), eps

    y = length[0] * z
    for i in range(10):
        x, eps = ends(y, i)
        x_ahead, eps_ahead = ends(y + (t[i + 1] - t[i]) * (eps - x), i + 1)
        y = y + (t[i + 1] - t[i]) * (eps - x + eps_ahead - x_ahead) / 2
    sampler = SAMPLERS.make('flow_heun', num_steps=11, clip=False, grid=Levels())
    found = follow(
        sampler,
        lambda z, logsnr: eps_of_component(z, logsnr, mean),
        jnp.asarray(z[:, None], jnp.float32),
        jax.random.split(jax.random.key(0), len(z)),
    )
    np.testing.assert_allclose(found[:, 0], ends(y, 10)[0], rtol=0, atol=2e-5)


def test_churn_leaves_the_deterministic_sampler_at_zero():
    z = jnp.linspace(-1, 1, 5)[:, None]
    keys = jax.random.split(jax.random.key(0), 5)
    plain, none = (
        follow(SAMPLERS.make('euler', o, num_steps=12, clip=False, grid=GRID), guided_eps, z, keys)
        for o in ('', 'churn=30,churn_min=1e6,churn_max=1e7')
    )
    np.testing.assert_allclose(plain, none, rtol=0, atol=1e-6)


def test_grids():
    schedule = CosineSchedule(-20.0, 20.0)
    uniform = np.asarray(LogSNRGrid(schedule).levels(5))
    np.testing.assert_allclose(uniform, [-20, -10, 0, 10, 20], atol=1e-4)
    edm = np.exp(-0.5 * np.asarray(EDMGrid(schedule).levels(18), np.float64))
    i = np.arange(18)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(edm, expected, rtol=2e-4)
    # A schedule that ends within EDM's noise levels, [0.002, 80], keeps its ends.
    within = np.asarray(EDMGrid(CosineSchedule(-6.0, 6.0)).levels(5))
    np.testing.assert_allclose(within[[0, -1]], [-6.0, 6.0], rtol=1e-5)
    respaced = np.asarray(RespacedGrid(schedule).levels(4))
    np.testing.assert_allclose(respaced, schedule(np.array([999, 666, 333, 0]) / 999), atol=1e-4)
    strided = np.asarray(StridedGrid(schedule).levels(25))
    np.testing.assert_allclose(strided, schedule(np.arange(960, -1, -40) / 999), atol=1e-4)
    for grid in (Grid, LogSNRGrid, EDMGrid, RespacedGrid, StridedGrid):
        levels = np.asarray(grid(schedule).levels(7))
        assert np.all(np.diff(levels) > 0)
        with pytest.raises(ValueError, match='at least 2'):
            grid(schedule).levels(1)
    with pytest.raises(ValueError, match='1000 discrete steps'):
        RespacedGrid(schedule).levels(1001)
    for impossible in (49, 1001):  # strides of 20 and 21 take 50 and 48
        with pytest.raises(ValueError, match=f'takes {impossible} of 1000'):
            StridedGrid(schedule).levels(impossible)
