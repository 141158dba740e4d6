"""The rows of ablations.py: ways of sampling, and what should come of each."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict


class Relation(NamedTuple):
    """A metric of this row against that of another row, or against a number.

    `sign` '>' or '<' asks for a difference beyond two standard errors, '~' for less than that, or
    less than a quarter of the value.
    """

    metric: str
    sign: str
    other: str | float


class Row(NamedTuple):
    """One way of sampling, and what should come of it.

    Attributes:
      name: of the row.
      expected: in words, with the reason.
      relations: the same as inequalities, all of which should hold.
      w: guidance weight.
      p_uncond: of the model.
      sampling: changes of the config's group.
      noise: whether Gaussian noise stands for eps(z).
    """

    name: str
    expected: str
    relations: tuple[Relation, ...]
    w: float
    p_uncond: float = 0.1
    sampling: tuple[tuple[str, Any], ...] = ()
    noise: bool = False


class Group(NamedTuple):
    """Rows that one compiled sampler serves."""

    p_uncond: float
    sampling: tuple[tuple[str, Any], ...]
    noise: bool
    rows: tuple[Row, ...]

    def slug(self) -> str:
        """Its name as a directory."""
        # Directories of the first edition, in which `sampler.name` was `sampling.sampler`.
        sampling = [('sampler' if f == 'name' else f, value) for f, value in self.sampling]
        parts = [f'p{self.p_uncond:g}', *(f'{field}-{value}' for field, value in sampling)]
        # Earlier sweeps of p_uncond = 0 do not name their rule, and would be refused.
        parts += ['untrained-null'] * (self.p_uncond == 0.0)
        return '-'.join(parts + ['fresh-noise'] * self.noise)

    def config(self, config: ConfigDict) -> ConfigDict:
        """The config of its rows."""
        copy = config.copy_and_resolve_references()
        copy.p_uncond = self.p_uncond
        copy.sampler.update(dict(self.sampling))
        copy.sweep.w = tuple(row.w for row in self.rows)
        return copy


def _more(metric: str, other: str | float) -> Relation:
    return Relation(metric, '>', other)


def _less(metric: str, other: str | float) -> Relation:
    return Relation(metric, '<', other)


def _same(metric: str, other: str | float) -> Relation:
    return Relation(metric, '~', other)


_AGREEMENT = 'class_agreement'

_WEIGHTS = (
    Row(
        'w = -1',
        'the unconditional model: the class is right by chance',
        (_same(_AGREEMENT, 0.1),),
        w=-1.0,
    ),
    Row(
        'w = -0.5',
        'interpolation: less of the class than w = 0, more than by chance',
        (_less(_AGREEMENT, 'w = 0'), _more(_AGREEMENT, 'w = -1')),
        w=-0.5,
    ),
    Row(
        'w = 0',
        'the conditional model: FID below that of strong guidance',
        (_less('fid', 'w = 1'),),
        w=0.0,
    ),
    Row('w = 0.5', 'extrapolation raises IS', (_more('is', 'w = 0'),), w=0.5),
    Row(
        'w = 1',
        'more of it: higher IS than w = 0, higher FID',
        (_more('is', 'w = 0'), _more('fid', 'w = 0.5')),
        w=1.0,
    ),
    Row('w = 4', 'FID several times worse', (_more('fid', 'w = 1'),), w=4.0),
    Row(
        'w = 100',
        'clipping keeps images valid and of their class, without variety',
        (_more('fid', 'w = 4'), _more(_AGREEMENT, 0.9)),
        w=100.0,
    ),
    Row(
        'w = 1, no clipping',
        'about the same: moderate guidance stays near [-1, 1]',
        (_same('fid', 'w = 1'),),
        w=1.0,
        sampling=(('clip', False),),
    ),
    Row(
        'w = 100, no clipping',
        'x~ leaves [-1, 1] and nothing brings it back: far from images',
        (_more('fid', 'w = 100'),),
        w=100.0,
        sampling=(('clip', False),),
    ),
    Row(
        'w = 0.5, noise for eps(z)',
        'noise points away from nothing: it spoils images and sharpens no class',
        (_more('fid', 'w = 0.5'), _less('is', 'w = 0.5')),
        w=0.5,
        noise=True,
    ),
)

_SAMPLERS = (
    *(
        Row(f'v = {v:g}', expected, relations, w=0.5, sampling=(('v', v),))
        for v, expected, relations in (
            (0.0, 'the smallest variance: fine at few steps', (_same('fid', 'w = 0.5'),)),
            (0.5, 'near v = 0.3', (_same('fid', 'w = 0.5'),)),
            (1.0, 'the largest variance: too noisy at few steps', (_more('fid', 'w = 0.5'),)),
        )
    ),
    *(
        Row(f'T = {steps}', expected, relations, w=0.5, sampling=(('num_steps', steps),))
        for steps, expected, relations in (
            (3, 'far too few', (_more('fid', 'w = 0.5'),)),
            (6, 'too few', (_more('fid', 'w = 0.5'), _less('fid', 'T = 3'))),
            (24, 'more than enough: like T = 12', (_same('fid', 'w = 0.5'),)),
        )
    ),
    Row(
        'DDIM, w = 0.5',
        'the deterministic sampler keeps the class alike',
        (_same(_AGREEMENT, 'w = 0.5'),),
        w=0.5,
        sampling=(('name', 'ddim'),),
    ),
)

_TRAININGS = tuple(
    Row(f'p_uncond = {p:g}', expected, relations, w=0.5, p_uncond=p)
    for p, expected, relations in (
        (0.0, 'the null label was never learnt: a random direction', (_more('fid', 'w = 0.5'),)),
        (0.05, 'like 0.1', (_same('fid', 'w = 0.5'),)),
        (0.2, 'like 0.1', (_same('fid', 'w = 0.5'),)),
        (0.5, 'half the training is unconditional: worse', (_more('fid', 'w = 0.5'),)),
    )
)

# T = 12, v = 0.3 and p_uncond = 0.1 where a row does not say otherwise: the digits preset
ROWS = (*_WEIGHTS, *_SAMPLERS, *_TRAININGS)


def groups() -> Iterator[Group]:
    """The rows, together where one compiled sampler serves them."""
    keys = dict.fromkeys((row.p_uncond, row.sampling, row.noise) for row in ROWS)
    for key in keys:
        same = tuple(row for row in ROWS if (row.p_uncond, row.sampling, row.noise) == key)
        yield Group(*key, same)
