"""The rows of ablations.py measured, judged and shown."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from ablations_parts.noise import NoiseForUnconditional
from ablations_parts.rows import Group, Relation, Row
from ablations_parts.untrained_null import UntrainedNull
from cfg_jax import (
    config as config_lib,
    files,
    loading,
    provenance,
)
from cfg_jax.evaluation import (
    plots,
    style,
    sweep,
    tables,
)
from cfg_jax.guidance import Rule
from cfg_jax.guidance.classifier_free import ClassifierFree
from cfg_jax.metrics.features import FeatureExtractor

_ERRORS = 2.0  # standard errors that a difference takes to count
_ABOUT = 0.25  # of the value, what '~' allows beyond them
# Of a sweep's results, what a row says of its own: rows have several models and samplers.
_PROVENANCE = ('checkpoint_step', 'weights', 'weights_sha256', 'sampler', 'seeds')
_PROVENANCE += ('features', 'reference')

Metrics = dict[str, Any]
Measured = Sequence[tuple[Row, Metrics]]


def measure(
    group: Group,
    config: ConfigDict,
    workdir: epath.Path,
    root: epath.Path,
    extractor: FeatureExtractor,
) -> dict[str, Metrics]:
    """Name -> metrics of the rows of a group, each with the provenance of its numbers."""
    model = loading.load(workdir, config=config).with_settings(rule_of(group))
    logging.info('\n%s', ', '.join(row.name for row in group.rows))
    results = sweep.measure(model, root, group.slug(), extractor)
    found = {row['w']: row for row in results['rows']}
    more = {
        'count': config.sweep.num_samples,
        'provenance': {key: results[key] for key in _PROVENANCE},
    }
    return {row.name: found[row.w] | more for row in group.rows}


def rule_of(group: Group) -> Rule:
    """The rule that guides the rows of a group."""
    if group.noise:
        return NoiseForUnconditional()
    return UntrainedNull() if group.p_uncond == 0.0 else ClassifierFree()


def write(root: epath.Path, measured: Measured, config: ConfigDict) -> str:
    """Writes table.md, ablations.png and results.json; returns the table."""
    by_name = {row.name: metrics for row, metrics in measured}
    verdicts = [verdict(row, by_name) for row, _ in measured]
    text = markdown(measured, verdicts, config)
    files.write_bytes(root / 'table.md', text.encode())
    rows = [
        metrics | {'name': row.name, 'expected': row.expected, 'verdict': found}
        for (row, metrics), found in zip(measured, verdicts, strict=True)
    ]
    files.write_json(
        root / 'results.json',
        {
            'rows': rows,
            'config': config_lib.to_json(config),
            **provenance.describe_environment(),
        },
    )
    draw(root / 'ablations.png', measured)
    return text


def verdict(row: Row, by_name: dict[str, Metrics]) -> str:
    """'as expected', 'not as expected: ...' or 'undecided: ...', by the row's relations."""
    failed, undecided = [], []
    for relation in row.relations:
        state = judge(relation, by_name[row.name], by_name)
        words = f'{tables.heading(relation.metric)} {relation.sign} {_of(relation)}'
        if state is None:
            undecided.append(words)
        elif not state:
            failed.append(words)
    if failed:
        return f'not as expected: no {", no ".join(failed)}'
    return f'undecided: {", ".join(undecided)}' if undecided else 'as expected'


def judge(relation: Relation, mine: Metrics, by_name: dict[str, Metrics]) -> bool | None:
    """Whether a relation holds; None where the errors are too large, or values missing, to tell."""
    key = relation.metric
    value, error = mine[key], _error(mine, key)
    if isinstance(relation.other, str):
        other = by_name[relation.other]
        bound, error = other[key], math.hypot(error, _error(other, key))
    else:
        bound = relation.other
    difference = value - bound
    if not math.isfinite(difference):  # images that are not finite have no metrics
        return None
    if relation.sign == '~':
        return abs(difference) <= max(_ERRORS * error, _ABOUT * abs(bound))
    if abs(difference) <= _ERRORS * error:
        return None
    return (difference > 0) == (relation.sign == '>')


def _of(relation: Relation) -> str:
    if isinstance(relation.other, str):
        return f'that of {relation.other}'
    return f'{relation.other:g}'


def _error(metrics: Metrics, key: str) -> float:
    if key == 'class_agreement':
        # Binomial; an agreement of exactly 1 must not pass for exact.
        count, share = metrics['count'], metrics[key]
        return math.sqrt(max(share * (1 - share), 1 / count) / count)
    return metrics.get(f'{key}_se', 0.0)


def markdown(measured: Measured, verdicts: Sequence[str], config: ConfigDict) -> str:
    """A row per way of sampling: expectation, verdict, metrics."""
    leading = [
        {'way of sampling': row.name, 'expected': row.expected, 'came out': found}
        for (row, _), found in zip(measured, verdicts, strict=True)
    ]
    table = tables.metric_table([metrics for _, metrics in measured], leading)
    sampling, count = config.sampler, config.sweep.num_samples
    note = (
        f'{config.data.name}, {config.train.steps} steps; unless a row says otherwise p_uncond ='
        f' 0.1, T = {sampling.num_steps}, v = {sampling.v:g}, clipping, and w = 0.5 in the rows of'
        f' v, T and p_uncond; {count:,} samples a row, ± standard errors.'
    )
    return f'{table}\n{note}\n'


def draw(path: epath.Path, measured: Measured) -> None:
    """FID and class agreement of every row."""
    names = [row.name for row, _ in measured]
    keys = [key for key in ('fid', 'is', 'class_agreement') if key in measured[0][1]]
    figure, axes = plt.subplots(
        1,
        len(keys),
        figsize=(4.2 * len(keys), 0.3 * len(names) + 1.2),
        sharey=True,
        layout='constrained',
    )
    for panel, key in zip(axes, keys, strict=True):
        panel.barh(
            names,
            [metrics[key] for _, metrics in measured],
            xerr=[_error(metrics, key) for _, metrics in measured],
        )
        if key == 'fid':
            style.log_axis(panel, 'x')
        panel.set(xlabel=tables.heading(key))
        panel.grid(visible=False, axis='y')
        panel.margins(y=0.01)
    axes[0].invert_yaxis()
    plots.save(path, figure)
