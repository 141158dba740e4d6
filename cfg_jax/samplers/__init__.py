"""Samplers: from noise to images along a guided prediction. They know nothing of networks.

A new sampler is one file with a frozen dataclass that extends `Sampler`, and one line in
`SAMPLERS`. Each is also a function here: `samplers.ancestral(eps_fn, z, keys, num_steps=256)`.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from cfg_jax.registry import Registry

if TYPE_CHECKING:
    import jax

    from cfg_jax.models.denoiser import Prediction
    from cfg_jax.samplers.grids import Grid

SAMPLERS = Registry(
    'sampler',
    {
        'ancestral': ('cfg_jax.samplers.ancestral:Ancestral', "the paper's Algorithm 2"),
        'ddim': ('cfg_jax.samplers.ddim:DDIM', 'deterministic, eta = 0 (Song et al. 2021)'),
    },
)

# eps_fn(z [B, ...], logsnr []) -> eps [B, ...]
EpsFn = Callable[['jax.Array', 'jax.Array'], 'jax.Array']
# predict(z [B, ...], logsnr [], state) -> (prediction, next state); a step may call it repeatedly
Predict = Callable[['jax.Array', 'jax.Array', Any], 'tuple[Prediction, Any]']


class Level(NamedTuple):
    """One step of a sampler.

    Attributes:
      t: its number from 0, int32 [].
      logsnr: the level, [].
      logsnr_prime: the next, cleaner one, []; of the last level its own.
      last: whether this is the last level, which returns x~ itself, bool [].
      keys: random keys of the images for this step, [B].
    """

    t: jax.Array
    logsnr: jax.Array
    logsnr_prime: jax.Array
    last: jax.Array
    keys: jax.Array


class State(NamedTuple):
    """What is carried from step to step: `predict`'s state, and the sampler's own history."""

    guidance: Any
    history: Any = ()


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A sampler with its settings.

    Attributes:
      num_steps: T, the number of levels, both ends of the grid included.
      clip: clip x~ to [-1, 1] at every level. The paper does not say; its authors' public code
        does, and x~ = (z - sigma eps~) / alpha explodes at small alpha without it.
      grid: where the levels lie.
    """

    stochastic: ClassVar[bool] = False

    num_steps: int = 256
    clip: bool = True
    grid: Grid | None = None

    def init(self, z: jax.Array) -> Any:
        """The sampler's own history before the first step, a pytree."""
        return ()

    def step(
        self, predict: Predict, z: jax.Array, level: Level, state: State
    ) -> tuple[jax.Array, State]:
        """z at level.logsnr_prime, [B, ...], or x~ if the level is the last; and the next state."""
        raise NotImplementedError


def __getattr__(name: str) -> Any:
    if name not in SAMPLERS:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def sample(eps_fn: EpsFn, z: jax.Array, keys: jax.Array, **settings: Any) -> jax.Array:
        from cfg_jax.samplers.loop import follow

        return follow(SAMPLERS.make(name, **settings), eps_fn, z, keys)

    sample.__name__, sample.__doc__ = name, SAMPLERS[name].summary
    return sample


class _Package(types.ModuleType):
    """Keeps `samplers.ancestral` a function after Python has imported the file of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in SAMPLERS and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
