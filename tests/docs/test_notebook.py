"""docs/guidance_in_2d.ipynb runs from beginning to end, and shows what it says."""

import json
import re
import subprocess
import sys

import pytest
from support import ROOT, script_environment

NOTEBOOK = ROOT / 'docs' / 'guidance_in_2d.ipynb'


@pytest.fixture(scope='module')
def printed():
    """What its cells print, in one text."""
    command = [sys.executable, '-m', 'IPython', '--colors=NoColor', NOTEBOOK]
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env=script_environment(MPLBACKEND='agg'),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'Traceback' not in done.stdout + done.stderr  # of a picture that a slider draws
    return done.stdout


def test_it_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())['cells']
    assert not any(cell.get('outputs') or cell.get('execution_count') for cell in cells)


def test_guidance_moves_classes_apart_and_narrows_them(printed):
    rows = re.findall(r'w = +(\S+): mean at (\S+), variance (\S+)', printed)
    w, means, variances = zip(*(map(float, row) for row in rows), strict=True)
    assert list(w) == sorted(w)
    assert list(means) == sorted(means)
    assert list(variances) == sorted(variances, reverse=True)
    # Unguided: N(m_c, I) with |m_c| = 1.79; of 300 points the variance has an error of 0.06.
    assert abs(means[0] - 1.79) < 0.15
    assert abs(variances[0] - 1) < 0.2


def test_the_library_draws_what_the_loop_by_hand_draws(printed):
    [difference] = re.findall(r'difference from part 2: (\S+)', printed)
    assert float(difference) < 1e-3
