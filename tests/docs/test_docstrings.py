"""Docstrings of the library: public things have one, and it says what they do."""

import ast
from pathlib import Path

import pytest
from support import ROOT

FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / 'cfg_jax').rglob('*.py'))


def public_things(tree):
    """The module, its public classes and functions, and their public methods."""
    yield 'the module', tree
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith('_'):
            yield node.name, node
            members = node.body if isinstance(node, ast.ClassDef) else []
            for member in members:
                if isinstance(member, ast.FunctionDef) and not member.name.startswith('_'):
                    yield f'{node.name}.{member.name}', member


@pytest.mark.parametrize('path', FILES)
def test_docstrings_say_what_things_do(path):
    for name, node in public_things(ast.parse(Path(ROOT, path).read_text())):
        text = ast.get_docstring(node)
        assert text, f'{name} of {path} has no docstring'
        assert not text.startswith('See '), f'{name} of {path} refers to something else'
