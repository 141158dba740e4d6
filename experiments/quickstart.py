"""The whole story on a laptop: train on real digits, sweep w, print and show the trade-off.

    make quickstart            (or: python experiments/quickstart.py)

The expectation, from the paper's Tables 1 and 2: as w grows, IS rises and FID, best at a small w,
gets several times worse. FID and IS are made here with a small classifier of digits, so their scale
is their own. Interrupt it anywhere; the same command continues. Finished work is kept.
"""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from cfg_jax import cli

WORKDIR = 'runs/quickstart'  # as in the Makefile
ROOT = Path(__file__).resolve().parents[1]


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    cli.add_pdf_option(parser)
    parser.add_argument('--workdir', default=WORKDIR, help='where everything is written')
    parser.set_defaults(config=str(ROOT / 'configs' / 'digits.py'))
    options, config = cli.parse_with_config(parser, argv)

    from cfg_jax import files
    from cfg_jax.evaluation import sweep
    from cfg_jax.report import page
    from cfg_jax.training import loop

    start = time.monotonic()
    loop.train(config, options.workdir)
    directory = sweep.run(config, options.workdir)
    print(f'\nClassifier-free guidance on {config.data.name}: w against FID and IS\n')
    print((directory / 'table.md').read_text())
    print(f'pictures: {directory}/tradeoff.png and {directory}/samples.png')
    out = files.as_path(options.workdir) / 'report.html'
    report = page.write([directory], out, command=command_of(argv))
    print(f'the slider over w: open {report} in a browser')
    print(f'took {time.monotonic() - start:.0f} s')


def command_of(argv: Sequence[str]) -> str:
    """What a reader types for the same page: `make quickstart` where nothing was asked for."""
    if list(argv) in ([], [f'--workdir={WORKDIR}']):
        return 'make quickstart'
    return shlex.join(['python', 'experiments/quickstart.py', *argv])


if __name__ == '__main__':
    cli.run(main)
