"""The diffusion process of the paper, written in log-SNR (section 2).

`logsnr` (the paper's lambda) is the only time-like argument. The process is variance preserving:
alpha^2 = sigmoid(logsnr), sigma^2 = sigmoid(-logsnr), and noising runs toward smaller logsnr.

Everything is float32 and finite on [-20, 20]: ratios are formed from `log_sigmoid` and `expm1`,
never by dividing by an alpha or a sigma that is close to zero. `logsnr` is a scalar or one value
per example, shape [B]; images are [B, ...].
"""

import math

import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid
from jax.typing import ArrayLike

LOGSNR_MIN = -20.0
LOGSNR_MAX = 20.0


def broadcast_to_images(value: ArrayLike, z: jax.Array) -> jax.Array:
    """Appends axes to `value` ([] or [B]) until it broadcasts against `z` [B, ...]."""
    value = jnp.asarray(value)
    return value.reshape(value.shape + (1,) * (z.ndim - value.ndim))


def logsnr_cosine(
    u: ArrayLike, logsnr_min: float = LOGSNR_MIN, logsnr_max: float = LOGSNR_MAX
) -> jax.Array:
    """Cosine schedule: logsnr = -2 log tan(a u + b), section 2 of the paper.

    b = arctan(exp(-logsnr_max / 2)), a = arctan(exp(-logsnr_min / 2)) - b. With u ~ U[0, 1] this
    draws the training distribution p(logsnr); u = 0 is logsnr_max, u = 1 is logsnr_min.
    """
    u = jnp.asarray(u, jnp.float32)
    a, b, b_mirror = _cosine_constants(logsnr_min, logsnr_max)
    # tan is ill-conditioned at pi/2, so the noisy half is computed from the other end:
    # tan(pi/2 - t) = 1 / tan(t), and 1 - u is exact in floating point for u >= 1/2.
    clean_half = -2.0 * jnp.log(jnp.tan(a * jnp.minimum(u, 0.5) + b))
    noisy_half = 2.0 * jnp.log(jnp.tan(a * (1.0 - jnp.maximum(u, 0.5)) + b_mirror))
    return jnp.where(u < 0.5, clean_half, noisy_half)


def u_cosine(
    logsnr: ArrayLike, logsnr_min: float = LOGSNR_MIN, logsnr_max: float = LOGSNR_MAX
) -> jax.Array:
    """Inverse of `logsnr_cosine`: u = (arctan(exp(-logsnr / 2)) - b) / a."""
    logsnr = jnp.asarray(logsnr, jnp.float32)
    a, b, b_mirror = _cosine_constants(logsnr_min, logsnr_max)
    small = jnp.arctan(jnp.exp(-0.5 * jnp.abs(logsnr)))
    return jnp.where(logsnr > 0, (small - b) / a, 1.0 - (small - b_mirror) / a)


def _cosine_constants(logsnr_min: float, logsnr_max: float) -> tuple[float, float, float]:
    b = math.atan(math.exp(-0.5 * logsnr_max))
    b_mirror = math.atan(math.exp(0.5 * logsnr_min))
    return math.pi / 2 - b_mirror - b, b, b_mirror


def alpha(logsnr: ArrayLike) -> jax.Array:
    """alpha = sqrt(sigmoid(logsnr)), eq. (1)."""
    return jnp.exp(0.5 * log_sigmoid(jnp.asarray(logsnr, jnp.float32)))


def sigma(logsnr: ArrayLike) -> jax.Array:
    """sigma = sqrt(1 - alpha^2) = sqrt(sigmoid(-logsnr)), eq. (1)."""
    return jnp.exp(0.5 * log_sigmoid(-jnp.asarray(logsnr, jnp.float32)))


def q_sample(x: jax.Array, logsnr: ArrayLike, eps: jax.Array) -> jax.Array:
    """A draw z ~ q(z | x) = N(alpha x, sigma^2 I), eq. (1): z = alpha x + sigma eps."""
    logsnr = broadcast_to_images(logsnr, x)
    return alpha(logsnr) * x + sigma(logsnr) * eps


