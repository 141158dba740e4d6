"""Guidance in an interval, autoguidance, projected guidance: against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import (
    diffusion,
    generation,
    guidance,
    rules,
    sampling,
)

NULL = 3
SHAPE = (4, 3, 2, 1)  # [B, H, W, C]
W = np.float32([0.0, 0.5, 1.0, 3.0])


def fields(count, shape=SHAPE):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def gaussian_eps(mean, variance):
    """eps of exact scores where the data are N(mean, variance): closed form.

    z ~ N(alpha mean, alpha^2 variance + sigma^2), and eps = -sigma grad log p(z).
    """

    def eps_fn(z, logsnr):
        alpha, sigma = diffusion.alpha(logsnr), diffusion.sigma(logsnr)
        return sigma * (z - alpha * mean) / (alpha**2 * variance + sigma**2)

    return eps_fn


class TestInterval:
    def constant(self, value):
        return lambda z, logsnr: jnp.full_like(z, value)

    def test_which_levels_are_guided(self):
        """s in (0.5, 2]: log-SNR in [-2 ln 2, 2 ln 2)."""
        eps_fn = guidance.in_interval(self.constant(1.0), self.constant(0.0), 0.5, 2.0)
        z = jnp.zeros(SHAPE)
        edge = np.float32(2 * np.log(2.0))
        levels = [-20.0, -edge - 1e-3, -edge + 1e-3, 0.0, edge - 1e-3, edge + 1e-3, 20.0]
        found = [float(eps_fn(z, jnp.float32(level))[0, 0, 0, 0]) for level in levels]
        assert found == [0, 0, 1, 1, 1, 0, 0]

    def test_ends(self):
        z = jnp.zeros(SHAPE)
        everywhere = guidance.in_interval(self.constant(1.0), self.constant(0.0))
        nowhere = guidance.in_interval(self.constant(1.0), self.constant(0.0), 1.0, 1.0)
        for level in (-20.0, 0.0, 20.0):
            assert everywhere(z, jnp.float32(level)).min() == 1.0
            assert nowhere(z, jnp.float32(level)).max() == 0.0

    def test_noise_levels(self):
        """s = sigma / alpha."""
        for level in (0.28, 1.0, 2.9):
            logsnr = guidance.logsnr_of_noise_level(level)
            ratio = diffusion.sigma(logsnr) / diffusion.alpha(logsnr)
            assert float(ratio) == pytest.approx(level, rel=1e-5)
        assert guidance.logsnr_of_noise_level(0.0) == np.inf
        assert guidance.logsnr_of_noise_level(np.inf) == -np.inf
        with pytest.raises(ValueError, match='at least 0'):
            guidance.logsnr_of_noise_level(-1.0)


class TestAutoguidance:
    @pytest.mark.parametrize('logsnr', [-5.0, 0.0, 5.0])
    def test_equal_variances_move_the_mean(self, logsnr):
        """Main N(m, v), guide N(g, v): eps~ is exactly that of N(m + w (m - g), v)."""
        z = fields(1)[0]
        m, g, v, w = 0.4, 0.1, 0.3, 1.5
        guided = guidance.autoguidance(gaussian_eps(m, v), gaussian_eps(g, v), w)
        expected = gaussian_eps(m + w * (m - g), v)
        np.testing.assert_allclose(guided(z, logsnr), expected(z, logsnr), rtol=1e-4, atol=1e-5)

    def test_a_wider_guide_sharpens(self):
        """Same mean: the precision of z is (1 + w) / V_m - w / V_g, V = alpha^2 v + sigma^2."""
        z, logsnr, w = fields(1)[0], jnp.float32(1.0), 0.7
        guided = guidance.autoguidance(gaussian_eps(0.0, 0.2), gaussian_eps(0.0, 0.5), w)
        alpha2, sigma = diffusion.alpha(logsnr) ** 2, diffusion.sigma(logsnr)
        precision = (1 + w) / (alpha2 * 0.2 + sigma**2) - w / (alpha2 * 0.5 + sigma**2)
        np.testing.assert_allclose(guided(z, logsnr), sigma * precision * z, rtol=1e-5)

    def test_samples_have_the_mean_that_the_formula_says(self):
        """DDIM along the exact flow of N(m + w (m - g), v)."""
        m, g, v, w = 0.3, 0.1, 0.05, 1.0
        guided = guidance.autoguidance(gaussian_eps(m, v), gaussian_eps(g, v), w)
        z = jax.random.normal(jax.random.key(0), (4000, 1, 1, 1))
        x = sampling.ddim(guided, z, num_steps=100, clip=False)
        assert float(x.mean()) == pytest.approx(m + w * (m - g), abs=0.01)
        assert float(x.var()) == pytest.approx(v, rel=0.1)


class TestProjection:
    def inputs(self):
        return *fields(3), jnp.float32(0.7)

    def test_neutral_settings_are_the_papers_rule(self):
        eps_cond, eps_uncond, z, _ = self.inputs()
        for logsnr in (-20.0, 0.7, 20.0):
            found = guidance.project(eps_cond, eps_uncond, z, logsnr, W, eta=1.0)
            expected = guidance.guide(eps_cond, eps_uncond, W)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(('eta', 'radius'), [(0.0, np.inf), (0.0, 1.2), (0.5, 2.0), (1.0, 0.1)])
    def test_by_the_formula_in_denoised_space(self, eta, radius):
        """g = x_c - x_u, shortened, split along x_c; x~ = x_c + w (g_perp + eta g_par); float64."""
        eps_cond, eps_uncond, z, logsnr = self.inputs()
        alpha, sigma = float(diffusion.alpha(logsnr)), float(diffusion.sigma(logsnr))
        found = guidance.project(eps_cond, eps_uncond, z, logsnr, W, eta=eta, radius=radius)
        for i, w in enumerate(W.astype(float)):
            x_cond, x_uncond = (
                ((z[i] - sigma * eps[i]) / alpha).astype(float).ravel()
                for eps in (eps_cond, eps_uncond)
            )
            g = x_cond - x_uncond
            g = g * min(1.0, radius / np.linalg.norm(g))
            unit = x_cond / np.linalg.norm(x_cond)
            along = (g @ unit) * unit
            x = x_cond + w * (g - along + eta * along)
            expected = (z[i].ravel() - alpha * x) / sigma
            np.testing.assert_allclose(found[i].ravel(), expected, rtol=1e-4, atol=1e-5)

    def test_what_is_added_is_no_longer_than_the_radius(self):
        eps_cond, eps_uncond, z, logsnr = self.inputs()
        guided = guidance.project(eps_cond, eps_uncond, z, logsnr, 1.0, eta=1.0, radius=0.5)
        ratio = diffusion.sigma(logsnr) / diffusion.alpha(logsnr)
        length = ratio * jnp.linalg.norm((guided - eps_cond).reshape(len(z), -1), axis=1)
        np.testing.assert_allclose(length, 0.5, rtol=1e-5)

    @pytest.mark.parametrize('logsnr', [-20.0, 20.0])
    def test_finite_at_the_ends_and_where_both_agree(self, logsnr):
        eps, z = fields(2)
        found = guidance.project(eps, eps, z, logsnr, 3.0, radius=1.0)
        np.testing.assert_allclose(found, eps, rtol=0, atol=1e-6)
        other = guidance.project(eps, -eps, z, logsnr, 3.0, radius=1.0)
        assert np.isfinite(other).all()

    def test_one_level_per_image(self):
        eps_cond, eps_uncond, z, _ = self.inputs()
        levels = np.float32([-3.0, 0.0, 1.0, 4.0])
        together = guidance.project(eps_cond, eps_uncond, z, levels, 2.0, radius=1.0)
        for i, level in enumerate(levels):
            one = slice(i, i + 1)
            alone = guidance.project(eps_cond[one], eps_uncond[one], z[one], level, 2.0, radius=1.0)
            np.testing.assert_allclose(together[one], alone, rtol=1e-6)


def network(table, z, logsnr, label):
    """eps = tanh(z + table[label] + logsnr / 20)."""
    return jnp.tanh(z + jnp.asarray(table)[label][:, None, None] + logsnr[:, None, None, None] / 20)


class TestRules:
    table = np.float32(np.random.default_rng(1).normal(size=(NULL + 1, 1)))
    labels = np.int32([0, 1, 2, 0])

    def generate(self, rule, params=None, w=W):
        sampler = sampling.make_sampler('ancestral', num_steps=6, v=0.3)
        generator = generation.Generator(rule, sampler, SHAPE[1:])
        params = self.table if params is None else params
        return np.asarray(generator(params, 0, np.arange(4), self.labels, w))

    def test_neutral_settings_are_classifier_free_guidance(self):
        expected = self.generate(rules.ClassifierFree(network, NULL))
        for rule in (
            rules.ClassifierFreeInInterval(network, NULL),
            rules.Projected(network, NULL, eta=1.0),
        ):
            np.testing.assert_allclose(self.generate(rule), expected, rtol=0, atol=2e-5)

    def test_an_empty_interval_is_the_model_alone(self):
        found = self.generate(rules.ClassifierFreeInInterval(network, NULL, 1.0, 1.0))
        expected = self.generate(rules.ClassifierFree(network, NULL), w=0.0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)

    def test_an_interval_is_neither(self):
        found = self.generate(rules.ClassifierFreeInInterval(network, NULL, 0.5, 2.0))
        for w in (0.0, W):
            other = self.generate(rules.ClassifierFree(network, NULL), w=w)
            assert np.abs(found - other)[1:].max() > 1e-3

    def test_autoguidance_by_the_null_label_is_the_papers_rule(self):
        """A guide that ignores the class stands where eps(z) does."""

        def null_network(table, z, logsnr, label):
            return network(table, z, logsnr, jnp.full_like(label, NULL))

        rule = rules.Autoguidance(network, null_network)
        params = rules.MainAndGuide(self.table, self.table)
        expected = self.generate(rules.ClassifierFree(network, NULL))
        np.testing.assert_allclose(self.generate(rule, params), expected, rtol=0, atol=2e-5)
        alone = self.generate(rule, params, w=0.0)
        expected = self.generate(rules.ClassifierFree(network, NULL), w=0.0)
        np.testing.assert_allclose(alone, expected, rtol=0, atol=2e-5)
