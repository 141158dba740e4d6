"""The one interface to networks: whatever a network predicts, as eps of the paper's process."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cfg_jax.conditioning import Condition
from cfg_jax.diffusion import (
    EPS,
    VARIANCE_PRESERVING,
    ImageArray,
    Images,
    PerImage,
    Scaling,
    Target,
    broadcast_to_images,
    check_same_shape,
    x_from_eps,
)
from cfg_jax.models.casting import cast_as_used

# network(params, z [B, H, W, C], time [B], condition, **options) -> [B, H, W, C or 2 C]
Network = Callable[..., Any]


class Prediction(NamedTuple):
    """What samplers and guidance rules learn of a network at z [B, H, W, C].

    Attributes:
      eps: the noise, float32 [B, H, W, C].
      v: exponent of the reverse process's variance, eq. (4), per pixel; None where the network
        does not predict it.
      mean_gradient: gradient of a log-density that shifts the mean of ancestral transitions, times
        its weight (classifier guidance); None without.
      renoise: eps that takes x~ to the next level, where it is not `eps` (CFG++); None without.
      x: x~ that belongs to `eps`, of networks that predict something else; None where eps alone is
        known, from which it loses digits at small alpha.
    """

    eps: jax.Array
    v: jax.Array | None = None
    mean_gradient: jax.Array | None = None
    renoise: jax.Array | None = None
    x: jax.Array | None = None

    def to_x(self, z: jax.Array, logsnr: jax.Array) -> jax.Array:
        """x~, or (z - sigma eps~) / alpha, [B, H, W, C]."""
        return x_from_eps(z, self.eps, logsnr) if self.x is None else self.x


class Preconditioning(NamedTuple):
    """prediction = skip z + out network(in z), the three functions of logsnr [B] (Karras 2022)."""

    skip: Callable[[jax.Array], jax.Array]
    out: Callable[[jax.Array], jax.Array]
    inside: Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A network with what it was trained to see and to predict.

    Attributes:
      network: network(params, z, time, condition), in its own scaling, time and target.
      target: what it predicts.
      scaling: the z that it sees.
      time: its time input [B] as a function of logsnr [B]; the paper's networks see logsnr itself.
      preconditioning: in the network's scaling; None without.
      learned_variance: whether the output has twice the channels, the second half h in [-1, 1]
        giving the variance exponent v = (h + 1) / 2 (ADM).
      dtype: the type of the network's products.
    """

    network: Network
    target: Target = EPS
    scaling: Scaling = VARIANCE_PRESERVING
    time: Callable[[jax.Array], jax.Array] = lambda logsnr: logsnr
    preconditioning: Preconditioning | None = None
    learned_variance: bool = False
    dtype: Any = jnp.float32

    def for_a_loop(self, params: Any, z: Images, logsnr: PerImage, condition: Condition) -> Any:
        """`params` for a loop of predictions like `predict(params, z, logsnr, condition)`.

        The predictions are the same, and parameters are cast before the loop, not at every level.
        """
        if jnp.dtype(self.dtype).itemsize == 4:
            return params
        return cast_as_used(self.predict, params, z, logsnr, condition)

    def eps(self, params: Any, z: Images, logsnr: PerImage, condition: Condition) -> ImageArray:
        """eps_theta(z, c): z in the variance-preserving scaling, [B, H, W, C].

        Args:
          params: of the network.
          z: float32 [B, H, W, C].
          logsnr: one for all, [], or one per image, [B].
          condition: a pytree of arrays [B, ...].

        Raises:
          ValueError: shapes that do not agree.
        """
        return self.predict(params, z, logsnr, condition).eps

    def predict(
        self,
        params: Any,
        z: Images,
        logsnr: PerImage,
        condition: Condition,
        *,
        shown_logsnr: PerImage | None = None,
        **options: Any,
    ) -> Prediction:
        """`eps`, and the variance exponent where the network predicts it; arguments as there.

        `shown_logsnr` takes the place of logsnr in the network's time input alone; `options` reach
        the network.
        """
        prediction, v = self._outputs(params, z, logsnr, condition, shown_logsnr, **options)
        eps = self.target.to_eps(z, prediction, logsnr)
        x = None if self.target is EPS else self.target.to_x(z, prediction, logsnr)
        return Prediction(eps, v, x=x)

    def prediction(
        self, params: Any, z: Images, logsnr: PerImage, condition: Condition, **options: Any
    ) -> ImageArray:
        """The prediction of `target`, for training; `options` reach the network."""
        return self._outputs(params, z, logsnr, condition, **options)[0]

    def _outputs(
        self,
        params: Any,
        z: Images,
        logsnr: PerImage,
        condition: Condition,
        shown_logsnr: PerImage | None = None,
        **options: Any,
    ) -> tuple[jax.Array, jax.Array | None]:
        z, logsnr = jnp.asarray(z), _one_per_image(logsnr, z)
        shown = logsnr if shown_logsnr is None else _one_per_image(shown_logsnr, z)

        def scaled(function: Callable[[jax.Array], jax.Array], array: jax.Array) -> jax.Array:
            return broadcast_to_images(function(logsnr), array) * array

        # The paper's networks see z as it is: not multiplied, so that nothing is rounded.
        seen = z if self.scaling is VARIANCE_PRESERVING else scaled(self.scaling.factor, z)
        inner = seen if self.preconditioning is None else scaled(self.preconditioning.inside, seen)
        output = self.network(params, inner, self.time(shown), condition, **options)
        v = None
        if self.learned_variance:
            output, learned = jnp.split(output, 2, axis=-1)
            v = 0.5 * (learned + 1.0)
        check_same_shape(z=z, network_output=output)
        if self.preconditioning is not None:
            output = scaled(self.preconditioning.skip, seen) + scaled(
                self.preconditioning.out, output
            )
        return output, v


def _one_per_image(logsnr: PerImage, z: Images) -> jax.Array:
    """logsnr [] or [B] -> [B]; any other shape is a ValueError."""
    broadcast_to_images(logsnr, z)
    return jnp.broadcast_to(logsnr, z.shape[:1])
