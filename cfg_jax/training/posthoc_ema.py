"""Averages of parameters of any length, chosen after training (Karras et al. 2024, appendix C).

The power-function average of exponent g at step t gives the parameters after step n the weight

    (n^(g + 1) - (n - 1)^(g + 1)) / t^(g + 1), about (g + 1) n^g / t^(g + 1).

Its length is named by sigma_rel, the deviation of that profile as a share of t. Training keeps two
such averages and writes both at intervals; a profile of any other length is close to a combination
of those that were written.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Num
from safetensors.numpy import load, save

from cfg_jax import files
from cfg_jax.errors import UserError

KEPT = (0.05, 0.10)  # lengths of the averages that training keeps, the published ones
LONGEST = 0.28  # sigma_rel of g = 0, equal weights, is 0.2887
_DIRECTORY = 'averages'
_NAME = re.compile(r'step_(\d+)\.safetensors')


def exponent(sigma_rel: float) -> float:
    """g of sigma_rel^2 = (g + 1) / ((g + 2)^2 (g + 3)), the only solution above 0.

    Raises:
      UserError: sigma_rel is not in (0, 0.28].
    """
    if not 0.0 < sigma_rel <= LONGEST:
        raise UserError(f'sigma_rel is above 0 and at most {LONGEST}; got {sigma_rel}')
    t = sigma_rel**-2
    return float(np.roots([1.0, 7.0, 16.0 - t, 12.0 - t]).real.max())


def start(params: Any) -> tuple[Any, ...]:
    """The averages before the first step, copies of `params`; the first step forgets them."""
    return tuple(jax.tree.map(jnp.copy, params) for _ in KEPT)


def update(averages: tuple[Any, ...], params: Any, step: jax.Array) -> tuple[Any, ...]:
    """b average + (1 - b) params, b = (1 - 1 / t)^(g + 1), after step t = 1, 2, ... for each g.

    Args:
      averages: those of `start`, of the exponents of KEPT.
      params: after step t.
      step: t, int32 [].
    """

    def updated(average: Any, sigma_rel: float) -> Any:
        power = exponent(sigma_rel) + 1.0
        t = step.astype(jnp.float32)
        # 1 - b: log1p keeps its digits where t is large. At t = 1 it is 1.
        share = -jnp.expm1(power * jnp.log1p(-1.0 / t))
        return jax.tree.map(lambda a, p: a + share.astype(a.dtype) * (p - a), average, params)

    return tuple(updated(*each) for each in zip(averages, KEPT, strict=True))


def write(workdir: epath.PathLike, step: int, averages: tuple[Any, ...]) -> None:
    """Writes the averages at a step as WORKDIR/averages/step_N.safetensors.

    Raises:
      OSError: no room, no permission.
    """
    tensors = {
        f'{sigma_rel:g}/{name}': np.ascontiguousarray(array)
        for sigma_rel, average in zip(KEPT, averages, strict=True)
        for name, array in flatten_dict(jax.device_get(average), sep='/').items()
    }
    files.write_bytes(_path(workdir, step), save(tensors))


def written_steps(workdir: epath.PathLike) -> list[int]:
    """Steps at which averages were written, ascending."""
    directory = files.as_path(workdir) / _DIRECTORY
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))


class Combination(NamedTuple):
    """What an average is made of.

    Attributes:
      weights: of the averages that were written, float64 [steps, lengths].
      error: of the profile that they give, relative, in the mean square over n.
    """

    weights: np.ndarray
    error: float


def combine(steps: Sequence[int], step: int, sigma_rel: float) -> Combination:
    """The combination of the averages written at `steps` nearest to the one of a length at `step`.

    Least squares of the profiles over n in (0, step], with the inner products in closed form
    (Algorithm 3 of the paper), but with weights that sum to 1: what does not move in training is
    then reconstructed exactly, which the published weights miss by up to some percent.

    Raises:
      UserError: sigma_rel out of range, or no averages.
    """
    goal = exponent(sigma_rel)
    if not steps:
        raise UserError('there are no averages to combine')
    times = np.repeat(np.asarray(steps, np.float64), len(KEPT))
    exponents = np.tile([exponent(kept) for kept in KEPT], len(steps))
    gram = inner(times[:, None], exponents[:, None], times, exponents)
    wanted = inner(times, exponents, float(step), goal)
    ones = np.ones((len(times), 1))
    # Lagrange's conditions: gram w + m = wanted, sum w = 1.
    system = np.block([[gram, ones], [ones.T, np.zeros((1, 1))]])
    weights = np.linalg.lstsq(system, np.append(wanted, 1.0), rcond=None)[0][:-1]
    own = float(inner(float(step), goal, float(step), goal))
    squared = own - 2.0 * weights @ wanted + weights @ gram @ weights
    return Combination(
        weights.reshape(len(steps), len(KEPT)), float(np.sqrt(max(squared, 0.0) / own))
    )


def inner(
    time_a: Num[np.ndarray, '*a'] | float,
    a: Num[np.ndarray, '*a'] | float,
    time_b: Num[np.ndarray, '*b'] | float,
    b: Num[np.ndarray, '*b'] | float,
) -> np.ndarray:
    """int_0^min(s, t) p_a(n) p_b(n) dn, with p_a(n) = (a + 1) n^a / s^(a + 1), s = time_a.

    = (a + 1) (b + 1) / (a + b + 1) (min / max)^(exponent of the later one) / max(s, t).
    """
    earlier, later = np.minimum(time_a, time_b), np.maximum(time_a, time_b)
    of_later = np.where(np.asarray(time_a) < time_b, b, a)
    return (a + 1.0) * (b + 1.0) / (a + b + 1.0) * (earlier / later) ** of_later / later


def reconstruct(
    workdir: epath.PathLike, sigma_rel: float, step: int | None = None
) -> tuple[Any, int, float]:
    """The average of a length at a step, from what training wrote: parameters, step, error.

    Args:
      workdir: of the training, with `train.averages_every` above 0.
      sigma_rel: the length, a share of the steps so far.
      step: at which averages were written; by default the last one.

    Returns:
      The parameters as NumPy arrays, the step, and `Combination.error`.

    Raises:
      UserError: nothing was written, none at this step, a damaged file, or sigma_rel out of range.
    """
    steps = written_steps(workdir)
    if not steps:
        raise UserError(
            f'{workdir} holds no averages: train with --config.train.averages_every=N, the steps'
            ' between two of them'
        )
    step = steps[-1] if step is None else step
    if step not in steps:
        raise UserError(
            f'{workdir} has no averages of step {step}; it has: {", ".join(map(str, steps))}'
        )
    steps = [earlier for earlier in steps if earlier <= step]
    combination = combine(steps, step, sigma_rel)
    total: dict[str, np.ndarray] = {}
    for at, weights in zip(steps, combination.weights, strict=True):
        of_length = {f'{kept:g}': weight for kept, weight in zip(KEPT, weights, strict=True)}
        for tensor, array in _read(_path(workdir, at)).items():
            length, _, name = tensor.partition('/')
            # In float64: large weights of both signs meet here.
            total[name] = total.get(name, 0.0) + of_length[length] * array.astype(np.float64)
    params = {name: array.astype(np.float32) for name, array in total.items()}
    return unflatten_dict(params, sep='/'), step, combination.error


def _read(path: epath.Path) -> dict[str, np.ndarray]:
    """The averages in a file, by 'LENGTH/PARAMETER'."""
    try:
        return load(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise UserError(
            f'{path} is damaged; remove it, and the others give the average less exactly'
        ) from error


def _path(workdir: epath.PathLike, step: int) -> epath.Path:
    return files.as_path(workdir) / _DIRECTORY / f'step_{step:08d}.safetensors'
