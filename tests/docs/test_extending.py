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

import pytest
from pages import blocks
from support import ROOT

PAGE = ROOT / 'docs' / 'extending.md'
# Lines of everything but the test, at most.
LIMITS = {
    'A guidance rule': 29,
    'A sampler': 29,
    'A prediction target': 14,
    'A kind of condition': 59,
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
    for command in (['check', '.'], ['format', '--check', *new]):
        result = subprocess.run([ruff, *command], cwd=root, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout
