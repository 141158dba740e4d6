"""Preconditionings of networks: what multiplies their input and output, as functions of log-SNR."""

import jax
import jax.numpy as jnp

from cfg_jax.models.denoiser import Preconditioning

NONE = None
_SIGMA_DATA = 0.5  # of images in [-1, 1], as EDM's authors estimate it


def _noise_level(logsnr: jax.Array) -> jax.Array:
    return jnp.exp(-0.5 * logsnr)


def _inside(logsnr: jax.Array) -> jax.Array:
    return jax.lax.rsqrt(jnp.square(_noise_level(logsnr)) + _SIGMA_DATA**2)


def _skip(logsnr: jax.Array) -> jax.Array:
    return _noise_level(logsnr) * jnp.square(_inside(logsnr))


def _out(logsnr: jax.Array) -> jax.Array:
    return -_SIGMA_DATA * _inside(logsnr)


# EDM's (Karras et al. 2022, table 1), which there gives x = c_skip y + c_out F(c_in y) of
# y = x + s eps; here eps = (y - x) / s, written out: at small s the difference loses its digits.
EDM = Preconditioning(skip=_skip, out=_out, inside=_inside)
