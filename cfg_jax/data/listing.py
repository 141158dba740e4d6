"""The files below a directory: images, hidden files and files of other kinds."""

import errno
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from cfg_jax.errors import UserError

# By ending, in any case; the content decides in the end.
PNG = ('.png',)
JPEG = ('.jpg', '.jpeg', '.jpe', '.jfif')
WEBP = ('.webp',)
OTHER_IMAGES = ('.bmp', '.gif', '.tif', '.tiff', '.ppm', '.pgm', '.avif', '.heic')

_HIDDEN = ('thumbs.db', 'desktop.ini', '__macosx')  # and whatever begins with a dot
_NAMED = 3  # unreadable files that a summary names


class Listing(NamedTuple):
    """The files below a directory, links to files and directories followed.

    Attributes:
      images: paths relative to the directory with '/', sorted by their parts.
      hidden: how many files and directories of the system, such as .DS_Store, Thumbs.db and ._x,
        were skipped.
      others: how often each other ending was skipped.
      unreadable: paths of links that lead nowhere and of directories that may not be read.
    """

    images: list[str]
    hidden: int
    others: Counter[str]
    unreadable: list[str]

    def num_files(self) -> int:
        """Files of all kinds."""
        return len(self.images) + self.skipped()

    def skipped(self) -> int:
        """Files that are not images."""
        return self.hidden + self.others.total() + len(self.unreadable)

    def skipped_words(self) -> str:
        """Such as '2 hidden, 1 of other kinds (.txt), 1 unreadable (cats/a.png)'; '' for none."""
        words = [f'{self.hidden} hidden'] if self.hidden else []
        if self.others:
            kinds = ', '.join(sorted(self.others)[:8])
            words.append(f'{self.others.total()} of other kinds ({kinds})')
        if self.unreadable:
            named = ', '.join(map(printable, self.unreadable[:_NAMED]))
            more = ', ...' if len(self.unreadable) > _NAMED else ''
            words.append(f'{len(self.unreadable)} unreadable ({named}{more})')
        return ', '.join(words)


def list_images(directory: Path, endings: Collection[str]) -> Listing:
    """The files below `directory`; those whose lower-case ending is in `endings` are its images.

    Raises:
      UserError: the directory itself cannot be read.
    """
    images, others, unreadable, hidden = [], Counter(), [], 0
    for path, readable in _walk(directory, '', (os.path.realpath(directory),)):
        name = path.rpartition('/')[2]
        stem, _, tail = name.rpartition('.')
        ending = f'.{tail.lower()}' if stem else ''
        if is_hidden(name):
            hidden += 1
        elif not readable:
            unreadable.append(path)
        elif ending in endings:
            images.append(path)
        else:
            others[ending or name] += 1
    images.sort(key=lambda path: path.split('/'))
    return Listing(images, hidden, others, sorted(unreadable))


def subdirectories(directory: Path) -> list[str]:
    """Names of the directories in `directory`, links included and hidden ones not, sorted.

    Raises:
      UserError: the directory cannot be read.
    """
    try:
        with os.scandir(directory) as entries:
            found = [e.name for e in entries if _is(os.DirEntry.is_dir, e)]
    except OSError as error:
        raise UserError(f'{directory} cannot be read: {error.strerror}') from error
    return sorted(name for name in found if not is_hidden(name))


def is_hidden(name: str) -> bool:
    """Whether a file or directory of this name belongs to a system, not to a data set."""
    return name.startswith('.') or name.lower() in _HIDDEN


def printable(name: str) -> str:
    """`name` with the bytes that are not text written as escapes."""
    return name.encode('utf-8', 'backslashreplace').decode()


def _walk(directory: Path, prefix: str, above: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    """(path relative to `directory`, whether it is a readable file) of everything below it.

    `above` are the real paths of this directory and those around it: a link to one of them would
    lead round in circles, and is left out.
    """
    try:
        with os.scandir(os.path.join(directory, prefix)) as entries:
            found = list(entries)
    except OSError as error:
        if not prefix:
            raise UserError(f'{directory} cannot be read: {error.strerror}') from error
        yield prefix, False
        return
    for entry in found:
        path = f'{prefix}/{entry.name}' if prefix else entry.name
        if is_hidden(entry.name):
            yield path, True
        elif not _is(os.DirEntry.is_dir, entry):
            yield path, _is(os.DirEntry.is_file, entry)
        else:
            real = os.path.realpath(entry.path)
            if real not in above:
                yield from _walk(directory, path, (*above, real))


def _is(kind: Callable[[os.DirEntry], bool], entry: os.DirEntry) -> bool:
    """Whether an entry is of a kind; a link that leads back to itself is of none."""
    try:
        return kind(entry)
    except OSError as error:
        if error.errno != errno.ELOOP:  # storage that is away: another run would find other images
            raise
        return False
