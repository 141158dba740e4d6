"""The diffusion process of the paper, written in log-SNR (section 2).

`logsnr` (the paper's lambda) is the only time-like argument. The process is variance preserving:
alpha^2 = sigmoid(logsnr), sigma^2 = sigmoid(-logsnr), and noising runs toward smaller logsnr.
Schedules draw log-SNRs, scalings relate other processes to this one, and targets are what a network
may predict of it.

Everything is float32 and finite on [-20, 20]: ratios are formed from `log_sigmoid` and `expm1`,
never by dividing by an alpha or a sigma that is close to zero. `logsnr` is a scalar or one value
per example, shape [B]; images are [B, ...].
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_sigmoid
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

# Images as functions take them and as they give them; one value for all images or for each.
Images = Float[Array | np.ndarray, 'B *image']
ImageArray = Float[Array, 'B *image']
PerImage = Num[ArrayLike, ''] | Num[ArrayLike, ' B']

LOGSNR_MIN = -20.0
LOGSNR_MAX = 20.0


def broadcast_to_images(value: PerImage, z: Images) -> Num[Array, '...']:
    """Appends axes to `value` ([] or [B]) until it broadcasts against `z` [B, ...].

    Raises:
      ValueError: `value` is neither a scalar nor one value per image.
    """
    value = jnp.asarray(value)
    if value.shape not in ((), z.shape[:1]):
        raise ValueError(
            f'expected a scalar or one value for each of {z.shape[0]} images; got the shape'
            f' {value.shape}'
        )
    return value.reshape(value.shape + (1,) * (z.ndim - value.ndim))


def check_same_shape(**arrays: Array | np.ndarray) -> None:
    """Raises ValueError unless all shapes are equal: broadcasting would hide a mistake."""
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError('; '.join(f'{name} has the shape {s}' for name, s in shapes.items()))


def logsnr_cosine(
    u: Num[ArrayLike, '*shape'], logsnr_min: float = LOGSNR_MIN, logsnr_max: float = LOGSNR_MAX
) -> Float[Array, '*shape']:
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
    logsnr: Num[ArrayLike, '*shape'],
    logsnr_min: float = LOGSNR_MIN,
    logsnr_max: float = LOGSNR_MAX,
) -> Float[Array, '*shape']:
    """Inverse of `logsnr_cosine`: u = (arctan(exp(-logsnr / 2)) - b) / a."""
    logsnr = jnp.asarray(logsnr, jnp.float32)
    a, b, b_mirror = _cosine_constants(logsnr_min, logsnr_max)
    small = jnp.arctan(jnp.exp(-0.5 * jnp.abs(logsnr)))
    return jnp.where(logsnr > 0, (small - b) / a, 1.0 - (small - b_mirror) / a)


def _cosine_constants(logsnr_min: float, logsnr_max: float) -> tuple[float, float, float]:
    b = math.atan(math.exp(-0.5 * logsnr_max))
    b_mirror = math.atan(math.exp(0.5 * logsnr_min))
    return math.pi / 2 - b_mirror - b, b, b_mirror


class Schedule(Protocol):
    """log-SNR as a decreasing function of u in [0, 1]; u ~ U[0, 1] draws p(logsnr)."""

    def __call__(self, u: Num[ArrayLike, '*shape']) -> Float[Array, '*shape']:
        """logsnr of `u`, float32, in the shape of `u`."""
        ...


@dataclasses.dataclass(frozen=True)
class CosineSchedule:
    """The paper's: logsnr = -2 log tan(a u + b) from logsnr_max (u = 0) to logsnr_min (u = 1)."""

    logsnr_min: float = LOGSNR_MIN
    logsnr_max: float = LOGSNR_MAX

    def __call__(self, u: Num[ArrayLike, '*shape']) -> Float[Array, '*shape']:
        """logsnr = -2 log tan(a u + b), float32, in the shape of `u`."""
        return logsnr_cosine(u, self.logsnr_min, self.logsnr_max)