def q_forward(
    z_prime: jax.Array, logsnr_prime: ArrayLike, logsnr: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Mean and log-variance of q(z | z'), eq. (2), for logsnr < logsnr_prime (z is noisier).

    mean = (alpha / alpha') z', variance = sigma^2_{l|l'} = (1 - exp(logsnr - logsnr')) sigma^2.
    The log-variance has the shape of `logsnr` broadcast against z'.
    """
    logsnr = broadcast_to_images(logsnr, z_prime)
    logsnr_prime = broadcast_to_images(logsnr_prime, z_prime)
    ratio = jnp.exp(0.5 * (log_sigmoid(logsnr) - log_sigmoid(logsnr_prime)))
    return ratio * z_prime, _log_one_minus_r(logsnr, logsnr_prime) + log_sigmoid(-logsnr)


def q_posterior(
    z: jax.Array, x: jax.Array, logsnr: ArrayLike, logsnr_prime: ArrayLike, v: ArrayLike = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Mean and log-variance of the reverse transition z -> z' for logsnr < logsnr_prime.

    mean = r (alpha' / alpha) z + (1 - r) alpha' x, r = exp(logsnr - logsnr'), eq. (3);
    variance = (sigma~^2)^(1-v) (sigma^2_{l|l'})^v, eq. (4), with sigma~^2 = (1 - r) sigma'^2 the
    variance of the exact posterior q(z' | z, x) (v = 0) and sigma^2_{l|l'} that of eq. (2) (v = 1).
    """
    logsnr = broadcast_to_images(logsnr, z)
    logsnr_prime = broadcast_to_images(logsnr_prime, z)
    log_ratio = 0.5 * (log_sigmoid(logsnr_prime) - log_sigmoid(logsnr))
    z_weight = jnp.exp(logsnr - logsnr_prime + log_ratio)
    x_weight = -jnp.expm1(logsnr - logsnr_prime) * alpha(logsnr_prime)
    log_variance = (
        _log_one_minus_r(logsnr, logsnr_prime)
        + (1.0 - v) * log_sigmoid(-logsnr_prime)
        + v * log_sigmoid(-logsnr)
    )
    return z_weight * z + x_weight * x, log_variance


def _log_one_minus_r(logsnr: jax.Array, logsnr_prime: jax.Array) -> jax.Array:
    return jnp.log(-jnp.expm1(logsnr - logsnr_prime))


def x_from_eps(z: jax.Array, eps: jax.Array, logsnr: ArrayLike) -> jax.Array:
    """x = (z - sigma eps) / alpha, the paper's x_theta."""
    logsnr = broadcast_to_images(logsnr, z)
    return jnp.exp(-0.5 * log_sigmoid(logsnr)) * z - jnp.exp(-0.5 * logsnr) * eps


def eps_from_x(z: jax.Array, x: jax.Array, logsnr: ArrayLike) -> jax.Array:
    """eps = (z - alpha x) / sigma."""
    logsnr = broadcast_to_images(logsnr, z)
    return jnp.exp(-0.5 * log_sigmoid(-logsnr)) * z - jnp.exp(0.5 * logsnr) * x


def v_from_x_eps(x: jax.Array, eps: jax.Array, logsnr: ArrayLike) -> jax.Array:
    """v = alpha eps - sigma x (Salimans & Ho 2022, appendix D); not the variance exponent `v`."""
    logsnr = broadcast_to_images(logsnr, x)
    return alpha(logsnr) * eps - sigma(logsnr) * x


def x_from_v(z: jax.Array, v_prediction: jax.Array, logsnr: ArrayLike) -> jax.Array:
    """x = alpha z - sigma v."""
    logsnr = broadcast_to_images(logsnr, z)
    return alpha(logsnr) * z - sigma(logsnr) * v_prediction


def eps_from_v(z: jax.Array, v_prediction: jax.Array, logsnr: ArrayLike) -> jax.Array:
    """eps = sigma z + alpha v."""
    logsnr = broadcast_to_images(logsnr, z)
    return sigma(logsnr) * z + alpha(logsnr) * v_prediction
