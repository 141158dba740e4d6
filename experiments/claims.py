"""The paper's findings as inequalities, checked on results with their Monte-Carlo error.

    python experiments/claims.py
    python experiments/claims.py runs/p0.1/sweep/*/results.json runs/p0.5/sweep/*/results.json

Without files it checks the paper's own Tables 1 and 2: a checker that cannot confirm the paper's
findings on the paper's numbers would prove nothing on ours. With files it does so first, then
checks the results: files that differ in p_uncond alone or in T alone are compared with each other.

A finding is supported, not supported, or there are not enough samples to tell. Standard errors come
from the results (sweep.bootstrap); where there are none, as in the paper, 1 % of FID and 0.5 % of
IS are assumed at 50,000 samples, more for fewer. A difference counts from two standard errors on.
"""

from collections.abc import Sequence

from cfg_jax import cli


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('results', nargs='*', metavar='results.json', help='of sweeps')
    parser.add_argument('--out', default='', help='a JSON file for the verdicts')
    options = parser.parse_args(argv)

    from claims_parts import columns as column_lib, findings

    from cfg_jax import files

    if options.out:
        files.check_writable(options.out)
    verdicts = {"the paper's own tables": findings.check_all(column_lib.of_the_paper())}
    if options.results:
        columns = [column_lib.read(path) for path in options.results]
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


if __name__ == '__main__':
    cli.run(main)
