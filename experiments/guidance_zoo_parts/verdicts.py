"""Who beats whom: paired differences of guidance_zoo.py's points, and what they recommend."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cfg_jax.errors import UserError
from cfg_jax.metrics.influence import Influence
from guidance_zoo_parts.measurement import Point
from guidance_zoo_parts.settings import PLAIN, is_papers

ERRORS = 2.0  # standard errors that a difference takes to count
LESS = 10  # times fewer evaluations than the paper's sampler


class Difference(NamedTuple):
    """Of two paired quantities, with its standard error."""

    value: float
    error: float

    @property
    def size(self) -> float:
        """In standard errors; 0 without any."""
        return self.value / self.error if self.error else 0.0


class Verdict(NamedTuple):
    """Of a rule: its point of the most significant gain, and FID there less plain guidance's."""

    best: Point
    difference: Difference | None
    words: str


class Cheaper(NamedTuple):
    """A point against the paper's sampler: FID and IS less its own."""

    point: Point
    fid: Difference
    score: Difference


class Verdicts:
    """What the points say.

    Attributes:
      points: all of them.
      valid: those that compare: whose images are finite.
      rules: the verdict of each rule with its options.
      paper: the paper's sampler at its T.
      cheaper: points of at most a tenth of its evaluations whose FID and IS are equal within two
        standard errors of the paired difference, or better; the cheapest first.

    Raises:
      UserError: the images of the paper's sampler are not finite.
    """

    def __init__(self, points: Sequence[Point]):
        self.points = list(points)
        self.valid = [point for point in points if point.valid]
        measured = [point for point in self.valid if point.setting.part == 'rules']
        self.rules: dict[str, Verdict] = {}
        for rule in dict.fromkeys(point.setting.rule for point in measured):
            own = [point for point in measured if point.setting.rule == rule]
            sampler = own[0].setting.sampler
            plain = [
                point
                for point in measured
                if point.setting.rule == PLAIN and point.setting.sampler == sampler
            ]
            if rule != PLAIN and plain:
                self.rules[rule] = verdict(own, plain)
        [self.paper] = [point for point in self.points if is_papers(point.setting)]
        if not self.paper.valid:
            raise UserError(
                f"the images of the paper's sampler at w = {self.paper.w:g} are not finite, and"
                ' nothing compares with them: give a smaller --w, or another --model (samples are'
                ' kept)'
            )
        others = [point for point in self.valid if point is not self.paper]
        self.cheaper = cheaper(self.paper, others)


def verdict(own: Sequence[Point], plain: Sequence[Point]) -> Verdict:
    """Of a rule's points against those of plain guidance with the same sampler and noise."""
    least = _rising(plain)[0].row['is']
    comparable = [point for point in own if point.w and point.row['is'] >= least]
    if not comparable:
        best = max(own, key=lambda point: point.row['is'])
        return Verdict(best, None, 'never reaches the IS of unguided samples')
    pairs = [(point, at_equal_score(point, plain)) for point in comparable]
    best, difference = min(pairs, key=lambda pair: pair[1].size)
    if difference.size < -ERRORS:
        return Verdict(best, difference, 'beats plain guidance')
    if difference.size > ERRORS:
        return Verdict(best, difference, 'worse than plain guidance')
    return Verdict(best, difference, 'no difference beyond two standard errors')


def at_equal_score(point: Point, plain: Sequence[Point]) -> Difference:
    """FID of a point less that of plain guidance at the same IS, linear between its points.

    Of plain guidance those w count at which IS is above that of every smaller w: at a large w both
    FID and IS may fall behind. A point of more IS than all of them is compared with the last.

    Raises:
      ValueError: a point of less IS than all of plain guidance, which has no FID at that IS.
    """
    curve = _rising(plain)
    score = point.row['is']
    above = next((i for i, p in enumerate(curve) if p.row['is'] >= score), len(curve))
    if score < curve[0].row['is']:
        raise ValueError('IS is below that of all plain guidance')
    if above == len(curve) or curve[above].row['is'] == score:
        end = curve[min(above, len(curve) - 1)]
        return _difference(point.fid - end.fid, [(1.0, point, 'fid'), (-1.0, end, 'fid')])
    a, b = curve[above - 1], curve[above]
    width = b.row['is'] - a.row['is']
    share = (score - a.row['is']) / width
    slope = (b.fid - a.fid) / width
    terms = [
        (1.0, point, 'fid'),
        (share - 1.0, a, 'fid'),
        (-share, b, 'fid'),
        # IS is as uncertain as FID: it moves the place on the curve.
        (-slope, point, 'is'),
        (slope * (1.0 - share), a, 'is'),
        (slope * share, b, 'is'),
    ]
    return _difference(point.fid - (1.0 - share) * a.fid - share * b.fid, terms)


def _rising(plain: Sequence[Point]) -> list[Point]:
    """Points by w, without those whose IS is not above all before."""
    curve: list[Point] = []
    for point in sorted(plain, key=lambda p: p.w):
        if not curve or point.row['is'] > curve[-1].row['is']:
            curve.append(point)
    return curve


def cheaper(paper: Point, others: Sequence[Point]) -> list[Cheaper]:
    """See `Verdicts.cheaper`."""
    found = []
    for point in others:
        if LESS * point.row['nfe'] > paper.row['nfe']:
            continue
        fid = _difference(point.fid - paper.fid, [(1.0, point, 'fid'), (-1.0, paper, 'fid')])
        score = _difference(
            point.row['is'] - paper.row['is'], [(1.0, point, 'is'), (-1.0, paper, 'is')]
        )
        if fid.size <= ERRORS and score.size >= -ERRORS:
            found.append(Cheaper(point, fid, score))
    return sorted(found, key=lambda each: (each.point.row['nfe'], each.point.fid))


def _difference(value: float, terms: Sequence[tuple[float, Point, str]]) -> Difference:
    """`value` with the error of the sum of weighted metrics, whose images go together."""
    influences = [(weight, point.influences[key]) for weight, point, key in terms]
    first = sum(weight * each.first for weight, each in influences)
    seconds = [weight * each.second for weight, each in influences if len(each.second)]
    total = Influence(
        np.asarray(first),
        np.sum(seconds, axis=0) if seconds else np.zeros(0),
        influences[0][1].strata,
    )
    return Difference(float(value), total.standard_error())
