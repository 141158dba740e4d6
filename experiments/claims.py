"""The paper's findings as inequalities, checked on results with their Monte-Carlo error.

    python experiments/claims.py
    python experiments/claims.py runs/p0.1/sweep/*/results.json runs/p0.5/sweep/*/results.json

Without files it checks the paper's own Tables 1 and 2: a checker that cannot confirm the paper's
findings on the paper's numbers would prove nothing on ours. With files it does so first, then
checks the results: several files that differ in p_uncond or in T are compared with each other.

A finding is supported, not supported, or there are not enough samples to tell. Standard errors come
from the results (sweep.bootstrap); where there are none, as in the paper, 1 % of FID and 0.5 % of
IS are assumed at 50,000 samples, more for fewer. A difference counts from two standard errors on.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import findings
import paper

from cfg_jax import cli, config as config_lib, files
from cfg_jax.errors import UserError

PAPER_SAMPLES = 50_000


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('results', nargs='*', metavar='results.json', help='of sweeps')
    parser.add_argument('--out', default='', help='a JSON file for the verdicts')
    options = parser.parse_args(argv)

    verdicts = {"the paper's own tables": of_the_paper()}
    if options.results:
        columns = [read_column(path) for path in options.results]
        verdicts['these results'] = findings.check_all(columns)
    for title, found in verdicts.items():
        print(f'\n{title}\n')
        for verdict in found:
            print(f'{verdict.verdict.upper():<20} {verdict.claim}')
            print(f'{"":<20} {verdict.evidence}')
    if options.out:
        files.write_json(
            options.out,
            {title: [verdict._asdict() for verdict in found] for title, found in verdicts.items()},
        )


def of_the_paper() -> list[findings.Verdict]:
    """The findings on Tables 1 and 2."""
    columns = []
    for name in ('table1', 'table2'):
        table = paper.load(name)
        for value, rows in table.rows.items():
            setting = {table.columns: value}
            rows = findings.with_errors(rows, PAPER_SAMPLES)
            columns.append(findings.Column(f'{name}, {table.columns} = {value:g}', setting, rows))
    return findings.check_all(columns)


def read_column(path: str) -> findings.Column:
    """The rows of a sweep's results.json.

    Raises:
      UserError: no such file, or not of a sweep.
    """
    try:
        return column(str(path), json.loads(Path(path).read_text()))
    except (ValueError, KeyError, IndexError, TypeError, StopIteration) as error:
        raise UserError(f'{path} is no results.json of a sweep') from error


def column(
    name: str, results: dict[str, Any], fid_name: str = 'FID', is_name: str = 'IS'
) -> findings.Column:
    """The column of what a sweep measured.

    Args:
      name: for people.
      results: with 'rows', 'config' and 'num_samples'.
      fid_name, is_name: what verdicts call them.

    Raises:
      UserError: there is no Inception Score.
    """
    config, rows = config_lib.from_json(results['config']), results['rows']
    key = next(key for key in ('fid', 'fd768') if key in rows[0])
    setting = {'p_uncond': config.p_uncond, 'T': config.sampler.num_steps}
    if 'is' not in rows[0]:
        raise UserError(f'{name} has no Inception Score, which the findings are about')
    rows = [
        {name.replace(key, 'fid'): value for name, value in row.items()}
        for row in sorted(rows, key=lambda row: row['w'])
    ]
    rows = findings.with_errors(rows, results['num_samples'])
    return findings.Column(name, setting, rows, fid_name, is_name)


if __name__ == '__main__':
    cli.run(main)
