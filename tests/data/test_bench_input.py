"""The input benchmark at toy length: its pictures, its table, its mistakes."""

import io

import numpy as np
from PIL import Image
from support import run_here, script, tiny_arguments

COMMAND = 'scripts/bench_input.py'


def test_made_up_pictures(capsys):
    status, lines, _ = run_here(capsys, COMMAND, '--seconds=0.01')
    assert status == 0
    rows = [line for line in lines if line.startswith('| ') and 'one core' in line]
    assert len(rows) == 4
    assert any('JPEG 500 x 375 -> 128' in row for row in rows)
    assert all(float(row.split('|')[2].replace(',', '')) > 0 for row in rows)


def test_a_config(capsys):
    arguments = ['--config=configs/digits.py', '--workers=0', '--seconds=0.01', *tiny_arguments()]
    status, lines, _ = run_here(capsys, COMMAND, *arguments)
    assert status == 0
    assert lines[-1].startswith('| digits, 0 workers | ')


def test_mistakes(capsys):
    for arguments, words in (
        (['--seconds=0'], '--seconds'),
        (['--config=configs/none.py'], 'none.py'),
        (['--workers=x'], 'whole numbers'),
    ):
        status, _, errors = run_here(capsys, COMMAND, *arguments)
        assert status == 2
        assert words in errors[0]


def test_pictures_are_like_photographs():
    """Amplitude falls as 1 / frequency, and a JPEG of 500 x 375 has about ImageNet's 110 KB."""

    bench_input = script('bench_input.py')
    picture = bench_input.photograph((375, 500), np.random.default_rng(0))
    assert picture.shape == (375, 500, 3)
    amplitude = np.abs(np.fft.fft2(picture[..., 0].astype(float) - picture[..., 0].mean()))
    near, far = amplitude[0, 5:10].mean(), amplitude[0, 50:100].mean()
    assert 4 < near / far < 25  # ten times the frequency
    encoded = bench_input.encode(picture, 'JPEG', 93)
    assert 70_000 < len(encoded) < 160_000
    assert Image.open(io.BytesIO(encoded)).size == (500, 375)
