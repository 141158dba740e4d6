"""A guidance rule with networks that are plain functions, as a sampler calls it."""

import dataclasses

import jax
import jax.numpy as jnp

from cfg_jax import diffusion, samplers
from cfg_jax.conditioning.label import Label
from cfg_jax.guidance.guided import GuidedDenoiser
from cfg_jax.models.denoiser import Denoiser


def denoiser(network, **settings):
    """A `Denoiser` of network(z, logsnr, condition)."""
    return Denoiser(lambda params, z, time, c: network(z, time, c), **settings)


def guided(rule, network, condition, w, *, num_classes=10, conditioning=None, **others):
    """The `GuidedDenoiser` of network(z, logsnr, condition); a `guide` is such a function too, a
    `classifier` one of (z, logsnr). w = None is w = 0, at one evaluation a level."""
    networks = {'main': denoiser(network)}
    if 'guide' in others:
        networks['guide'] = denoiser(others['guide'])
    if 'classifier' in others:
        networks['classifier'] = lambda params, z, logsnr: others['classifier'](z, logsnr)
    count = len(jax.tree.leaves(condition)[0])
    return GuidedDenoiser(
        rule,
        networks,
        dict.fromkeys(networks, ()),
        conditioning or Label(num_classes),
        condition,
        jax.random.split(jax.random.key(9), count),
        None if w is None else jnp.asarray(w, jnp.float32),
    )


def eps_fn(*args, **kwargs):
    """eps~(z, logsnr) of `guided(...)` at its first level."""
    predict = guided(*args, **kwargs)

    def eps(z, logsnr):
        z = jnp.asarray(z)
        return predict(z, jnp.asarray(logsnr, jnp.float32), predict.init(z))[0].eps

    return eps


def constant(value):
    """A network that predicts `value` everywhere."""
    return lambda z, *_: jnp.full_like(z, value)


def normal_eps(mean, variance):
    """A network of exact eps where the data are N(mean, variance), whatever the condition.

    z ~ N(alpha mean, alpha^2 variance + sigma^2), and eps = -sigma grad log p(z).
    """

    def eps(z, logsnr, condition=None):
        logsnr = diffusion.broadcast_to_images(logsnr, z)
        alpha, sigma = diffusion.alpha(logsnr), diffusion.sigma(logsnr)
        return sigma * (z - alpha * mean) / (alpha**2 * variance + sigma**2)

    return eps


class Recorder:
    """eps = (label + 1) z + logsnr, so that each branch can be told from the output."""

    def __init__(self):
        self.calls = []

    def __call__(self, z, logsnr, label):
        self.calls.append((z, logsnr, label))
        return (label[:, None, None, None] + 1.0) * z + logsnr[:, None, None, None]


@dataclasses.dataclass(frozen=True)
class OneEps(samplers.Sampler):
    """The prediction of the last level itself."""

    def step(self, predict, z, level, state):
        prediction, guidance = predict(z, level.logsnr, state.guidance)
        return prediction.eps, state._replace(guidance=guidance)
