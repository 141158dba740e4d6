"""Registries: what the names of configs and flags stand for, and what is said of unknown ones."""

import dataclasses
import math

import pytest
from support import user_error

from cfg_jax import registry
from cfg_jax.conditioning import CONDITIONS
from cfg_jax.guidance import RULES, Rule
from cfg_jax.guidance.interval import Interval
from cfg_jax.models import BACKBONES, PUBLISHED
from cfg_jax.pretrained import FAMILIES
from cfg_jax.registry import SCALINGS, SCHEDULES, TARGETS, TIMES, WEIGHTINGS, Registry
from cfg_jax.samplers import GRIDS, SAMPLERS, Sampler
from cfg_jax.samplers.grids import Grid

ALL = [RULES, SAMPLERS, GRIDS, CONDITIONS, BACKBONES, SCHEDULES, SCALINGS, TARGETS, WEIGHTINGS]
ALL += [PUBLISHED, FAMILIES, TIMES]


@dataclasses.dataclass(frozen=True)
class Settings:
    share: float = 0.5
    steps: int = 4
    word: str = 'abc'
    flag: bool = True

    def __post_init__(self):
        if self.share < 0:
            raise ValueError('share is at least 0')


KINDS = Registry(
    'kind', {'settings': (f'{__name__}:Settings', 'of a test'), 'other': ('math:pi', 'a number')}
)


@pytest.mark.parametrize('which', ALL, ids=lambda which: which.kind)
def test_every_entry_loads_and_has_one_line(which):
    for name, entry in which.items():
        assert which.load(name) is not None
        assert entry.summary
        assert '\n' not in entry.summary
        assert name.isidentifier()
    assert len(which) == len(list(which))


def test_rules_and_samplers_are_frozen_dataclasses():
    for which, base in ((RULES, Rule), (SAMPLERS, Sampler), (GRIDS, Grid)):
        for name in which:
            made = which.make(name)
            assert isinstance(made, base)
            assert hash(made) == hash(which.make(name))
            assert made == which.make(name)


def test_loads_when_asked():
    assert KINDS.load('other') == math.pi
    assert KINDS['other'].summary == 'a number'
    assert list(KINDS) == ['settings', 'other']


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ('', Settings()),
        ('share=0.25', Settings(share=0.25)),
        (' share = 1e-1 , steps=7 ', Settings(share=0.1, steps=7)),
        ('word=x-y,flag=false', Settings(word='x-y', flag=False)),
        ('flag=True', Settings()),
        ('share=inf', Settings(share=math.inf)),
    ],
)
def test_options_are_read_by_the_types_of_defaults(options, expected):
    assert KINDS.make('settings', options) == expected


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ('speed=3', ["no option 'speed=3'", 'share=..., steps=..., word=..., flag=...']),
        ('share', ["no option 'share'"]),
        ('share=', ["share='' is not a number"]),
        ('share=much', ["share='much' is not a number"]),
        ('steps=2.5', ["steps='2.5' is not a whole number"]),
        ('flag=1', ["flag='1' is not true or false"]),
        ('share=-1', ['share is at least 0']),
        ('share=0.1;steps=3', ["share='0.1;steps=3'"]),
    ],
)
def test_wrong_options_name_the_owner(options, words):
    message = user_error(KINDS.make, 'settings', options)
    assert "kind 'settings'" in message
    for word in words:
        assert word in message


def test_options_go_before_settings():
    assert KINDS.make('settings', 'steps=9', steps=2, word='w') == Settings(steps=9, word='w')


@pytest.mark.parametrize('which', ALL, ids=lambda which: which.kind)
def test_unknown_names_list_the_known_ones(which):
    message = user_error(which.load, 'nothing_like_it')
    assert f"there is no {which.kind} 'nothing_like_it'" in message
    for name in which:
        assert name in message


@pytest.mark.parametrize(
    ('which', 'word', 'meant'),
    [
        (RULES, 'clasifier_free', 'classifier_free'),
        (RULES, 'intervall', 'interval'),
        (SAMPLERS, 'ancestrall', 'ancestral'),
        (SCHEDULES, 'cosin', 'cosine'),
        (TARGETS, 'velocty', 'velocity'),
        (SCALINGS, 'flows', 'flow'),
    ],
)
def test_a_close_name_is_suggested(which, word, meant):
    assert f'did you mean {meant!r}?' in user_error(which.load, word)


def test_suggestions():
    known = ['train.learning_rate', 'model.width', 'p_uncond']
    assert registry.suggestion('train.learning_rat', known) == (
        "; did you mean 'train.learning_rate'?"
    )
    assert registry.suggestion('width', known) == "; did you mean 'model.width'?"
    assert registry.suggestion('xyz', known) == ''


def test_help_has_a_line_for_each_name():
    lines = RULES.help().splitlines()
    assert len(lines) == len(RULES)
    for line, (name, entry) in zip(lines, RULES.items(), strict=True):
        assert line.split() == [name, *entry.summary.split()]
    starts = {line.index(entry.summary) for line, entry in zip(lines, RULES.values(), strict=True)}
    assert len(starts) == 1  # a column


def test_a_rule_of_the_registry_is_the_rule():
    assert RULES.make('interval', 'lowest=0.5,highest=2') == Interval(lowest=0.5, highest=2.0)
