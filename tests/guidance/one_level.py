"""A rule at one noise level, with a network that depends on everything."""

import jax
import jax.numpy as jnp

from cfg_jax.conditioning.label import Label
from cfg_jax.guidance import make_rule
from cfg_jax.guidance.guided import GuidedDenoiser
from cfg_jax.models.denoiser import Denoiser

LABELS = Label(10)
SHAPE = (4, 6, 6, 3)


def normal(seed, shape=SHAPE):
    return jax.random.normal(jax.random.key(seed), shape)


def network(params, z, logsnr, label, perturbation=None):
    """Something that depends on everything, and mixes pixels."""
    del params
    shift = jnp.sin(label.astype(jnp.float32) + 0.1 * logsnr)[:, None, None, None]
    mixed = 0.3 * z + 0.2 * jnp.roll(z, 1, axis=1) * shift + shift
    return mixed if perturbation is None else 0.5 * mixed


def guided(spec, w, label=(3, 3, 7, 1), logsnr=0.7, networks=(), z=None):
    """The guided eps of a rule at one level, and its state."""
    denoiser = Denoiser(network)
    bound = GuidedDenoiser(
        make_rule(spec),
        {'main': denoiser, 'guide': Denoiser(lambda *a: 0.9 * network(*a)), **dict(networks)},
        {'main': (), 'guide': (), 'classifier': ()},
        LABELS,
        jnp.asarray(label),
        jax.random.split(jax.random.key(5), len(label)),
        jnp.broadcast_to(jnp.asarray(w, jnp.float32), (len(label),)),
    )
    z = normal(0) if z is None else z
    prediction, state = bound(z, jnp.float32(logsnr), bound.init(z))
    return prediction, state


def direct(label, logsnr=0.7):
    logsnr = jnp.broadcast_to(jnp.asarray(logsnr), (4,))
    return network((), normal(0), logsnr, jnp.broadcast_to(jnp.asarray(label), (4,)))
