"""What a command shows of the log, and where."""

import logging as python_logging
import os
import sys

import pytest
from absl import logging
from support import ROOT, run_script

from cfg_jax import console


def log_as(path, text, name='absl', level=python_logging.INFO):
    """Logs as a line of `path` would."""
    logger = python_logging.getLogger(name)
    record = logger.makeRecord(name, level, str(path), 1, text, (), None)
    if logger.isEnabledFor(level):
        logger.handle(record)


OURS = ROOT / 'cfg_jax' / 'training' / 'loop.py'
ORBAX = '/site-packages/orbax/checkpoint/checkpoint_manager.py'


def test_our_lines_are_bare_on_standard_output(capsys):
    with console.log_shown():
        log_as(OURS, 'step 1\n100 %')
        log_as(ROOT / 'scripts' / 'train.py', 'a script')
        log_as(ROOT / 'experiments' / 'quickstart.py', 'an experiment')
    assert capsys.readouterr() == ('step 1\n100 %\na script\nan experiment\n', '')


def test_our_warnings_are_one_line_on_standard_error(capsys):
    with console.log_shown():
        log_as(OURS, 'half\n  a checkpoint', level=python_logging.WARNING)
    assert capsys.readouterr() == ('', 'warning: half a checkpoint\n')


@pytest.mark.parametrize(
    ('name', 'path', 'shown'), [('absl', ORBAX, ''), ('grain', '/x/grain.py', 'error: lost\n')]
)
def test_other_libraries_show_errors_at_most(capsys, name, path, shown, monkeypatch):
    monkeypatch.delenv('CFG_JAX_DEBUG', raising=False)
    with console.log_shown():
        log_as(path, 'saving', name)
        log_as(path, 'slow', name, python_logging.WARNING)
        log_as(path, 'lost', name, python_logging.ERROR)
    assert capsys.readouterr() == ('', shown)


def test_debugging_shows_their_warnings(capsys, monkeypatch):
    monkeypatch.setenv('CFG_JAX_DEBUG', '1')
    with console.log_shown():
        log_as(ORBAX, 'saving')
        log_as(ORBAX, 'slow', level=python_logging.WARNING)
    assert capsys.readouterr() == ('', 'warning: slow\n')


def test_jax_says_that_a_gpu_is_not_used(capsys):
    words = 'An NVIDIA GPU may be present on this machine, but no CUDA-enabled jaxlib is there'
    with console.log_shown():
        log_as(
            'xla_bridge.py', f'{words}.\nIt runs.', 'jax._src.xla_bridge', python_logging.WARNING
        )
    assert capsys.readouterr() == ('', f'warning: {words}. It runs.\n')


def test_jax_logs_where_we_look(capsys):
    """The name of JAX's logger is not public: its module must have one, with a warning in it."""
    from jax._src import xla_bridge

    assert xla_bridge.logger.name == console._DEVICES


def test_logging_is_afterwards_as_before():
    before = logging.get_verbosity(), list(python_logging.root.handlers)
    with console.log_shown():
        assert logging.level_info()
    assert (logging.get_verbosity(), list(python_logging.root.handlers)) == before


def test_the_streams_of_the_moment(capsys, monkeypatch):
    with console.log_shown():
        monkeypatch.setattr(sys, 'stdout', sys.stderr)
        log_as(OURS, 'a line')
    assert capsys.readouterr() == ('', 'a line\n')


def test_a_reader_that_has_gone_ends_nothing(monkeypatch):
    """`| head`, or a terminal that was closed."""
    reading, writing = os.pipe()
    with os.fdopen(writing, 'w') as stream, monkeypatch.context() as patch:
        patch.setattr(sys, 'stdout', stream)
        os.close(reading)
        with console.log_shown():
            for _ in range(3):
                log_as(OURS, 'a line')


def test_debug_shows_the_traceback_of_a_mistake():
    arguments = ('sample.py', '--workdir=/no/such/directory', '--labels=1')
    status, _, short = run_script('', *arguments)
    assert status == 2
    assert len(short.splitlines()) == 1
    status, _, long = run_script('', *arguments, '--debug')
    assert status == 2
    assert 'Traceback' in long
    assert long.splitlines()[-1] == short.splitlines()[-1]