@dataclasses.dataclass(frozen=True)
class ShiftedCosineSchedule:
    """logsnr = -2 log tan(a u + b) + shift between the same ends (Hoogeboom et al. 2023, eq. 4).

    shift = 2 ln(64 / d) for images of d pixels keeps the noise at 64 x 64 what it is for 64 pixels.
    """

    logsnr_min: float = LOGSNR_MIN
    logsnr_max: float = LOGSNR_MAX
    shift: float = 0.0

    def __call__(self, u: Num[ArrayLike, '*shape']) -> Float[Array, '*shape']:
        """logsnr of `u`."""
        # The ends of the unshifted schedule move, so that the shifted one keeps them.
        ends = self.logsnr_min - self.shift, self.logsnr_max - self.shift
        return logsnr_cosine(u, *ends) + self.shift


@dataclasses.dataclass(frozen=True)
class FlowSchedule:
    """logsnr = 2 ln((1 - u) / u), clipped to the ends: u is the t = sigma of `FLOW` (Liu 2023)."""

    logsnr_min: float = LOGSNR_MIN
    logsnr_max: float = LOGSNR_MAX

    def __call__(self, u: Num[ArrayLike, '*shape']) -> Float[Array, '*shape']:
        """logsnr of `u`."""
        u = jnp.asarray(u, jnp.float32)
        return jnp.clip(2.0 * (jnp.log1p(-u) - jnp.log(u)), self.logsnr_min, self.logsnr_max)


@dataclasses.dataclass(frozen=True)
class BetaSchedule:
    """N discrete steps: alpha^2_i = prod_{j <= i} (1 - beta_j), step 0 the cleanest.

    u in [0, 1] is the step i / (num_steps - 1), between two steps log-SNR is interpolated. The ends
    follow from beta; logsnr_min and logsnr_max are not used.
    """

    logsnr_min: float = LOGSNR_MIN
    logsnr_max: float = LOGSNR_MAX
    num_steps: int = 1000

    def betas(self) -> np.ndarray:
        """beta of steps 0 to num_steps - 1, float64 [num_steps]."""
        raise NotImplementedError

    def table(self) -> np.ndarray:
        """logsnr of steps 0 (cleanest) to num_steps - 1, float64 [num_steps]."""
        log_alpha_squared = np.cumsum(np.log1p(-self.betas()))
        return log_alpha_squared - np.log(-np.expm1(log_alpha_squared))

    def __call__(self, u: Num[ArrayLike, '*shape']) -> Float[Array, '*shape']:
        """logsnr of `u`."""
        step = jnp.asarray(u, jnp.float32) * (self.num_steps - 1)
        table = jnp.asarray(self.table(), jnp.float32)
        return jnp.interp(step, jnp.arange(self.num_steps, dtype=jnp.float32), table)

    def step(self, logsnr: ArrayLike) -> jax.Array:
        """The step of `logsnr`, float32: whole at the table's levels, between them interpolated."""
        table = jnp.asarray(self.table()[::-1], jnp.float32)  # jnp.interp wants it to increase
        steps = jnp.arange(self.num_steps - 1, -1, -1, dtype=jnp.float32)
        return jnp.interp(jnp.asarray(logsnr, jnp.float32), table, steps)


@dataclasses.dataclass(frozen=True)
class LinearBetaSchedule(BetaSchedule):
    """DDPM's (Ho et al. 2020): beta linear in i."""

    first_beta: float = 1e-4
    last_beta: float = 0.02

    def betas(self) -> np.ndarray:
        """Linear in i, from first_beta to last_beta, float64 [num_steps]."""
        return np.linspace(self.first_beta, self.last_beta, self.num_steps)


