"""The documentation as data: pages, their fenced blocks, links and commands."""

import re
from pathlib import Path
from typing import NamedTuple

from support import ROOT

_FENCE = re.compile(r'^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: what follows the three backticks, the nearest heading above, the text."""

    info: str
    heading: str
    text: str


def pages() -> list[Path]:
    """README.md, CONTRIBUTING.md and docs/*.md."""
    return [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        headings = re.findall(r'^#+ (.+)$', prose(text[: match.start()]), re.MULTILINE)
        found.append(Block(match['info'].strip(), (headings or [''])[-1], match['text']))
    return found


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub('', text)
