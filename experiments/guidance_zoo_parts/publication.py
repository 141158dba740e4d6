"""What guidance_zoo.py publishes: tables, pictures, results.json and the recommendation."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import config as config_lib, files, provenance
from cfg_jax.evaluation import plots, style, tables
from guidance_zoo_parts.measurement import Point
from guidance_zoo_parts.settings import NOT_MEASURED, PLAIN
from guidance_zoo_parts.verdicts import Cheaper, Difference, Verdicts

_MARKERS = 'osD^v<>PX*'


def write(
    directory: epath.Path,
    found: Verdicts,
    config: ConfigDict,
    left_out: Sequence[str],
    record: Mapping[str, Any],
) -> str:
    """Writes everything to `directory`; returns the rules' table and the recommendation.

    Args:
      directory: of the results.
      found: all points, and what they say.
      config: of the main model.
      left_out: what was not measured, and why.
      record: what the points share, see `measurement.Bench.record`.
    """
    table = points_table(found.points)
    rules = f'{recommendation(found)}\n'
    if found.rules:
        rules = f'{rules_table(found)}\n{rules}{_not_measured(left_out)}'
    note = (
        f'{config.data.name}, {config.sweep.num_samples:,} samples a row from the same noise and'
        ' conditions, ± standard errors; NFE counts evaluations of networks an image.'
    )
    files.write_bytes(directory / 'table.md', f'{table}\n{note}\n'.encode())
    files.write_bytes(directory / 'rules.md', rules.encode())
    files.write_json(
        directory / 'results.json',
        {
            'points': [_record(point) for point in found.points],
            'rules': {
                rule: {'verdict': verdict.words, 'w': verdict.best.w}
                | _plain('difference', verdict.difference)
                for rule, verdict in found.rules.items()
            },
            'cheaper': [
                _record(each.point) | _plain('fid_less', each.fid) | _plain('is_less', each.score)
                for each in found.cheaper
            ],
            'left_out': list(left_out),
            **record,
            'config': config_lib.to_json(config),
            **provenance.describe_environment(),
        },
    )
    if found.rules:
        draw_rules(directory / 'zoo.png', found, config)
    draw_samplers(directory / 'samplers.png', found, config)
    return rules


def points_table(points: Sequence[Point]) -> str:
    """A row a point: rule, strength, sampler, T, NFE and its metrics."""
    leading = [
        {
            'rule': point.setting.rule,
            'w': f'{point.w:g}',
            'sampler': point.setting.sampler,
            'grid': point.setting.grid,
            'T': str(point.setting.num_steps),
            'NFE': str(point.row['nfe']),
        }
        for point in points
    ]
    return tables.metric_table([_metrics(point) for point in points], leading, bold=False)


def rules_table(found: Verdicts) -> str:
    """A row a rule: whether it beats plain guidance, and where it comes closest to it."""
    lines = [
        "| rule | at w | NFE | FID | IS | FID less plain guidance's at this IS | verdict |",
        '|---|---|---|---|---|---|---|',
    ]
    for rule, verdict in found.rules.items():
        point = verdict.best
        cells = [
            f'`{rule}`' + (' (ancestral)' if point.setting.sampler == 'ancestral' else ''),
            f'{point.w:g}',
            str(point.row['nfe']),
            f'{point.fid:.2f}',
            f'{point.row["is"]:.3f}',
            _signed(verdict.difference),
            verdict.words,
        ]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


def recommendation(found: Verdicts) -> str:
    """What the points say to whoever chooses."""
    paper = found.paper
    lines = [
        f"The paper's sampler, {_name(paper)}: NFE {paper.row['nfe']}, FID {paper.fid:.2f}, IS"
        f' {paper.row["is"]:.3f}.'
    ]
    if found.cheaper:
        lines += [
            f'No worse in FID and IS beyond two standard errors of the difference, the cheapest is'
            f' {_compared(found.cheaper[0])}.'
        ]
        best = min(found.cheaper, key=lambda each: each.point.fid)
        if best is not found.cheaper[0]:
            lines.append(
                f'Of all such that cost at most a tenth, the lowest FID has {_compared(best)}.'
            )
    else:
        lines.append('Nothing reaches its FID and IS with a tenth of the evaluations.')
    if found.rules:
        winners = [rule for rule, v in found.rules.items() if v.words.startswith('beats')]
        names = ', '.join(f'`{rule}`' for rule in winners)
        lines.append(f'Rules that beat plain guidance here: {names or "none"}.')
    return '\n'.join(f'* {line}' for line in lines) + '\n'


def _compared(each: Cheaper) -> str:
    point = each.point
    return (
        f'{_name(point)}: NFE {point.row["nfe"]}, FID {point.fid:.2f} ({_signed(each.fid)}), IS'
        f' {point.row["is"]:.3f} ({_signed(each.score, 3)})'
    )


def _not_measured(left_out: Sequence[str]) -> str:
    reasons = [f'`{rule}` {reason}' for rule, reason in NOT_MEASURED.items()]
    return f'Not measured: {"; ".join([*reasons, *left_out])}.\n'


def _name(point: Point) -> str:
    setting = point.setting
    return (
        f'`{setting.rule}` at w = {point.w:g}, `{setting.sampler}`, T = {setting.num_steps} on the'
        f' grid `{setting.grid}`'
    )


def _signed(difference: Difference | None, digits: int = 2) -> str:
    if difference is None:
        return ''
    return f'{difference.value:+.{digits}f} ± {difference.error:.{digits}f}'


def _record(point: Point) -> dict[str, Any]:
    return {'w': point.w} | point.setting._asdict() | point.row


def _plain(name: str, difference: Difference | None) -> dict[str, float]:
    if difference is None:
        return {}
    return {name: difference.value, f'{name}_se': difference.error}


def _metrics(point: Point) -> dict[str, Any]:
    return {key: value for key, value in point.row.items() if key != 'nfe'}


def draw_rules(path: epath.Path, found: Verdicts, config: ConfigDict) -> None:
    """IS against FID, and precision against recall: a curve a rule, plain guidance in black."""
    points = [point for point in found.valid if point.setting.part == 'rules']
    figure, axes = plt.subplots(1, 2, figsize=(15, 6.5), layout='constrained')
    style.headline(figure, f'{config.data.name}: rules over their strength')
    curves = dict.fromkeys((p.setting.rule, p.setting.sampler) for p in points)
    for number, (rule, sampler) in enumerate(curves):
        own = [p for p in points if (p.setting.rule, p.setting.sampler) == (rule, sampler)]
        plain = rule == PLAIN and sampler == 'ddim'
        line = {
            'color': 'black' if plain else style.COLOURS[number % (len(style.COLOURS) - 1)],
            'linewidth': 2.5 if plain else 1.0,
            'zorder': 3 if plain else 2,
            'marker': _MARKERS[number % len(_MARKERS)],
            'markersize': 5,
        }
        name = rule.partition(':')[0] if rule.count('=') > 1 else rule
        label = name + (f' ({sampler})' if sampler != 'ddim' else '')
        shown = [p for p in own if 'is' in p.row]
        axes[0].plot([_gap(p, config) for p in shown], [p.fid for p in shown], label=label, **line)
        axes[1].plot([p.row['recall'] for p in own], [p.row['precision'] for p in own], **line)
    axes[0].set(
        xlabel=f'{config.data.num_classes} - IS (to the right: better)',
        ylabel='FID (lower is better)',
    )
    style.log_axis(axes[0], 'x')
    style.log_axis(axes[0], 'y')
    axes[0].invert_xaxis()
    axes[1].set(xlabel='recall', ylabel='precision')
    figure.legend(loc='outside right upper')
    plots.save(path, figure)


def _gap(point: Point, config: ConfigDict) -> float:
    """IS is at most the number of classes, where it comes close to it on easy data."""
    return max(config.data.num_classes - point.row['is'], 1e-5)


def draw_samplers(path: epath.Path, found: Verdicts, config: ConfigDict) -> None:
    """FID and IS against NFE, a curve a sampler; what is combined as single marks."""
    figure, axes = plt.subplots(1, 2, figsize=(13, 5), layout='constrained')
    points = [p for p in found.valid if p.setting.part == 'samplers']
    w = found.paper.w
    style.headline(figure, f'{config.data.name}: samplers at w = {w:g}')
    names = dict.fromkeys((p.setting.sampler, p.setting.grid) for p in points)
    for number, (sampler, grid) in enumerate(names):
        own = [p for p in points if (p.setting.sampler, p.setting.grid) == (sampler, grid)]
        _draw_against_nfe(axes, own, f'{sampler}, {grid}', _MARKERS[number % len(_MARKERS)], '-')
    together = [p for p in found.valid if p.setting.part == 'together' and p.w == w]
    for number, point in enumerate(together):
        name = f'{point.setting.rule.partition(":")[0]}, {point.setting.sampler}'
        _draw_against_nfe(axes, [point], name, _MARKERS[number % len(_MARKERS)], '')
    axes[0].set(ylabel='FID (lower is better)')
    style.log_axis(axes[0], 'y')
    axes[1].set(ylabel='IS (higher is better)')
    for panel in axes:
        panel.set(xlabel='NFE an image')
        style.log_axis(panel, 'x')
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside right upper')
    plots.save(path, figure)


def _draw_against_nfe(axes: Any, own: Sequence[Point], name: str, marker: str, line: str) -> None:
    nfe = [p.row['nfe'] for p in own]
    values = ([p.fid for p in own], 'fid'), ([p.row['is'] for p in own], 'is')
    for panel, (numbers, key) in zip(axes, values, strict=True):
        errors = [p.influences[key].standard_error() for p in own]
        panel.errorbar(nfe, numbers, yerr=errors, marker=marker, linestyle=line, label=name)
