"""docs/guidance_in_2d.ipynb runs from beginning to end, and shows what it says."""

import json
import re

import pytest
from support import ROOT

NOTEBOOK = ROOT / 'docs' / 'guidance_in_2d.ipynb'


@pytest.fixture(scope='module')
def printed():
    """What its cells print, in one text."""
    nbclient = pytest.importorskip('nbclient')
    nbformat = pytest.importorskip('nbformat')
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name='python3', resources={'metadata': {'path': ROOT}}
    ).execute()
    outputs = [each for cell in notebook.cells for each in cell.get('outputs', ())]
    assert not [each for each in outputs if each.output_type == 'error']
    return ''.join(each.text for each in outputs if each.output_type == 'stream')


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
