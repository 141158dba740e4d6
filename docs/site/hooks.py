"""What `make docs` adds to docs/: README and its like, an API reference, and the files linked to.

Pages are written for the repository, where their links lead to files. Here each such link is made
one to a page of the site: of the API for a module of API, of the file's text for another file.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    'README.md': 'index.md',
    'CONTRIBUTING.md': 'contributing.md',
    'CHANGELOG.md': 'changelog.md',
}
# Modules, and folders with all of their modules, that people use or extend.
API = (
    'inference',
    'loading',
    'editing',
    'animation',
    'diffusion',
    'losses',
    'guidance',
    'samplers',
    'conditioning',
    'metrics',
    'models/denoiser',
    'data/images',
    'evaluation/sweep',
    'evaluation/style',
    'report',
    'training/step',
    'training/export',
    'registry',
    'errors',
)
_LINK = re.compile(r'\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)')
_FENCE = re.compile(r'^( *)```.*?^\1```$', re.MULTILINE | re.DOTALL)
_LANGUAGES = {'.py': 'python', '.yaml': 'yaml', '.sh': 'bash', '.md': 'markdown'}
_origins: dict[str, str] = {}  # page of the site -> file of the repository


def on_files(files, config):
    """Adds everything that pages link to, and what that links to."""
    _origins.clear()
    _origins.update({f.src_uri: f'docs/{f.src_uri}' for f in files if f.src_uri.endswith('.md')})
    for path, uri in PAGES.items():
        _add(files, config, uri, path)
    for module in _modules():
        _origins[_api_page(module)] = ''
        content = f'# {module}\n\n::: {module}\n'
        files.append(File.generated(config, _api_page(module), content=content))
    index = '# API reference\n\n' + '\n'.join(f'* [{m}]({m}.md)' for m in _modules()) + '\n'
    files.append(File.generated(config, 'api/index.md', content=index))
    waiting = [origin for origin in _origins.values() if origin]
    while waiting:
        origin = waiting.pop()
        for link in _LINK.finditer(_FENCE.sub('', (ROOT / origin).read_text())):
            path = _target(origin, link['target'])
            uri = path and _page_of(path)
            if uri and not files.get_file_from_path(uri):
                _add(files, config, uri, path)
                if path.endswith('README.md'):
                    waiting.append(path)
    return files


def on_nav(nav, config, files):
    """Puts the API reference behind what mkdocs.yml lists."""
    from mkdocs.structure.nav import Link, Section

    links = [Link(m.removeprefix('cfg_jax.'), f'api/{m}.html') for m in _modules()]
    nav.items.append(Section('API reference', links))
    return nav


def on_page_markdown(markdown, page, config, files):
    """Rewrites the links of a page that comes from a file of the repository."""
    uri = page.file.src_uri
    origin = _origins.get(uri)
    if not origin or uri.startswith('source/'):
        return markdown

    def rewritten(link):
        path = _target(origin, link['target'])
        if path is None:
            return link[0]
        target = _page_of(path)
        relative = posixpath.relpath(target, posixpath.dirname(uri) or '.')
        return f']({relative}{link["anchor"] or ""})'

    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [_LINK.sub(rewritten, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return ''.join([*parts, _LINK.sub(rewritten, markdown[end:])])


def _modules():
    found = []
    for name in API:
        path = ROOT / 'cfg_jax' / name
        paths = sorted(path.rglob('*.py')) if path.is_dir() else [path.with_suffix('.py')]
        for each in paths:
            dotted = '.'.join(each.relative_to(ROOT).with_suffix('').parts)
            found.append(dotted.removesuffix('.__init__'))
    return found


def _api_page(module):
    return f'api/{module}.md'


def _target(origin, link):
    """The file or folder of the repository that a link leads to; None for one to elsewhere."""
    if '://' in link or link.startswith('mailto:'):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))
    if (ROOT / path / 'README.md').exists():
        return f'{path}/README.md'
    return path if (ROOT / path).exists() else None


def _page_of(path):
    """Where the site has a file of the repository."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith('docs/'):
        return path.removeprefix('docs/')
    module = path.removesuffix('.py').replace('/', '.').removesuffix('.__init__')
    if path.endswith('.py') and module in _modules():
        return _api_page(module)
    if path.endswith(('.png', '.svg', '/README.md')):
        return path
    return f'source/{path}.md'


def _add(files, config, uri, path):
    if not uri.endswith('.md'):
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
        return
    _origins[uri] = path
    if (ROOT / path).is_dir():
        names = sorted(each.name for each in (ROOT / path).iterdir())
        text = f'# {path}\n\n' + '\n'.join(f'* `{name}`' for name in names) + '\n'
        files.append(File.generated(config, uri, content=text))
        return
    text = (ROOT / path).read_text()
    if uri.startswith('source/'):
        language = _LANGUAGES.get(Path(path).suffix, 'text')
        text = f'# {path}\n\n````{language}\n{text}\n````\n'
    files.append(File.generated(config, uri, content=text))
