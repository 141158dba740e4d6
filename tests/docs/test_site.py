"""The documentation: its Python runs; the site is built without a warning and without a hole."""

import importlib.util
import os
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from pages import blocks, pages
from support import ROOT

# README's and extending.md's are executed by test_readme.py and test_extending.py.
ELSEWHERE = {'README.md', 'extending.md'}
WITH_PYTHON = [
    page
    for page in pages()
    if page.name not in ELSEWHERE and any(block.info == 'python' for block in blocks(page))
]


@pytest.mark.parametrize('page', WITH_PYTHON, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page, trained_workdir, tmp_path, monkeypatch):
    (tmp_path / 'runs').mkdir()
    (tmp_path / 'runs' / 'quickstart').symlink_to(trained_workdir)
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks(page):
        if block.info == 'python':
            assert 'assert ' in block.text
            exec(block.text, names)


def test_there_is_python_to_run():
    assert {'method.md', 'choosing_w.md'} <= {page.name for page in WITH_PYTHON}


class References(HTMLParser):
    """What a page links to, and what it loads by itself."""

    def __init__(self):
        super().__init__()
        self.links, self.loaded, self.names = [], [], set()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.names |= {attributes.get('id'), attributes.get('name')}
        if tag == 'a' and attributes.get('href'):
            self.links.append(attributes['href'])
        if tag in ('script', 'img') and attributes.get('src'):
            self.loaded.append(attributes['src'])
        if tag == 'link' and attributes.get('rel') in ('stylesheet', 'icon'):
            self.loaded.append(attributes['href'])


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """{file: References} of the built site, and its folder."""
    for package in ('material', 'mkdocstrings'):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f'there is no {package}: `make docs` installs it')
    folder = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(folder)]
    environment = os.environ | {'NO_MKDOCS_2_WARNING': '1'}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'WARNING' not in done.stdout + done.stderr
    found = {}
    for path in folder.rglob('*.html'):
        found[path] = References()
        found[path].feed(path.read_text())
    return folder, found


def test_every_link_within_the_site_leads_somewhere(site):
    folder, found = site
    count = 0
    for path, references in found.items():
        if path.name == '404.html':
            continue  # its links are from the root of a server
        for link in references.links + references.loaded:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / 'index.html' if target.is_dir() else target
            assert target.exists(), f'{path.relative_to(folder)}: {link}'
            if parts.fragment and target in found and not parts.fragment.startswith('__'):
                assert unquote(parts.fragment) in found[target].names, f'{path}: {link}'
            count += 1
    assert count > 1000


def test_no_page_loads_anything_from_elsewhere(site):
    for path, references in site[1].items():
        for loaded in references.loaded:
            assert not urlsplit(loaded).netloc, f'{path.name} loads {loaded}'


def test_the_site_has_the_code_that_pages_name(site):
    folder, found = site
    method = found[folder / 'method.html']
    assert any(link.startswith('api/cfg_jax.losses.html') for link in method.links)
    assert 'cfg_jax.losses.algorithm_1' in found[folder / 'api' / 'cfg_jax.losses.html'].names
