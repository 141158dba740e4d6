"""The page itself: one file with styles, scripts, numbers and pictures inside."""

import importlib.resources
import json
import re
from collections.abc import Sequence

from absl import logging
from etils import epath

from cfg_jax import files
from cfg_jax.errors import UserError
from cfg_jax.report import content, pictures as pictures_lib, runs as runs_lib

_STYLES = ('colours.css', 'page.css')
_SCRIPTS = ('chart.js', 'pictures.js', 'page.js')
_MARK = re.compile(r'/\*(?P<name>STYLE|DATA|SCRIPT)\*/')


def write(
    paths: Sequence[epath.PathLike],
    out: epath.PathLike,
    *,
    count: int = 64,
    label: int | None = None,
    command: str = '',
) -> epath.Path:
    """Writes one self-contained page of some sweeps.

    Pictures of a sweep whose model is gone, or has other weights by now, are left out with a
    warning; its numbers are shown.

    Args:
      paths: see `runs.open_runs`.
      out: the HTML file.
      count: pictures at each w.
      label: the class that is shown alone; by default the first.
      command: that made the page, for its provenance.

    Returns:
      The path of the file.

    Raises:
      UserError: as `runs.open_runs`; or the class is not one of the models', or too many images.
    """
    opened = runs_lib.open_runs(paths)
    for run in opened:
        if run.model is not None:
            pictures_lib.check(run, count, label)
    shown = [content.of_run(run, _pictures(run, count, label)) for run in opened]
    data = {
        'title': ' and '.join(run.name for run in opened),
        'command': command,
        'warnings': content.incomparable(opened),
        'runs': shown,
    }
    out = files.as_path(out)
    files.write_bytes(out, render(data).encode())
    return out


def render(data: dict) -> str:
    """The HTML of the page's data."""
    parts = importlib.resources.files('cfg_jax.report')
    fills = {
        'STYLE': '\n'.join((parts / name).read_text() for name in _STYLES),
        # No name of a class or a directory ends the element that holds it.
        'DATA': json.dumps(data, allow_nan=False).replace('<', '\\u003c'),
        'SCRIPT': '\n'.join((parts / name).read_text() for name in _SCRIPTS),
    }
    page = (parts / 'page.html').read_text()
    return _MARK.sub(lambda mark: fills[mark['name']], page)


def _pictures(run: runs_lib.Run, count: int, label: int | None) -> pictures_lib.Pictures | None:
    if run.model is None:
        logging.warning('%s: no pictures, its model is not beside it', run.directory)
        return None
    try:
        return pictures_lib.draw(run, count, label)
    except UserError as error:
        logging.warning('%s: no pictures: %s', run.directory, error)
        return None
