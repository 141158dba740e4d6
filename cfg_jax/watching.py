"""A picture while it forms: x~ at every step of a sampler, one compiled step at a time."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax import model_checks
from cfg_jax.conditioning import Condition
from cfg_jax.data.images import to_uint8
from cfg_jax.distributed import devices
from cfg_jax.guidance.guided import weights_of_images
from cfg_jax.inference import Model
from cfg_jax.models.denoiser import Prediction
from cfg_jax.samplers.loop import Row, level_of, rows, start


class Watcher:
    """Steps of a model's sampler. Compiles once unguided and once guided, a number of images each.

    Args:
      model: with its rule and its sampler.
    """

    def __init__(self, model: Model):
        self.model = model
        self._begin = jax.jit(self._first)
        self._step = jax.jit(self._next, donate_argnums=2)
        self._show = jax.jit(lambda params, x: to_uint8(model.decoded(params, x)))

    def pictures(
        self, seed: int, indices: Sequence[int], condition: Condition, w: float
    ) -> Iterator[Callable[[], np.ndarray]]:
        """After each step, what makes the images that it promises, uint8 [B, H, W, C].

        The last are those of `generate` but for rounding: a trajectory compiled as a whole adds in
        another order. Latents are decoded where the images are asked for, which may take longer
        than the step.

        Args:
          seed, indices, condition: as of `Model.generate`.
          w: one weight for all images, see `Model.generate`.

        Raises:
          UserError: as of `Model.generate`.
        """
        model = self.model
        model_checks.check_numbers(seed, indices)
        model_checks.check_lengths(len(indices), condition, w)
        of_images = weights_of_images(model.rule, model.config, w, len(indices))
        weights = None if of_images is None else jnp.asarray(of_images)
        numbers = jnp.asarray(np.asarray(indices, np.uint32))
        inputs = _Inputs(model.params, jnp.uint32(seed), numbers, condition, weights)
        # Placed as the parameters are, or the second step would be compiled anew.
        return self._follow(jax.device_put(inputs, devices.replicated()))

    def _follow(self, inputs: '_Inputs') -> Iterator[Callable[[], np.ndarray]]:
        carry = self._begin(inputs)
        table = jax.tree.map(np.asarray, rows(self.model.sampler))
        for t in range(self.model.sampler.num_steps):
            carry, x = self._step(inputs, Row(*(column[t] for column in table)), carry)
            # JAX would run ahead, and who looks could not stop it.
            x.block_until_ready()
            yield functools.partial(self._images, inputs.params, x)

    def _images(self, params: Mapping[str, Any], x: jax.Array) -> np.ndarray:
        return np.asarray(self._show(params, x))

    def _first(self, inputs: '_Inputs') -> Any:
        predict, z, _ = self.model.start(*inputs)
        return start(self.model.sampler, _Recording(predict), z)

    def _next(self, inputs: '_Inputs', row: Row, carry: Any) -> tuple[Any, jax.Array]:
        predict, _, keys = self.model.start(*inputs)
        level = level_of(row, keys)
        z, state = self.model.sampler.step(_Recording(predict), carry[0], level, carry[1])
        # The sampler's own last word may be another than x~.
        return (z, state), jnp.where(level.last, z, state.guidance.x)


class _Inputs(NamedTuple):
    """What `Model.start` takes."""

    params: Mapping[str, Any]
    seed: jax.Array
    indices: jax.Array
    condition: Condition
    w: jax.Array | None


class _Recorded(NamedTuple):
    """The state of a `predict`, and the x~ of its last evaluation."""

    inner: Any
    x: jax.Array


class _Recording:
    """A `predict` that keeps x~."""

    def __init__(self, predict: Any):
        self._predict = predict

    def init(self, z: jax.Array) -> _Recorded:
        return _Recorded(self._predict.init(z), jnp.zeros_like(z))

    def of_one_level(self, first: _Recorded, last: _Recorded) -> _Recorded:
        return _Recorded(self._predict.of_one_level(first.inner, last.inner), last.x)

    def __call__(
        self, z: jax.Array, logsnr: jax.Array, state: _Recorded, step: jax.Array | None = None
    ) -> tuple[Prediction, _Recorded]:
        prediction, inner = self._predict(z, logsnr, state.inner, step)
        return prediction, _Recorded(inner, prediction.to_x(z, logsnr))
