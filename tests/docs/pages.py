"""The documentation as data: pages, their fenced blocks, links and commands."""

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

from support import ROOT

_FENCE = re.compile(
    r'^(?P<indent> *)```(?P<info>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$', re.MULTILINE | re.DOTALL
)


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
        text_of_block = textwrap.dedent(match['text'])
        found.append(Block(match['info'].strip(), (headings or [''])[-1], text_of_block))
    return found


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub('', text)
