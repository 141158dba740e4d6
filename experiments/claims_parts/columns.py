"""What the findings are checked on: the paper's tables, and results of sweeps."""

import json
from typing import Any

from shared_parts import paper

from cfg_jax import config as config_lib, files
from cfg_jax.errors import UserError
from claims_parts.findings import Column, with_errors

PAPER_SAMPLES = 50_000
_DISTANCES = {'fid': 'FID', 'fd768': 'FD-768'}


def of_the_paper() -> list[Column]:
    """The columns of Tables 1 and 2."""
    columns = []
    for name in ('table1', 'table2'):
        table = paper.load(name)
        for value, rows in table.rows.items():
            setting = {table.columns: value}
            rows = with_errors(rows, PAPER_SAMPLES)
            columns.append(Column(f'{name}, {table.columns} = {value:g}', setting, rows))
    return columns


def read(path: str) -> Column:
    """The rows of a sweep's results.json.

    Raises:
      UserError: no such file, or not of a sweep.
    """
    try:
        return of_results(str(path), json.loads(files.as_path(path).read_text()))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, StopIteration) as error:
        raise UserError(f'{path} is not the results.json of a sweep') from error


def of_results(name: str, results: dict[str, Any], is_name: str = 'IS') -> Column:
    """The column of what a sweep measured, without rows that are not valid.

    Args:
      name: for people.
      results: with 'rows', 'config' and 'num_samples'.
      is_name: what verdicts call the Inception Score.

    Raises:
      UserError: the rows have no Inception Score, or none is of finite images.
    """
    config = config_lib.from_json(results['config'])
    rows = [row for row in results['rows'] if 'images_not_finite' not in row]
    if results['rows'] and not rows:
        raise UserError(f'{name} has no row whose images are all finite')
    key = next(key for key in _DISTANCES if key in rows[0])
    sampler, guidance = config.sampler, config.guidance
    setting = {
        'p_uncond': config.p_uncond,
        'T': sampler.num_steps,
        'dataset': config.data.name,
        'sampler': ':'.join(filter(None, (sampler.name, sampler.options))),
        'grid': sampler.grid,
        'v': sampler.v,
        'clip': sampler.clip,
        'rule': ':'.join(filter(None, (guidance.rule, guidance.options))),
        'num_samples': results['num_samples'],
        'features': results.get('features', {}).get('name'),
    }
    if 'is' not in rows[0]:
        raise UserError(f'{name} has no Inception Score, which the findings are about')
    rows = [
        {name.replace(key, 'fid'): value for name, value in row.items()}
        for row in sorted(rows, key=lambda row: row['w'])
    ]
    rows = with_errors(rows, results['num_samples'])
    return Column(name, setting, rows, _DISTANCES[key], is_name)
