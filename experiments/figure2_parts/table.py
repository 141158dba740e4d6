"""The figure's numbers in words and as Markdown."""

from collections.abc import Sequence

from figure2_parts.samples import FEW_STEPS


def verdict(row: dict) -> str:
    """What a row says, in a few words."""
    if row['within_monte_carlo_error']:
        return f'agree within Monte-Carlo error (z = {row["z"]:.1f})'
    return f'do not agree (z = {row["z"]:.0f})'


def markdown(rows: Sequence[dict]) -> str:
    """Two Markdown tables: the distances with their verdicts, and the moments."""
    lines = [
        f'| w | TV(samples, tilted) | in {FEW_STEPS} steps | TV of true draws | verdict |',
        '|---|---|---|---|---|',
    ]
    for row in rows:
        chance = f'{row["tv_by_chance"]:.4f} ± {row["tv_by_chance_std"]:.4f}'
        few = f'{row["tv_few_steps"]:.4f}'
        lines.append(f'| {row["w"]:g} | {row["tv"]:.4f} | {few} | {chance} | {verdict(row)} |')
    lines += [
        '',
        '| w | mean outward: samples, tilted | std outward | std across |',
        '|---|---|---|---|',
    ]
    for row in rows:
        ours, exact = (row['outward_and_across'][name] for name in ('samples', 'tilted'))
        pairs = [(ours[key][i], exact[key][i]) for key, i in (('mean', 0), ('std', 0), ('std', 1))]
        cells = ' | '.join(f'{a:.3f}, {b:.3f}' for a, b in pairs)
        lines.append(f'| {row["w"]:g} | {cells} |')
    return '\n'.join(lines)
