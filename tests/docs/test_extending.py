"""The examples of docs/extending.md, added to a copy of the library as the page says.

Each example is a new file or an appended line, an entry of a registry, and a test, which the page
shows. A reader who copies them finds what this file finds.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from pages import blocks, prose
from support import ROOT, make_tiny_config

from cfg_jax import diffusion
from cfg_jax.training.step import create_state

PAGE = ROOT / 'docs' / 'extending.md'
# Lines of everything but the test, at most.
LIMITS = {
    'A guidance rule': 29,
    'A sampler': 29,
    'A prediction target': 14,
    'A kind of condition': 59,
    'A data source': 39,
    'A metric': 24,
}
_NEW = re.compile(r'python (?:file|test) (?P<file>\S+)')
_END = re.compile(r'python end of (?P<file>\S+)')
_ENTRY = re.compile(r'python entry of (?P<registry>\w+) in (?P<file>\S+)')


def example(heading):
    """{info: text} of the blocks that add something."""
    found = [b for b in blocks(PAGE) if b.heading == heading and b.info.startswith('python ')]
    return {block.info: block.text for block in found}


def its_test(heading):
    [info] = [info for info in example(heading) if info.startswith('python test ')]
    return info.removeprefix('python test ')


def add_entry(source, registry, entry):
    """The source with `entry` behind the last one of `registry = Registry(..., {...})`."""
    [call] = [
        node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == registry
    ]
    [entries] = [argument for argument in call.args if isinstance(argument, ast.Dict)]
    last = entries.values[-1]
    lines = source.splitlines(keepends=True)
    line = lines[last.end_lineno - 1]
    lines[last.end_lineno - 1] = (
        f'{line[: last.end_col_offset]},\n{entry.rstrip().removesuffix(",")}'
        f'{line[last.end_col_offset :]}'
    )
    return ''.join(lines)


def apply(root, info, text):
    if match := _ENTRY.fullmatch(info):
        path = root / match['file']
        path.write_text(add_entry(path.read_text(), match['registry'], text))
    elif match := _END.fullmatch(info):
        path = root / match['file']
        path.write_text(path.read_text() + text)
    else:
        path = root / _NEW.fullmatch(info)['file']
        assert not path.exists(), f'{path} is in the library; the page says that it is new'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture(scope='module')
def extended(tmp_path_factory):
    """A copy of the library with every example, whose tests have run: (directory, JUnit report)."""
    root = tmp_path_factory.mktemp('extended')
    shutil.copytree(ROOT / 'cfg_jax', root / 'cfg_jax', ignore=shutil.ignore_patterns('*.pyc'))
    shutil.copy(ROOT / 'pyproject.toml', root)
    for heading in LIMITS:
        for info, text in example(heading).items():
            apply(root, info, text)
    report = root / 'report.xml'
    environment = os.environ | {'PYTHONPATH': os.pathsep.join([str(root), str(ROOT / 'tests')])}
    command = [sys.executable, '-m', 'pytest', '-q', '-o', 'addopts=', '-p', 'no:cacheprovider']
    tests = [its_test(heading) for heading in LIMITS]
    result = subprocess.run(
        [*command, f'--junitxml={report}', *tests],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert report.exists(), result.stdout + result.stderr
    return root, report


def test_the_page_has_these_examples_and_no_others():
    adding = {b.heading for b in blocks(PAGE) if b.info.startswith(('python file', 'python end'))}
    assert adding == set(LIMITS)


@pytest.mark.parametrize('heading', LIMITS)
def test_the_example_passes_its_own_test(extended, heading):
    _, report = extended
    module = its_test(heading).removesuffix('.py').replace('/', '.')
    cases = [c for c in ElementTree.parse(report).iter('testcase') if c.get('classname') == module]
    assert cases, report.read_text()
    for case in cases:
        assert not list(case), ElementTree.tostring(case, encoding='unicode')


@pytest.mark.parametrize('heading', LIMITS)
def test_the_example_is_as_small_as_the_page_says(heading):
    added = {info: text for info, text in example(heading).items() if ' test ' not in info}
    assert sum(len(text.splitlines()) for text in added.values()) <= LIMITS[heading]
    # One place for the thing itself, and one registry.
    assert len(added) == 2
    assert sum(bool(_ENTRY.fullmatch(info)) for info in added) == 1


def test_a_network_from_elsewhere_is_a_denoiser():
    """The page's rectified flow to one image x: its eps is (z - alpha x) / sigma."""
    [code] = [block.text for block in blocks(PAGE) if block.info == 'python']
    names = {}
    exec(code, names)
    rng = np.random.default_rng(0)
    x, eps = np.float32(rng.normal(size=(2, 3, 4, 4, 1)))
    logsnr = np.float32([-4.0, 0.0, 4.0])
    z = diffusion.q_sample(x, logsnr, eps)
    np.testing.assert_allclose(names['denoiser'].eps(x, z, logsnr, None), eps, atol=1e-4)


def test_exported_tensors_are_named_as_the_page_says():
    config = make_tiny_config(model__channel_mult=(1, 2), model__attention_resolutions=(4,))
    params = jax.eval_shape(lambda: create_state(config)).ema_params
    described = prose(PAGE.read_text()).partition('## Exported files')[2]
    known = set(re.findall(r'`([\w/.]+)`', described))
    known |= {'embedding', 'label'}
    for path in flatten_dict(params):
        assert path[0] == 'params'
        for part in path[1:]:
            numbered = re.sub(r'^(down|up)_\d_\d', r'\1_L_B', part)
            numbered = re.sub(r'^(down|up)_\d_resample', r'\1_L_resample', numbered)
            kind = re.sub(r'.*_attention$', '..._attention', numbered)
            assert kind in known, '/'.join(path)


@pytest.mark.parametrize('heading', LIMITS)
def test_the_page_names_the_places(heading):
    page = PAGE.read_text()
    for info in example(heading):
        assert f'`{info.split()[-1]}`' in page


def test_the_examples_are_in_the_style_of_the_library(extended):
    root, _ = extended
    ruff = shutil.which('ruff', path=Path(sys.executable).parent) or shutil.which('ruff')
    if ruff is None:
        pytest.skip("no ruff: it comes with pip install -e '.[test]'")
    new = [match['file'] for h in LIMITS for i in example(h) if (match := _NEW.fullmatch(i))]
    for command in (['check', *new], ['format', '--check', *new]):
        result = subprocess.run([ruff, *command], cwd=root, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout
