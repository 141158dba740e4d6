"""Methods side by side: one table, one picture, one results.json."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import (
    config as config_lib,
    files,
    provenance,
)
from cfg_jax.evaluation import (
    plots,
    style,
    tables,
)
from classifier_guidance_parts.methods import Measured

_MARKERS = 'osD^v<>P'
_COST = ('nfe', 'classifier_gradients', 'gflop', 'seconds')


def write(root: epath.Path, measured: Sequence[Measured], config: ConfigDict) -> str:
    """Writes table.md, tradeoff.png and results.json; returns the table."""
    text = markdown(measured)
    files.write_bytes(root / 'table.md', text.encode())
    files.write_json(
        root / 'results.json',
        {
            'methods': [method._asdict() for method in measured],
            'config': config_lib.to_json(config),
            **provenance.describe_environment(),
        },
    )
    draw(root / 'tradeoff.png', measured, config)
    return text


def markdown(measured: Sequence[Measured]) -> str:
    """A row per method and strength: metrics, then cost per image."""
    rows, leading = [], []
    for method in measured:
        for row in method.rows:
            leading.append(
                {'method': method.name, 'strength': f'{method.strength} = {row["strength"]:g}'}
            )
            rows.append(row)
    metrics = tables.metric_table([_without_cost(row) for row in rows], leading).splitlines()
    headings = ['NFE', 'classifier gradients', 'GFLOP', 'ms']
    cells = [headings, ['---'] * len(headings)]
    cells += [
        [
            f'{row["nfe"]:g}',
            f'{row["classifier_gradients"]:g}',
            f'{row["gflop"]:.3g}',
            f'{1e3 * row["seconds"]:.3g}',
        ]
        for row in rows
    ]
    lines = [
        f'{line} {" | ".join(cost)} |' if '---' not in line else f'{line}{"|".join(cost)}|'
        for line, cost in zip(metrics, cells, strict=True)
    ]
    note = (
        'Cost per image. NFE counts evaluations of networks, classifier gradients those of them'
        ' that are a forward and a backward pass of the noisy classifier; GFLOP counts all at 2 per'
        ' multiply-add; ms is a warm batch on this machine. w = 0 is plain class-conditional'
        ' sampling. A scale counts from the model that is guided: s on the conditional model'
        ' answers s + 1 on the unconditional one. Of filtering, the one pass of the classifier over'
        ' each image of the pool is not counted.'
    )
    return '\n'.join(lines) + f'\n\n{note}\n'


def draw(path: epath.Path, measured: Sequence[Measured], config: ConfigDict) -> None:
    """IS against the distance, a curve per method; both along its strength; distance and cost."""
    key = _distance(measured[0].rows[0])
    figure, axes = plt.subplots(2, 2, figsize=(15, 9), layout='constrained')
    (curve, distance), (cost, score) = axes
    style.headline(
        figure,
        f'{config.data.name}, T = {config.sampler.num_steps},'
        f' {config.sweep.num_samples:,} samples a point',
    )
    panels = (curve, 'is', key), (distance, 'strength', key), (score, 'strength', 'is')
    for method, marker in zip(measured, _MARKERS, strict=False):
        label = f'{method.name}: {method.strength}'
        for panel, x, y in panels:
            rows = [row for row in method.rows if 'is' in row]
            errors = [row.get(f'{y}_se', 0.0) for row in rows]
            places = [row[x] for row in rows], [row[y] for row in rows]
            panel.errorbar(*places, yerr=errors, marker=marker, label=label)
        places = [row['gflop'] for row in method.rows], [row[key] for row in method.rows]
        cost.plot(*places, marker=marker, linestyle='')
    for panel in (curve, distance, cost):
        style.log_axis(panel, 'y')
        panel.set_ylabel(f'{tables.heading(key)} (lower is better)')
    for panel in (distance, score):
        style.weight_axis(panel, sorted({row['strength'] for m in measured for row in m.rows}))
        panel.set_xlabel('strength')
    curve.set_xlabel('IS (higher is better)')
    score.set_ylabel('IS (higher is better)')
    cost.set_xlabel('GFLOP an image')
    figure.legend(*curve.get_legend_handles_labels(), loc='outside right upper')
    plots.save(path, figure)


def _distance(row: dict[str, Any]) -> str:
    keys = tables.metric_keys(_without_cost(row))
    return next(key for key in keys if not tables.higher_is_better(key))


def _without_cost(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in (*_COST, 'strength', 'w')}
