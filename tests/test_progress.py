"""Progress: lines of the log now and then where there is no terminal, a bar where there is one."""

import sys

import pytest
import tqdm.std
from support import logged

from cfg_jax import progress
from cfg_jax.distributed import multihost


@pytest.fixture
def clock(monkeypatch):
    """The time that tqdm sees; tests move it."""
    now = [100.0]
    monkeypatch.setattr(tqdm.std, 'time', lambda: now[0])
    return now


def test_a_line_every_ten_seconds_and_at_the_end(clock, capsys):
    with logged() as lines, progress.bar(1000, 'images', done=200, name='w=1: ') as bar:
        for seconds, done in ((5, 300), (10, 400), (12, 450), (20, 900), (21, 1000)):
            clock[0] = 100.0 + seconds
            bar.update(done - bar.n)
    counts = [line.partition('  ')[0] for line in lines]
    assert counts == ['w=1: 400/1,000 images', 'w=1: 900/1,000 images', 'w=1: 1,000/1,000 images']
    assert lines[0].endswith('20.00 images/s  00:30 left')  # the first 200 cost nothing
    assert lines[-1].endswith('00:00 left')
    assert capsys.readouterr() == ('', '')


def test_the_last_line_is_written_once(clock):
    with logged() as lines, progress.bar(20, 'images') as bar:
        clock[0] += 15.0
        bar.update(20)
    assert len(lines) == 1
    assert lines[0].startswith('20/20 images')


def test_short_work_is_silent(clock):
    with logged() as lines, progress.bar(10, 'images') as bar:
        clock[0] += 9.0
        bar.update(10)
    assert lines == []


def test_work_that_logs_by_itself(clock):
    with logged() as lines, progress.bar(10, 'steps', lines=False) as bar:
        clock[0] += 60.0
        bar.update(5)
    assert lines == []


def test_other_processes_are_silent(clock, monkeypatch):
    monkeypatch.setattr(multihost, 'is_process_zero', lambda: False)
    with logged() as lines, progress.bar(10, 'images') as bar:
        clock[0] += 60.0
        bar.update(5)
    assert lines == []


def test_a_bar_on_a_terminal(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
    with logged() as lines, progress.bar(10, 'images') as bar:
        clock[0] += 1.0
        bar.update(1)
        assert capsys.readouterr().err == ''
        clock[0] += 4.0
        bar.update(4)
        drawn = capsys.readouterr().err
    assert '5/10' in drawn
    assert '1.00 images/s' in drawn
    assert lines == []


def test_format_seconds():
    assert [progress.format_seconds(s) for s in (41, 185, 7620)] == ['00:41', '03:05', '2:07:00']
