"""The loop of every sampler: a whole trajectory as one `lax.scan`.

Every image carries its own random key, so that its trajectory does not depend on the images it
shares a batch with.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cfg_jax.diffusion import ImageArray, Images, check_same_shape
from cfg_jax.keys import Keys, stream
from cfg_jax.models.denoiser import Prediction
from cfg_jax.samplers import EpsFn, Level, Sampler, State
from cfg_jax.samplers.grids import Grid


class Row(NamedTuple):
    """A level without the random keys of images; `rows` has all of a sampler, [T] each."""

    t: jax.Array
    logsnr: jax.Array
    logsnr_prime: jax.Array
    last: jax.Array


def sample_loop(sampler: Sampler, predict: Any, z: Images, keys: Keys) -> tuple[ImageArray, Any]:
    """x~ [B, ...] at the last level, and the last state of `predict`.

    Args:
      sampler: makes the steps.
      predict: predict(z, logsnr, state) -> (prediction, next state), with predict.init(z) for the
        first state, such as `guidance.guided.GuidedDenoiser`.
      z: start, z_1 ~ N(0, I), float32 [B, ...].
      keys: one random key per image, [B]; step t uses fold_in(key, t).

    Raises:
      ValueError: not as many keys as images, or fewer than two levels.
    """
    (x, state), _ = jax.lax.scan(*_steps(sampler, predict, z, keys, keep=False))
    return x, state.guidance


def trajectory(sampler: Sampler, predict: Any, z: Images, keys: Keys) -> jax.Array:
    """z [T + 1, B, ...] along the loop: the start first, x~ last; arguments as in `sample_loop`."""
    _, kept = jax.lax.scan(*_steps(sampler, predict, z, keys, keep=True))
    return jnp.concatenate([jnp.asarray(z)[None], kept])


def _steps(
    sampler: Sampler, predict: Any, z: Images, keys: Keys, *, keep: bool
) -> tuple[Callable[[Any, Row], Any], Any, Row]:
    """What is scanned: a step, its start, and the levels; with `keep` z of every step too."""
    if keys.shape != z.shape[:1]:
        raise ValueError(f'{z.shape[0]} images need as many keys; got the shape {keys.shape}')

    def body(carry, row):
        # The last level is in the loop too: outside of it the network would be compiled twice.
        z, state = sampler.step(predict, carry[0], level_of(row, keys), carry[1])
        return (z, state), z if keep else None

    return body, start(sampler, predict, z), rows(sampler)


def rows(sampler: Sampler) -> Row:
    """The levels of a sampler in their order."""
    levels = (sampler.grid or Grid()).levels(sampler.num_steps)
    t = jnp.arange(len(levels))
    primes = jnp.append(levels[1:], levels[-1])  # the last one is not used
    return Row(t, levels, primes, t == len(levels) - 1)


def level_of(row: Row, keys: Keys) -> Level:
    """A level of images with these keys, [B], of their whole trajectories."""
    return Level(*row, stream(keys, row.t))


def start(sampler: Sampler, predict: Any, z: Images) -> tuple[jax.Array, State]:
    """What the first step takes: z, and the first states of `predict` and of the sampler."""
    z = jnp.asarray(z)
    return z, State(predict.init(z), sampler.init(z))


def follow(sampler: Sampler, eps_fn: EpsFn, z: Images, keys: Keys) -> ImageArray:
    """x~ [B, ...] of a sampler along eps_fn(z, logsnr), a user's own (guided) network.

    Arguments as in `sample_loop`.
    """
    return sample_loop(sampler, _Stateless(eps_fn), z, keys)[0]


class _Stateless:
    """An eps_fn as a `predict` without a state."""

    def __init__(self, eps_fn: EpsFn):
        self._eps_fn = eps_fn

    def init(self, z: jax.Array) -> tuple[()]:
        return ()

    def of_one_level(self, first: tuple[()], last: tuple[()]) -> tuple[()]:
        return last

    def __call__(
        self, z: jax.Array, logsnr: jax.Array, state: Any, step: jax.Array | None = None
    ) -> tuple[Prediction, Any]:
        del step
        eps = self._eps_fn(z, logsnr)
        check_same_shape(z=z, eps=eps)
        return Prediction(eps), state
