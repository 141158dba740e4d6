import contextlib
import json
import math
import resource
import signal
import sys
import types

import pytest
from support import logged

from cfg_jax.training import writers


def write(workdir, steps, resume_step=0):
    writer = writers.MetricWriter(workdir, resume_step)
    for step in steps:
        writer.write(step, {'loss': 1.0 / step})
    writer.close()


def steps_of(workdir):
    return [row['step'] for row in writers.read_metrics(workdir)]


def test_one_json_object_per_row_at_once(tmp_path):
    writer = writers.MetricWriter(tmp_path)
    writer.write(2, {'loss': 0.5, 'rate': 3})
    lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()  # before close
    assert [json.loads(line) for line in lines] == [{'step': 2, 'loss': 0.5, 'rate': 3}]
    writer.close()


def test_a_new_run_drops_old_rows(tmp_path):
    write(tmp_path, [1, 2])
    write(tmp_path, [1])
    assert steps_of(tmp_path) == [1]


def test_resuming_drops_the_rows_after_the_checkpoint(tmp_path):
    write(tmp_path, [2, 4, 6])
    writers.MetricWriter(tmp_path, 4).close()
    assert steps_of(tmp_path) == [2, 4]
    write(tmp_path, [6, 8], resume_step=4)
    assert steps_of(tmp_path) == [2, 4, 6, 8]


@pytest.mark.parametrize('cut', [1, 5, 20])
def test_a_torn_last_line_is_left_out(tmp_path, cut):
    write(tmp_path, [2, 4, 6])
    path = tmp_path / 'metrics.jsonl'
    path.write_text(path.read_text()[:-1][:-cut])
    assert steps_of(tmp_path) == [2, 4]
    write(tmp_path, [8], resume_step=6)
    assert steps_of(tmp_path) == [2, 4, 8]
    assert len(path.read_text().splitlines()) == 3


def test_a_last_line_without_its_newline_is_whole(tmp_path):
    write(tmp_path, [2, 4])
    path = tmp_path / 'metrics.jsonl'
    path.write_text(path.read_text()[:-1])
    write(tmp_path, [6], resume_step=4)
    assert steps_of(tmp_path) == [2, 4, 6]


@pytest.mark.parametrize(
    'damage', [b'{"step": \n', b'7\n', b'[1]\n', b'\xff\xfe\x00\n', b'{"loss": 1.0}\n', b'\n']
)
def test_lines_that_are_no_rows_are_left_out_and_kept_aside(tmp_path, damage):
    write(tmp_path, [2, 4])
    path = tmp_path / 'metrics.jsonl'
    before = damage + path.read_bytes()
    path.write_bytes(before)
    assert steps_of(tmp_path) == [2, 4]
    with logged() as lines:
        write(tmp_path, [6], resume_step=4)
    assert [line for line in lines if line.endswith('it is kept as metrics.jsonl.damaged')]
    assert steps_of(tmp_path) == [2, 4, 6]
    assert (tmp_path / 'metrics.jsonl.damaged').read_bytes() == before


@contextlib.contextmanager
def full_disk(path):
    """No file may grow beyond what `path` holds and a few bytes: half a line fits, no more."""
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 8, unlimited[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize('after', [[], [6, 8]])
def test_a_full_disk_costs_a_warning_and_no_row_once_there_is_room(tmp_path, after):
    path = tmp_path / 'metrics.jsonl'
    writer = writers.MetricWriter(tmp_path)
    writer.write(2, {'loss': 0.5})
    with logged() as lines, full_disk(path):
        writer.write(4, {'loss': 0.25})
    (line,) = lines
    assert line.startswith(f'warning: the row of step 4 in {path} could not be written (')
    assert line.endswith('; training continues')
    for step in after:
        writer.write(step, {'loss': 0.1})
        # Whole at once: a kill may come at any time.
        assert [json.loads(line)['step'] for line in path.open()][-1] == step
    writer.close()
    assert [json.loads(line)['step'] for line in path.open()] == [2, 4, *after]


def test_a_disk_that_stays_full_does_not_end_the_training(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    writer = writers.MetricWriter(tmp_path)
    writer.write(2, {'loss': 0.5})
    with logged() as lines, full_disk(path):
        writer.write(4, {'loss': 0.25})
        writer.write(6, {'loss': 0.25})
        writer.close()
    assert len(lines) == 3
    assert steps_of(tmp_path) == [2]


def test_a_directory_in_the_place_of_the_metrics(tmp_path):
    (tmp_path / 'metrics.jsonl').mkdir()
    assert steps_of(tmp_path) == []
    write(tmp_path, [2])
    assert steps_of(tmp_path) == [2]


def use_tensorboard(monkeypatch, module):
    """Puts `module` in the place of tensorboard.summary; None: it is not installed."""
    package = None if module is None else types.ModuleType('tensorboard')
    monkeypatch.setitem(sys.modules, 'tensorboard', package)
    monkeypatch.setitem(sys.modules, 'tensorboard.summary', module)


class Board:
    """A stand-in for tensorboard.summary with its Writer; `fail` names the method that raises."""

    def __init__(self, fail=''):
        self.rows, self.fail, self.closed = [], fail, False

    def Writer(self, directory):
        self._raise('Writer')
        self.directory = directory
        return self

    def add_scalar(self, name, value, step):
        self._raise('add_scalar')
        self.rows.append((name, value, step))

    def flush(self):
        self._raise('flush')

    def close(self):
        self._raise('close')
        self.closed = True

    def _raise(self, name):
        if name == self.fail:
            raise AttributeError('numpy has no attribute bool8')


def test_tensorboard_gets_every_number(tmp_path, monkeypatch):
    board = Board()
    use_tensorboard(monkeypatch, board)
    with logged() as lines:
        write(tmp_path, [2, 4])
    assert board.directory == str(tmp_path / 'tensorboard')
    assert board.rows == [('loss', 0.5, 2), ('loss', 0.25, 4)]
    assert board.closed
    assert lines == []


def test_without_tensorboard_one_line_says_what_to_install(tmp_path, monkeypatch):
    """Whatever TensorFlow is there or not: its newest version does not bring tensorboard."""
    use_tensorboard(monkeypatch, None)
    with logged() as lines:
        write(tmp_path, [2, 4])
    (line,) = lines
    assert line.startswith('TensorBoard is left out (')
    assert 'pip install tensorboard' in line
    assert steps_of(tmp_path) == [2, 4]


@pytest.mark.parametrize('fail', ['Writer', 'add_scalar', 'flush', 'close'])
def test_a_broken_tensorboard_stops_nothing(tmp_path, monkeypatch, fail):
    use_tensorboard(monkeypatch, Board(fail))
    with logged() as lines:
        write(tmp_path, [2, 4, 6])
    assert lines[0].startswith('TensorBoard is left out (numpy has no attribute bool8)')
    assert len(lines) == 1
    assert steps_of(tmp_path) == [2, 4, 6]


def test_no_metrics_yet(tmp_path):
    assert writers.read_metrics(tmp_path) == []


def test_not_a_number_can_be_read_back(tmp_path):
    writer = writers.MetricWriter(tmp_path)
    writer.write(1, {'loss': float('nan')})
    writer.close()
    assert math.isnan(writers.read_metrics(tmp_path)[0]['loss'])
