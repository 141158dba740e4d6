"""Samplers: from noise to images along a guided prediction. They know nothing of networks.

A new sampler is one file with a frozen dataclass that extends `Sampler`, and one line in
`SAMPLERS`. Each is also a function here: `samplers.ancestral(eps_fn, z, keys, num_steps=256)`.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from cfg_jax.registry import Registry

if TYPE_CHECKING:
    import jax

    from cfg_jax.models.denoiser import Prediction
    from cfg_jax.samplers.grids import Grid

SAMPLERS = Registry(
    'sampler',
    {
        'ancestral': ('cfg_jax.samplers.ancestral:Ancestral', "the paper's Algorithm 2"),
        'ddim': ('cfg_jax.samplers.ddim:DDIM', 'eta = 0 deterministic, eta = 1 (Song 2021)'),
        'dpmpp_2m': (
            'cfg_jax.samplers.dpmpp:DPMPP2M',
            'DPM-Solver++ of order 2, one evaluation a level (Lu 2022)',
        ),
        'dpmpp_2m_sde': (
            'cfg_jax.samplers.dpmpp:DPMPP2MSDE',
            'its stochastic form',
        ),
        'unipc': ('cfg_jax.samplers.unipc:UniPC', 'predictor-corrector of order 2 (Zhao 2023)'),
        'euler': ('cfg_jax.samplers.edm:Euler', "EDM's Euler steps, with churn (Karras 2022)"),
        'heun': ('cfg_jax.samplers.edm:Heun', "EDM's Heun steps of order 2, with churn"),
        'flow_heun': (
            'cfg_jax.samplers.flow:FlowHeun',
            'Heun steps of order 2 in the t of a rectified flow (SiT)',
        ),
        'flow_sde': ('cfg_jax.samplers.flow:FlowSDE', "SiT's stochastic sampler, in the same t"),
    },
)

GRIDS = Registry(
    'grid',
    {
        'schedule': (
            'cfg_jax.samplers.grids:Grid',
            "the paper's: uniform in the u of the schedule",
        ),
        'logsnr': ('cfg_jax.samplers.grids:LogSNRGrid', 'uniform in log-SNR'),
        'edm': ('cfg_jax.samplers.grids:EDMGrid', 'noise levels uniform in s^(1/7) (Karras 2022)'),
        'respaced': (
            'cfg_jax.samplers.grids:RespacedGrid',
            'steps of 1,000 discrete ones, evenly spaced as ADM does',
        ),
        'strided': (
            'cfg_jax.samplers.grids:StridedGrid',
            "every k-th of 1,000 discrete steps, ADM's for DDIM",
        ),
        'flow': (
            'cfg_jax.samplers.grids:FlowGrid',
            'uniform in the t of a rectified flow, the last at 0.04 (SiT)',
        ),
    },
)

# eps_fn(z [B, ...], logsnr []) -> eps [B, ...]
EpsFn = Callable[['jax.Array', 'jax.Array'], 'jax.Array']


class Predict(Protocol):
    """predict(z [B, ...], logsnr [], state) -> (prediction, next state), what a sampler follows.

    A fourth argument is the level of the step, [], where the prediction is asked for at another
    one: whether a rule guides is decided once a step.
    """

    def init(self, z: jax.Array) -> Any:
        """The state before the first level, a pytree."""

    def __call__(
        self, z: jax.Array, logsnr: jax.Array, state: Any, step: jax.Array | None = None
    ) -> tuple[Prediction, Any]:
        """The prediction at a level; a step may ask more than once."""
        raise NotImplementedError

    def of_one_level(self, first: Any, last: Any) -> Any:
        """The state after a level at which several predictions were asked for.

        Args:
          first, last: after the first and the last of them.
        """


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

    Class attributes:
      shifts_mean: whether it adds `Prediction.mean_gradient` times the variance of a transition to
        its mean, as the ancestral sampler does.
      renoises: whether it takes `Prediction.renoise`.
      corrects: whether each level but the last takes a second prediction, at the next level.
      revision: of what it computes; a sweep of another one is not continued.
    """

    shifts_mean: ClassVar[bool] = False
    renoises: ClassVar[bool] = False
    corrects: ClassVar[bool] = False
    revision: ClassVar[int] = 0

    num_steps: int = 256
    clip: bool = True
    grid: Grid | None = None

    @property
    def predictions(self) -> int:
        """How many a trajectory takes: one a level, or two and one at the last."""
        return 2 * self.num_steps - 1 if self.corrects else self.num_steps

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
