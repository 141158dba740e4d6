"""Writes one HTML page of a sweep: the guidance slider over pictures, curves and table.

    python scripts/report.py runs/digits --out=report.html
    python scripts/report.py runs/digits/sweep/plain runs/digits/sweep/interval --out=both.html

The page is one file: it opens from disk and from any web server, and asks no network for anything.
A slider moves the pictures (the same noise at every w), the point on the curves and the row of the
table together; then come training, cost and provenance. RUN is a sweep's directory, or a work
directory or exported model, of which the newest sweep is shown. Several runs share the axes.

The pictures are images 0, 1, 2, ... of the sweep, drawn by its model; without the model the page
has the numbers alone.
"""

import shlex
import sys
from collections.abc import Sequence

from cfg_jax import cli

_LARGE = 30  # MB that a browser takes a while to show


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('runs', nargs='+', metavar='RUN', help='sweep, work directory or export')
    parser.add_argument('--out', default='report.html', help='the HTML file to write')
    parser.add_argument('--label', type=cli.natural_number, help='the class shown alone (0)')
    parser.add_argument('--images', type=cli.positive_number, default=64, help='pictures at each w')
    options = parser.parse_args(argv)
    if not options.out.lower().endswith(('.html', '.htm')):
        parser.error(f'--out is a page that ends in .html; got {options.out}')

    from cfg_jax import files
    from cfg_jax.report import page

    files.check_writable(options.out)
    command = shlex.join(['python', *sys.argv])
    out = page.write(
        options.runs, options.out, count=options.images, label=options.label, command=command
    )
    megabytes = out.stat().length / 2**20
    advice = '; fewer --images make it smaller' if megabytes > _LARGE else ''
    print(f'{out} written, {megabytes:.1f} MB{advice}: open it in a browser')


if __name__ == '__main__':
    cli.run(main)
