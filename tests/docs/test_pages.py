"""Links, paths and commands in the text of README.md, CONTRIBUTING.md and docs/ lead somewhere."""

import functools
import re
import subprocess

import pytest
from pages import blocks, pages, prose
from support import ROOT, run_here

from cfg_jax import config as config_lib
from cfg_jax.config_fields import FIELDS

PAGES = [str(page.relative_to(ROOT)) for page in pages()]
_LINK = re.compile(r'\]\((?P<target>[^)\s]+)\)')
_PATH = re.compile(r'`((?:cfg_jax|configs|docs|experiments|results|scripts|tests)/[\w./]+)(:\w+)?`')
_COMMAND = re.compile(r'(?<![\w/])((?:scripts|experiments)/\w+\.(?:py|sh))([^\n`|#]*)')
_OPTION = re.compile(r'(?<!\S)(--[a-zA-Z][\w.]*)(?:=(\S+))?')


def text_of(page):
    return (ROOT / page).read_text()


def slugs(page):
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r'^#+ (.+)$', prose(text_of(page)), re.MULTILINE)
    return {re.sub(r'[^\w -]', '', heading).lower().replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
    for link in _LINK.findall(prose(text_of(page))):
        if link.startswith(('https://', 'http://')):
            continue
        file, _, anchor = link.partition('#')
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), f'{page} links to {link}'
        if anchor:
            assert anchor in slugs(target.resolve().relative_to(ROOT)), f'{page} links to {link}'


def test_readme_leads_to_every_page():
    linked = {link.partition('#')[0] for link in _LINK.findall(prose(text_of('README.md')))}
    assert set(PAGES) - {'README.md'} <= linked


@pytest.mark.parametrize('page', PAGES)
def test_paths_are_there(page):
    added = {block.info.split()[-1] for block in blocks(ROOT / page) if block.info}
    for path, _ in _PATH.findall(prose(text_of(page))):
        if 'NAME' not in path and path not in added:
            assert (ROOT / path).exists(), f'{page} names {path}'


def commands(page):
    """(script, options as [(name, value)]) of every command within a page's text."""
    inline = re.findall(r'`([^`\n]+)`', prose(text_of(page)))
    return [
        (script, _OPTION.findall(arguments))
        for part in inline
        for script, arguments in _COMMAND.findall(part)
    ]


@pytest.fixture
def help_of(capsys):
    @functools.cache
    def help_of(script):
        if script.endswith('.sh'):
            command = ['bash', ROOT / script, '--help']
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout
        status, lines, _ = run_here(capsys, script, '--help')
        assert status == 0, f'{script} --help'
        return '\n'.join(lines)

    return help_of


@pytest.mark.parametrize('page', PAGES)
def test_commands_take_the_options_that_the_page_gives_them(page, help_of):
    for script, options in commands(page):
        assert (ROOT / script).is_file(), f'{page} names {script}'
        for option, value in options:
            where = f'{page}: {script} {option}'
            group, _, field = option.partition('.')
            if field:
                assert f'{group}.FIELD' in help_of(script), where
                assert config_lib.current_name(field) == field in FIELDS, where
            else:
                assert re.search(rf'(?<![\w-]){option}(?![\w-])', help_of(script)), where
            if option == '--config' and value:
                assert (ROOT / value.partition(':')[0]).is_file(), where


def test_the_pages_name_commands():
    """The search above finds what is there to be checked."""
    assert len([c for page in PAGES for c in commands(page)]) > 12
    assert ('scripts/soak.py', [('--root', 'runs/soak')]) in commands('docs/guarantees.md')