@dataclasses.dataclass(frozen=True)
class CosineBetaSchedule(BetaSchedule):
    """Nichol & Dhariwal's (2021): beta_i = min(1 - f(i + 1) / f(i), largest_beta),

    f(i) = cos^2(pi / 2 (i / N + 0.008) / 1.008). Not the paper's continuous cosine schedule, but
    close to it where beta is not cut off.
    """

    largest_beta: float = 0.999

    def betas(self) -> np.ndarray:
        """min(1 - f(i + 1) / f(i), largest_beta), float64 [num_steps]."""
        i = np.arange(self.num_steps + 1)
        f = np.cos((i / self.num_steps + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1.0 - f[1:] / f[:-1], self.largest_beta)


def alpha(logsnr: Num[ArrayLike, '*shape']) -> Float[Array, '*shape']:
    """alpha = sqrt(sigmoid(logsnr)), eq. (1)."""
    return jnp.exp(0.5 * log_sigmoid(jnp.asarray(logsnr, jnp.float32)))


def sigma(logsnr: Num[ArrayLike, '*shape']) -> Float[Array, '*shape']:
    """sigma = sqrt(1 - alpha^2) = sqrt(sigmoid(-logsnr)), eq. (1)."""
    return jnp.exp(0.5 * log_sigmoid(-jnp.asarray(logsnr, jnp.float32)))


def q_sample(x: Images, logsnr: PerImage, eps: Images) -> ImageArray:
    """A draw z ~ q(z | x) = N(alpha x, sigma^2 I), eq. (1): z = alpha x + sigma eps."""
    check_same_shape(x=x, eps=eps)
    logsnr = broadcast_to_images(logsnr, x)
    return alpha(logsnr) * x + sigma(logsnr) * eps


def q_forward(
    z_prime: Images, logsnr_prime: PerImage, logsnr: PerImage
) -> tuple[ImageArray, Float[Array, '...']]:
    """Mean and log-variance of q(z | z'), eq. (2), for logsnr < logsnr_prime (z is noisier).

    mean = (alpha / alpha') z', variance = sigma^2_{l|l'} = (1 - exp(logsnr - logsnr')) sigma^2.
    The log-variance has the shape of `logsnr` broadcast against z'.
    """
    logsnr = broadcast_to_images(logsnr, z_prime)
    logsnr_prime = broadcast_to_images(logsnr_prime, z_prime)
    ratio = jnp.exp(0.5 * (log_sigmoid(logsnr) - log_sigmoid(logsnr_prime)))
    return ratio * z_prime, _log_one_minus_r(logsnr, logsnr_prime) + log_sigmoid(-logsnr)


def q_posterior(
    z: Images,
    x: Images,
    logsnr: PerImage,
    logsnr_prime: PerImage,
    v: Num[ArrayLike, ''] | Images = 0.0,
) -> tuple[ImageArray, Float[Array, '...']]:
    """Mean and log-variance of the reverse transition z -> z' for logsnr < logsnr_prime.

    mean = r (alpha' / alpha) z + (1 - r) alpha' x, r = exp(logsnr - logsnr'), eq. (3);
    variance = (sigma~^2)^(1-v) (sigma^2_{l|l'})^v, eq. (4), with sigma~^2 = (1 - r) sigma'^2 the
    variance of the exact posterior q(z' | z, x) (v = 0) and sigma^2_{l|l'} that of eq. (2) (v = 1).
    """
    check_same_shape(z=z, x=x)
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


def x_from_eps(z: Images, eps: Images, logsnr: PerImage) -> ImageArray:
    """x = (z - sigma eps) / alpha, the paper's x_theta."""
    check_same_shape(z=z, eps=eps)
    logsnr = broadcast_to_images(logsnr, z)
    return jnp.exp(-0.5 * log_sigmoid(logsnr)) * z - jnp.exp(-0.5 * logsnr) * eps


def eps_from_x(z: Images, x: Images, logsnr: PerImage) -> ImageArray:
    """eps = (z - alpha x) / sigma."""
    check_same_shape(z=z, x=x)
    logsnr = broadcast_to_images(logsnr, z)
    return jnp.exp(-0.5 * log_sigmoid(-logsnr)) * z - jnp.exp(0.5 * logsnr) * x


class Scaling(NamedTuple):
    """A process of the same log-SNR with another alpha; sigma = alpha exp(-logsnr / 2).

    Its z is `factor` times the variance-preserving one. It belongs to a network, which was trained
    to see such z; samplers and guidance rules see the variance-preserving z only.
    """

    log_alpha: Callable[[jax.Array], jax.Array]

    def factor(self, logsnr: Num[ArrayLike, '*shape']) -> Float[Array, '*shape']:
        """alpha of this process over the variance-preserving alpha."""
        logsnr = jnp.asarray(logsnr, jnp.float32)
        return jnp.exp(self.log_alpha(logsnr) - 0.5 * log_sigmoid(logsnr))


VARIANCE_PRESERVING = Scaling(lambda logsnr: 0.5 * log_sigmoid(logsnr))
# z = (1 - t) x + t eps with t = sigma = sigmoid(-logsnr / 2) (Liu et al. 2023).
FLOW = Scaling(lambda logsnr: log_sigmoid(0.5 * logsnr))
EDM = Scaling(jnp.zeros_like)  # z = x + s eps, s = exp(-logsnr / 2) (Karras et al. 2022)


class Target(NamedTuple):
    """What a network predicts: p = x_weight x + eps_weight eps, both functions of logsnr.

    With z = alpha x + sigma eps it follows that
        eps = (alpha p - x_weight z) / (alpha eps_weight - sigma x_weight),
        x = (eps_weight z - sigma p) / (alpha eps_weight - sigma x_weight).
    """

    x_weight: Callable[[jax.Array], jax.Array]
    eps_weight: Callable[[jax.Array], jax.Array]

    def of(self, x: Images, eps: Images, logsnr: PerImage) -> ImageArray:
        """The target p of x and eps [B, ...]."""
        check_same_shape(x=x, eps=eps)
        if self is EPS:
            return jnp.asarray(eps)
        logsnr = broadcast_to_images(jnp.asarray(logsnr, jnp.float32), x)
        return self.x_weight(logsnr) * x + self.eps_weight(logsnr) * eps

    def to_eps(self, z: Images, prediction: Images, logsnr: PerImage) -> ImageArray:
        """eps that the prediction of this target at z [B, ...] means."""
        check_same_shape(z=z, prediction=prediction)
        if self is EPS:
            return jnp.asarray(prediction)
        logsnr = broadcast_to_images(jnp.asarray(logsnr, jnp.float32), z)
        scaled = alpha(logsnr) * prediction - self.x_weight(logsnr) * z
        return scaled / self._determinant(logsnr)

    def to_x(self, z: Images, prediction: Images, logsnr: PerImage) -> ImageArray:
        """x that it means, without `x_from_eps`' rounding of eps times 1 / alpha."""
        check_same_shape(z=z, prediction=prediction)
        logsnr = broadcast_to_images(jnp.asarray(logsnr, jnp.float32), z)
        scaled = self.eps_weight(logsnr) * z - sigma(logsnr) * prediction
        return scaled / self._determinant(logsnr)

    def eps_per_prediction(self, logsnr: Num[ArrayLike, '*shape']) -> Float[Array, '*shape']:
        """d eps / d p at fixed z = alpha / (alpha eps_weight - sigma x_weight)."""
        logsnr = jnp.asarray(logsnr, jnp.float32)
        return alpha(logsnr) / self._determinant(logsnr)

    def _determinant(self, logsnr: jax.Array) -> jax.Array:
        return alpha(logsnr) * self.eps_weight(logsnr) - sigma(logsnr) * self.x_weight(logsnr)


EPS = Target(jnp.zeros_like, jnp.ones_like)
X = Target(jnp.ones_like, jnp.zeros_like)
V = Target(lambda logsnr: -sigma(logsnr), lambda logsnr: alpha(logsnr))
VELOCITY = Target(lambda logsnr: -jnp.ones_like(logsnr), jnp.ones_like)
