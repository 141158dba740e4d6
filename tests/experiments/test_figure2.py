"""Figure 2: mixtures against closed forms, eps against autodiff, a verdict that can fail."""

import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from PIL import Image
from support import ROOT, experiment, script_environment, user_error

from cfg_jax import (
    diffusion,
    guidance,
)

figure2 = experiment('figure2')
comparison, picture = experiment('figure2_parts.comparison'), experiment('figure2_parts.picture')
samples, table = experiment('figure2_parts.samples'), experiment('figure2_parts.table')
triangle = experiment('figure2_parts.triangle')
gaussian_mixture = experiment('figure2_parts.gaussian_mixture')
GaussianMixture = gaussian_mixture.GaussianMixture

TWO = GaussianMixture(means=np.array([[-0.8], [0.8]]), std=0.7)  # one-dimensional
THREE = GaussianMixture(means=np.array([[0.0, 1.2], [-1.0, -0.5], [1.1, -0.4]]), std=0.6)
N = 10_000  # samples a class


@functools.cache
def tilted(w):
    """Cells of the figure's density: fine and coarse, [K, n, n]."""
    points = gaussian_mixture.grid(triangle.HALF_WIDTH, triangle.FINE, 2)
    fine = gaussian_mixture.tilted_cells(triangle.MIXTURE, points, w)
    return fine, triangle.merge_cells(fine, triangle.COARSE)


def true_draws(w, seed=0):
    """Samples [K, N, 2] of the tilted density itself: a fine cell, and a place in it."""
    rng = np.random.default_rng(seed)
    points = gaussian_mixture.grid(triangle.HALF_WIDTH, triangle.FINE, 2).reshape(-1, 2)
    cell = 2 * triangle.HALF_WIDTH / triangle.FINE
    chosen = [rng.choice(len(points), N, p=each.ravel()) for each in tilted(w)[0]]
    return points[np.stack(chosen)] + cell * (rng.random((len(chosen), N, 2)) - 0.5)


def compare(x, w):
    return comparison.compare(x, tilted(w)[1], np.random.default_rng(1))


def test_log_densities_are_scipys():
    x = np.random.default_rng(0).normal(size=(5, 4, 2))
    expected = [scipy.stats.multivariate_normal(m, 0.6**2).logpdf(x) for m in THREE.means]
    ours = gaussian_mixture.class_log_densities(THREE, x)
    np.testing.assert_allclose(ours, np.stack(expected, axis=-1), rtol=0, atol=1e-12)


def test_grid_has_the_centres_of_equal_cells():
    np.testing.assert_allclose(
        gaussian_mixture.grid(2.0, 4, 1), [[-1.5], [-0.5], [0.5], [1.5]], rtol=0, atol=1e-12
    )
    points = gaussian_mixture.grid(2.0, 4, 2)
    assert points.shape == (4, 4, 2)
    np.testing.assert_allclose(points[3, 0], [1.5, -1.5], rtol=0, atol=1e-12)


@pytest.mark.parametrize('w', [0.0, 0.5, 3.0, 200.0])
def test_one_dimension_is_the_integral_of_the_closed_form(w):
    """Two classes at -m, m: p(c|x) = sigmoid(2 m x / s^2), so p_w = N(x; m, s^2) sigmoid^w / Z."""

    def unnormalised(x):
        log_odds = 2 * 0.8 * x / 0.7**2
        return scipy.stats.norm.pdf(x, 0.8, 0.7) * np.exp(-w * np.logaddexp(0.0, -log_odds))

    integral = scipy.integrate.quad(unnormalised, -5.0, 8.0, points=[0.0, 0.8, 2.0], epsrel=1e-12)[
        0
    ]
    points = gaussian_mixture.grid(8.0, 800, 1)
    density = gaussian_mixture.tilted_cells(TWO, points, w)[1] / 0.02
    np.testing.assert_allclose(density, unnormalised(points[:, 0]) / integral, rtol=1e-9, atol=1e-9)


def test_tilting_by_minus_one_gives_the_marginal():
    """p(x|c)^0 / p(x)^-1 = p(x), the same for every class."""
    points = gaussian_mixture.grid(6.0, 240, 2)
    marginal = np.exp(gaussian_mixture.class_log_densities(THREE, points)).mean(axis=-1)
    cells = gaussian_mixture.tilted_cells(THREE, points, -1.0)
    for each in cells:
        np.testing.assert_allclose(each / 0.05**2, marginal, rtol=0, atol=1e-9)


