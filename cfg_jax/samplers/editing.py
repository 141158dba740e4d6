"""Sampling that begins with a given image: noised and denoised, or with a part painted anew.

Image to image is SDEdit (Meng et al. 2022), painting by a mask RePaint (Lugmayr et al. 2022,
Algorithm 1 with jumps of one level).
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.diffusion import ImageArray, Images, q_forward, q_sample
from cfg_jax.errors import UserError
from cfg_jax.keys import Keys, per_image_noise, stream
from cfg_jax.samplers import Level, Sampler
from cfg_jax.samplers.grids import Grid
from cfg_jax.samplers.loop import start

_KNOWN, _BACK = 1, 2  # streams below a step's key, which the sampler draws from itself


@flax.struct.dataclass
class Edit:
    """What is given of the images.

    Attributes:
      image: in [-1, 1], float32 [B, H, W, C].
      anew: which pixels are painted anew, bool [B, H, W, 1]; None for all of them. The others are
        known: they have the image's values at the end, and the image noised to the level before.
      strength: share of the levels that are run, the last ones, in (0, 1]; at 1 all of them, from
        noise.
      resample: steps a level: after each but the last the noise of the step is added again, so that
        what is painted agrees with what is known.
    """

    image: Any
    anew: Any = None
    strength: float = flax.struct.field(pytree_node=False, default=1.0)
    resample: int = flax.struct.field(pytree_node=False, default=1)

    def check(self, sampler: Sampler, shape: tuple[int, ...]) -> None:
        """Whether images of `shape` [B, H, W, C] can be edited so by the sampler.

        Raises:
          UserError: they cannot, and why.
        """
        if np.shape(self.image) != shape:
            raise UserError(
                f'the images to edit have the shape {np.shape(self.image)}, those of the model'
                f' {shape}'
            )
        if not 0.0 < self.strength <= 1.0:
            raise UserError(f'strength is in (0, 1] where something is drawn; got {self.strength}')
        if not isinstance(self.resample, int | np.integer) or self.resample < 1:
            raise UserError(f'resample is at least 1, a whole number; got {self.resample!r}')
        if self.anew is None:
            if self.resample > 1:
                raise UserError('resampling is for a mask: without one nothing is known')
            return
        if np.shape(self.anew) != (*shape[:3], 1):
            raise UserError(
                f'the masks have the shape {np.shape(self.anew)}; images of {shape} need'
                f' {(*shape[:3], 1)}'
            )
        if jax.tree.leaves(jax.eval_shape(sampler.init, jax.ShapeDtypeStruct(shape, jnp.float32))):
            raise UserError(
                f'{type(sampler).__name__} extrapolates from earlier levels, where the known pixels'
                ' had other noise: paint by a mask with ancestral, ddim, euler or heun'
            )


def edit_loop(
    sampler: Sampler, predict: Any, z: Images, keys: Keys, edit: Edit
) -> tuple[ImageArray, Any]:
    """x~ [B, ...] at the last level, and the last state of `predict`; see `loop.sample_loop`.

    With L of the T levels to run, a mask takes resample (L - 1) + 1 steps, else L.

    Args:
      sampler, predict: as there.
      z: noise of the start, N(0, I), float32 [B, ...].
      keys: one random key per image, [B]; visit u of step t uses fold_in(key, t + u T).
      edit: what is given; at strength 1 without a mask the result is that of `sample_loop`.
    """
    levels = (sampler.grid or Grid()).levels(sampler.num_steps)
    total, last = len(levels), len(levels) - 1
    first = total - max(1, round(edit.strength * total))
    noised = q_sample(edit.image, levels[first], z)
    z = noised if first else jnp.asarray(z)
    if edit.anew is not None:
        z = jnp.where(edit.anew, z, noised)

    def body(carry, inputs):
        (z, state, before), (t, visit, logsnr, logsnr_prime) = carry, inputs
        level = Level(t, logsnr, logsnr_prime, t == last, stream(keys, t + visit * total))
        before = jax.lax.cond(visit == 0, lambda: state.guidance, lambda: before)
        given = state._replace(guidance=predict.of_one_level(before, state.guidance))
        z, state = sampler.step(predict, z, level, given)
        if edit.anew is not None:
            z = _with_known(edit, z, level)
            again = ~level.last & (visit < edit.resample - 1)
            z = jax.lax.cond(again, _noised_again, lambda z, _: z, z, level)
        return (z, state, before), None

    visits = edit.resample
    t = np.append(np.repeat(np.arange(first, last), visits), last)
    visit = np.append(np.tile(np.arange(visits), last - first), 0)
    primes = levels[np.minimum(t + 1, last)]  # the last one is not used
    z, state = start(sampler, predict, z)
    inputs = jnp.asarray(t), visit, levels[t], primes
    (x, state, _), _ = jax.lax.scan(body, (z, state, state.guidance), inputs)
    return x, state.guidance


def _with_known(edit: Edit, z: jax.Array, level: Level) -> jax.Array:
    """z at the next level with the known pixels drawn from q(z' | x), or the image at the end."""
    noise = per_image_noise(stream(level.keys, _KNOWN), z.shape[1:])
    known = q_sample(edit.image, level.logsnr_prime, noise)
    return jnp.where(edit.anew, z, jnp.where(level.last, edit.image, known))


def _noised_again(z: jax.Array, level: Level) -> jax.Array:
    """A draw from q(z | z'), from the next level back to this one, eq. (2)."""
    mean, log_variance = q_forward(z, level.logsnr_prime, level.logsnr)
    noise = per_image_noise(stream(level.keys, _BACK), z.shape[1:])
    return mean + jnp.exp(0.5 * log_variance) * noise
