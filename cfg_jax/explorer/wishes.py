"""What a page asks for, checked: nothing of a request reaches the model before."""

import dataclasses
import itertools
import json
from typing import Any

from cfg_jax.errors import UserError

MOST_PICTURES, MOST_STEPS, LARGEST_W = 16, 1000, 100.0
_LONGEST_NAME = 200


@dataclasses.dataclass(frozen=True)
class Wish:
    """Some pictures, whose classes come in turn.

    Attributes:
      labels: class ids, no more than there are pictures.
      count: how many pictures.
      seed: of all of them.
      w: guidance weight.
      guidance: a rule, 'name' or 'name:option=value,...'; '' for the model's own.
      sampler: alike.
      num_steps: T.
    """

    labels: tuple[int, ...]
    count: int
    seed: int
    w: float
    guidance: str
    sampler: str
    num_steps: int

    @property
    def label_of_each(self) -> list[int]:
        """The class of each picture: of three and two classes a, b, a."""
        return list(itertools.islice(itertools.cycle(self.labels), self.count))


def parse(body: bytes, num_classes: int) -> Wish:
    """The wish in a request's body, a JSON object with the fields of `Wish`.

    Raises:
      UserError: another body, in a sentence that says what is wrong.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError('the request is not JSON') from error
    if not isinstance(found, dict):
        raise UserError('the request is not a JSON object')
    names = {field.name for field in dataclasses.fields(Wish)}
    if missing := names - found.keys():
        raise UserError(f'the request lacks {", ".join(sorted(missing))}')
    if found.keys() - names:
        raise UserError(f'the request has fields other than {", ".join(sorted(names))}')
    count = _integer(found['count'], 'count', 1, MOST_PICTURES)
    return Wish(
        labels=_labels(found['labels'], count, num_classes),
        count=count,
        seed=_integer(found['seed'], 'seed', 0, 2**32 - 1),
        w=_weight(found['w']),
        guidance=_name(found, 'guidance'),
        sampler=_name(found, 'sampler'),
        num_steps=_integer(found['num_steps'], 'num_steps', 2, MOST_STEPS),
    )


def _labels(value: Any, count: int, num_classes: int) -> tuple[int, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= count:
        raise UserError(f'labels is a list of 1 to {count} classes, as there are pictures')
    return tuple(_integer(each, 'a label', 0, num_classes - 1) for each in value)


def _integer(value: Any, name: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:  # a bool is no number here
        raise UserError(f'{name} is a whole number from {least} to {most}')
    return value


def _weight(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= LARGEST_W:  # which NaN is not either
        raise UserError(f'w is a number from -{LARGEST_W:g} to {LARGEST_W:g}')
    return float(value)


def _name(found: dict[str, Any], name: str) -> str:
    value = found[name]
    if not isinstance(value, str) or len(value) > _LONGEST_NAME or not value.isprintable():
        raise UserError(f'{name} is a text of at most {_LONGEST_NAME} letters')
    return value