def test_w_zero_is_the_class_itself():
    points = gaussian_mixture.grid(6.0, 240, 2)
    density = gaussian_mixture.tilted_cells(THREE, points, 0.0) / 0.05**2
    for each, mean in zip(density, THREE.means, strict=True):
        expected = scipy.stats.multivariate_normal(mean, 0.6**2).pdf(points)
        np.testing.assert_allclose(each, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize('w', [figure2.W[0], figure2.W[-1]])
def test_the_grid_of_the_figure_holds_the_whole_density(w):
    """Twice as fine and half as wide again: apart by far less than the Monte-Carlo error, 2e-3."""
    fine, coarse = tilted(w)
    np.testing.assert_allclose(fine.sum(axis=(1, 2)), 1.0, rtol=0, atol=1e-12)
    points = gaussian_mixture.grid(1.5 * triangle.HALF_WIDTH, 3 * triangle.FINE, 2)
    wide = triangle.merge_cells(
        gaussian_mixture.tilted_cells(triangle.MIXTURE, points, w), 3 * triangle.COARSE // 2
    )
    inner = slice(triangle.COARSE // 4, -triangle.COARSE // 4)
    assert comparison.total_variation(wide[:, inner, inner], coarse) < 3e-4


@pytest.mark.parametrize('mixture', [TWO, THREE])
def test_exact_eps_is_the_score(mixture):
    """eps = -sigma grad log q(z | c), by autodiff; label K is the marginal, guidance the tilt."""
    num_classes, dimensions = mixture.means.shape
    z = jax.random.normal(jax.random.key(0), (16, dimensions))
    logsnr = jnp.linspace(-9.0, 6.0, 16)

    def log_q(z, logsnr):
        means = diffusion.alpha(logsnr) * mixture.means
        variance = (diffusion.alpha(logsnr) * mixture.std) ** 2 + diffusion.sigma(logsnr) ** 2
        return -0.5 * jnp.sum((z - means) ** 2, axis=-1) / variance  # [K], up to a constant

    def log_densities(z, logsnr):  # of each class, of the marginal, of each class tilted
        given = log_q(z, logsnr)
        tilted = given + 2.5 * jax.nn.log_softmax(given)
        return jnp.concatenate([given, jax.nn.logsumexp(given)[None], tilted])

    @jax.jit
    def both(z, logsnr):
        scores = jax.vmap(jax.jacrev(log_densities))(z, logsnr)  # [16, 2 K + 1, D]
        eps_theta = gaussian_mixture.exact_eps(mixture)
        labels = [jnp.full(16, c) for c in range(num_classes + 1)]
        *cond, uncond = (eps_theta(z, logsnr, label) for label in labels)
        guided = [guidance.guide(each, uncond, 2.5) for each in cond]
        expected = -diffusion.sigma(logsnr)[:, None, None] * scores
        return jnp.stack([*cond, uncond, *guided], axis=1), expected

    np.testing.assert_allclose(*both(z, logsnr), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('w', [0.0, 10.0])
def test_true_draws_are_within_monte_carlo_error(w):
    result = compare(true_draws(w), w)
    assert result['within_monte_carlo_error']
    assert abs(result['z']) < 3
    assert table.verdict(result).startswith('agree')


@pytest.mark.parametrize('change', ['shifted', 'widened', 'swapped', 'one in twenty far away'])
def test_other_samples_are_not(change):
    x = true_draws(0.0)
    if change == 'shifted':
        x = x + np.array([0.1, 0.0])
    elif change == 'widened':
        x = x + 0.5 * np.random.default_rng(2).normal(size=x.shape)
    elif change == 'swapped':
        x = x[[1, 0, 2]]
    else:
        x[:, ::20] = 1e3
    result = compare(x, 0.0)
    assert not result['within_monte_carlo_error']
    assert result['z'] > 3
    assert table.verdict(result).startswith('do not')


def test_total_variation_counts_what_fell_outside():
    cells = np.array([[[0.5, 0.5], [0.0, 0.0]]])
    assert comparison.total_variation(cells, cells) == 0.0
    assert comparison.total_variation(np.array([[[0.5, 0.0], [0.0, 0.0]]]), cells) == 0.5
    assert comparison.total_variation(np.array([[[0.0, 0.0], [0.3, 0.0]]]), cells) == 1.0


def test_sampler_draws_the_classes_at_w_zero_and_no_tilted_density_above():
    for w, within in ((0.0, True), (1.0, False)):
        x = samples.sample(3, 2000, w, 32)
        assert compare(x, w)['within_monte_carlo_error'] == within


def test_classes_are_exact_at_w_zero():
    """Means and covariances of 20,000 samples a class within 3 standard errors; densities of 1."""
    points = gaussian_mixture.grid(triangle.HALF_WIDTH, triangle.FINE, 2)
    np.testing.assert_allclose(comparison.mass(points), 1.0, rtol=0, atol=1e-6)
    x = samples.sample(0, 20_000, 0.0, 32)
    assert comparison.deviation(x, triangle.MIXTURE) < 3


@pytest.mark.parametrize('change', ['mean', 'variance', 'covariance'])
def test_deviation_counts_standard_errors(change):
    """Samples with exactly the moments of the classes, then one moment off by ten errors."""
    mixture, count = THREE, 4000
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, count, 2))
    x -= x.mean(axis=1, keepdims=True)
    roots = [np.linalg.cholesky(np.cov(each, rowvar=False)) for each in x]
    x = np.stack([each @ np.linalg.inv(root).T for each, root in zip(x, roots, strict=True)])
    exact = mixture.means[:, None] + mixture.std * x
    assert comparison.deviation(exact, mixture) < 1e-6
    if change == 'mean':
        exact[1, :, 0] += 10 * mixture.std / np.sqrt(count)
    elif change == 'variance':
        scale = np.sqrt(1 + 10 * np.sqrt(2 / (count - 1)))
        exact[2, :, 1] = mixture.means[2, 1] + scale * mixture.std * x[2, :, 1]
    else:
        share = 10 / np.sqrt(count - 1)
        mixed = share * x[0, :, 0] + np.sqrt(1 - share**2) * x[0, :, 1]
        exact[0, :, 1] = mixture.means[0, 1] + mixture.std * mixed
    assert comparison.deviation(exact, mixture) == pytest.approx(10, abs=1e-6)


def test_moments_are_along_the_axes_of_each_class():
    fine, _ = tilted(0.0)
    points = np.broadcast_to(
        gaussian_mixture.grid(triangle.HALF_WIDTH, triangle.FINE, 2).reshape(-1, 2),
        (3, triangle.FINE**2, 2),
    )
    exact = comparison.moments(points, fine.reshape(3, -1))
    np.testing.assert_allclose(exact['mean'], [triangle.CIRCUMRADIUS, 0.0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(exact['std'], [1.0, 1.0], rtol=0, atol=1e-9)
    spread = triangle.OUTWARD[:, None] * np.array([[-2.0], [2.0]])  # two points on each ray
    result = comparison.moments(spread + triangle.MIXTURE.means[:, None], np.full((3, 2), 0.5))
    np.testing.assert_allclose(result['std'], [2.0, 0.0], rtol=0, atol=1e-12)


def test_picture_has_inks_of_the_classes_and_y_upward():
    cells = np.zeros((3, 2, 2))
    cells[1, 1, 0] = 0.2  # large x, small y
    mixed = picture.mix_colors(cells, 0.2)
    np.testing.assert_array_equal(mixed[0, 1], np.round(255 * picture.COLORS[1]))
    np.testing.assert_array_equal(np.delete(mixed.reshape(4, 3), 1, axis=0), 255)


def test_contour_encloses_the_mass():
    cells = np.array([[0.1, 0.2], [0.3, 0.4]])
    assert picture.mass_level(cells, 0.65) == 0.3
    assert cells[cells >= picture.mass_level(cells, 0.85)].sum() == pytest.approx(0.9)


def test_command_writes_everything(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(samples, 'NUM_STEPS', 8)
    monkeypatch.setattr(samples, 'FEW_STEPS', 8)
    monkeypatch.setattr(comparison, 'REPEATS', 10)
    figure2.main(['--num_samples=200', '--seed=5', f'--out={tmp_path}/out'])
    results = json.loads((tmp_path / 'out' / 'figure2.json').read_text())
    assert (results['seed'], results['num_samples']) == (5, 200)
    assert results['sampler']['num_steps'] == 8
    assert 'versions' in results
    assert [row['w'] for row in results['rows']] == list(figure2.W)
    assert Image.open(tmp_path / 'out' / 'figure2.png').width > 1000
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'figure2.json',
        'figure2.png',
    ]
    assert table.markdown(results['rows']) in capsys.readouterr().out
    assert results['mass_error'] < 1e-6
    assert results['deviation_at_w_0'] > 0
    message = user_error(figure2.main, ['--num_samples=1'])
    assert 'at least 2' in message


def test_command_starts_from_any_directory(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / 'experiments' / 'figure2.py', '--help'],
        cwd=tmp_path,
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert '--num_samples' in done.stdout
