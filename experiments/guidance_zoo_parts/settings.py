"""What guidance_zoo.py measures: rules at their strengths, samplers, and both together."""

import math
from argparse import Namespace
from typing import Any, NamedTuple

from ml_collections import ConfigDict

PLAIN = 'classifier_free'
W = (0.0, 0.05, 0.1, 0.3, 0.6, 1.0, 2.0, 4.0)  # of plain guidance, the curve to beat
STRENGTHS = (0.1, 0.3, 1.0, 3.0)
SCALES = (0.3, 1.0, 3.0)  # of classifiers
_PUBLISHED_RADIUS = 6.5  # of projected guidance, at 64 x 64 x 3 values

# What answers another question than the others: not how well the data's own classes are drawn.
NOT_MEASURED = {
    'negative': 'asks for images away from a class',
    'composition': 'asks for several classes at once',
    'two_conditions': 'needs a condition of two parts',
    'channels': 'is for latents, of which the published numbers guide three of four channels',
}


class Setting(NamedTuple):
    """One way of sampling, at one or more strengths.

    Attributes:
      part: 'rules', 'samplers' or 'together'.
      rule: of guidance, with its options.
      sampler: 'NAME' or 'NAME:OPTIONS'.
      num_steps, grid: of the sampler.
      strengths: w.
      network: 'guide' or 'classifier', which the rule needs; '' for none.
    """

    part: str
    rule: str
    sampler: str
    num_steps: int
    grid: str
    strengths: tuple[float, ...]
    network: str = ''

    def slug(self) -> str:
        """Its name as a directory."""
        text = f'{self.rule}-{self.sampler}-{self.grid}-T{self.num_steps}'
        return ''.join(c if c.isalnum() or c in '-_.' else '_' for c in text)

    def config(self, config: ConfigDict) -> ConfigDict:
        """The config that samples so."""
        copy = config.copy_and_resolve_references()
        copy.guidance.rule, copy.guidance.options = self.rule, ''
        name, _, options = self.sampler.partition(':')
        changes: dict[str, Any] = {'name': name, 'options': options, 'grid': self.grid}
        copy.sampler.update(changes | {'num_steps': self.num_steps})
        copy.sweep.w = self.strengths
        return copy


def all_settings(config: ConfigDict, options: Namespace) -> list[Setting]:
    """Every setting."""
    steps = options.num_steps
    rules = [
        Setting('rules', rule, 'ddim', steps, 'schedule', strengths, network)
        for rule, strengths, network in _rules(config)
    ]
    # Classifier guidance of the mean needs ancestral transitions, and plain guidance on them.
    rules += [
        Setting('rules', PLAIN, 'ancestral', steps, 'schedule', W),
        Setting('rules', 'classifier_mean', 'ancestral', steps, 'schedule', SCALES, 'classifier'),
    ]
    return [*_samplers(options), *_together(options), *rules]


def _rules(config: ConfigDict) -> list[tuple[str, tuple[float, ...], str]]:
    data = config.data
    radius = _PUBLISHED_RADIUS * math.sqrt(data.image_size**2 * data.channels / (64 * 64 * 3))
    plain = (
        'interval:lowest=0.3,highest=5',
        'schedule:kind=linear',
        'schedule:kind=cosine',
        'rescale:phi=0.7',
        'threshold:quantile=0.995',
        'independent',
        'time_step',
        'perturbed_attention',
        'smoothed_energy',
        'skip_layer',
        f'projected:eta=0,momentum=-0.5,radius={radius:.3g}',
        'annealed_condition',
        'cfg_zero_star',
        'tangential_damping',
        'frequency_decoupled',
    )
    return [
        (PLAIN, W, ''),
        *((rule, STRENGTHS, '') for rule in plain),
        ('cfg_plus_plus', (0.5, 0.7, 0.85, 1.0), ''),  # scales in (0, 1]
        ('autoguidance', STRENGTHS, 'guide'),
        ('classifier_eps', SCALES, 'classifier'),
    ]


def _samplers(options: Namespace) -> list[Setting]:
    one_evaluation = (6, 12, 24)
    steps = {
        'ancestral': one_evaluation,
        'ddim': one_evaluation,
        'dpmpp_2m': one_evaluation,
        'dpmpp_2m_sde': one_evaluation,
        'unipc': one_evaluation,
        'euler:churn=8': one_evaluation,
        'heun': (4, 7, 13),  # two evaluations a step but the last
    }
    found = [
        Setting('samplers', PLAIN, name, T, 'edm', (options.w,))
        for name, numbers in steps.items()
        for T in numbers
    ]
    paper = Setting('samplers', PLAIN, 'ancestral', options.paper_steps, 'schedule', (options.w,))
    return [*found, paper]


def is_papers(setting: Setting) -> bool:
    """Whether this is the paper's sampler, with which the others are compared."""
    return (setting.part, setting.sampler, setting.grid) == ('samplers', 'ancestral', 'schedule')


def _together(options: Namespace) -> list[Setting]:
    """At most a tenth of the paper's evaluations."""
    rules = ('interval:lowest=0.3,highest=5', 'autoguidance', 'time_step')
    return [
        Setting(
            'together',
            rule,
            sampler,
            steps,
            'edm',
            tuple(dict.fromkeys((options.w, 1.0))),
            'guide' if rule == 'autoguidance' else '',
        )
        for rule in rules
        for sampler, steps in (('dpmpp_2m_sde', 24), ('heun', 13))
    ]
