"""README: its length, and its Python, run with a trained model."""

import json

import numpy as np
import pytest
from pages import blocks
from support import ROOT

import cfg_jax

README = ROOT / 'README.md'


def test_it_is_short():
    assert len(README.read_text().splitlines()) <= 160


@pytest.fixture(scope='module')
def code():
    [block] = [block for block in blocks(README) if block.info == 'python']
    return block.text


def test_its_python_is_about_ten_lines(code):
    assert len([line for line in code.splitlines() if line.strip()]) <= 12


def test_its_python_does_what_it_says(code, trained_workdir, tmp_path, monkeypatch):
    (tmp_path / 'runs').mkdir()
    (tmp_path / 'runs' / 'quickstart').symlink_to(trained_workdir)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert names['images'].shape == names['fast'].shape == (3, 8, 8, 1)
    assert names['images'].dtype == names['rising'].dtype == np.uint8
    model = cfg_jax.load(trained_workdir)
    np.testing.assert_array_equal(names['images'][:2], model.sample([3, 3], w=3.0, seed=0))
    # One noise, from 'w = 0' on: alone and in the batch it is the same image up to rounding.
    alone = model.sample([8], w=0.0, seed=0).astype(int)
    assert np.abs(names['rising'][0] - alone[0]).max() <= 1
    by_hand = 4.0 * names['eps_cond'] - 3.0 * names['eps_uncond']
    np.testing.assert_allclose(names['guided'], by_hand, rtol=1e-5, atol=1e-6)
    assert np.abs(names['eps_cond'] - names['eps_uncond']).max() > 0


def test_the_table_is_that_of_the_results():
    """The quick start's numbers stand in README as in results/quickstart."""
    table = (ROOT / 'results' / 'quickstart' / 'table.md').read_text()
    rows = [line for line in table.splitlines() if line.startswith('| ')]
    assert len(rows) == 8
    readme = README.read_text()
    for row in rows:
        assert row in readme


def test_which_guidance_is_what_the_zoo_says():
    """The recommendation stands in docs as computed, and README's row is one of its points."""
    results = ROOT / 'results' / 'guidance_zoo'
    assert (results / 'rules.md').read_text().strip() in (
        ROOT / 'docs/which_guidance.md'
    ).read_text()
    [row] = [line for line in README.read_text().splitlines() if line.startswith('| a sixteenth')]
    ours, paper = (
        json.loads((results / 'sixteenth' / f'{name}.json').read_text())['rows'][0]
        for name in ('fast', 'paper')
    )
    assert ours['w'] == paper['w'] == 0.3
    assert 16 * ours['nfe'] <= paper['nfe']
    assert ours['fid'] <= paper['fid']
    assert ours['is'] >= paper['is']
    for point in (ours, paper):
        assert f'NFE {point["nfe"]}' in row
        assert f'{point["fid"]:.2f} ± {point["fid_se"]:.2f}' in row
        assert f'{point["is"]:.3f} ± {point["is_se"]:.3f}' in row
