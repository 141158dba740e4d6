"""What people call classes: WordNet's words for ImageNet's ids, and class ids by name."""

import collections
import functools
import importlib.resources
import re
from collections.abc import Iterable, Mapping, Sequence

from cfg_jax.errors import UserError
from cfg_jax.registry import suggestion


def readable(names: Iterable[str]) -> list[str]:
    """The names of classes as people know them: 'n01443537' is 'goldfish', others stay.

    A word that several of the classes share keeps the id beside it: 'crane (n02012849)'.
    """
    names = list(names)
    words = [_words().get(name, (name,))[0] for name in names]
    counts = collections.Counter(map(_plain, words))
    return [
        f'{word} ({name})' if counts[_plain(word)] > 1 and word != name else word
        for word, name in zip(words, names, strict=True)
    ]


def number_of(wanted: str, names: Sequence[str]) -> int:
    """The id of the class of that name: the data set's, or any of WordNet's words for it.

    Capitals do not count, and '_' and '-' between letters are spaces.

    Args:
      wanted: what a user typed.
      names: the data set's, in the order of the class ids.

    Raises:
      UserError: no class has this name, or several have.
    """
    if wanted in names:
        return list(names).index(wanted)
    known = _numbers(tuple(names))
    found = known.get(_plain(wanted), [])
    if not found and list(names) == [str(number) for number in range(len(names))]:
        raise UserError(
            f'{wanted!r} is no class: here they are numbers, 0..{len(names) - 1}. Names come with'
            ' the data set, or with a file that was exported where the data set was'
        )
    if not found:
        shown = readable(names)
        raise UserError(
            f'none of the classes 0..{len(names) - 1} ({shown[0]!r} to {shown[-1]!r}) is called'
            f' {wanted!r}{suggestion(_plain(wanted), known)}'
        )
    if len(found) > 1:
        which = ' or '.join(f'{number} ({names[number]})' for number in found)
        raise UserError(f'several classes are called {wanted!r}; give {which}')
    return found[0]


def other_readings(numbers: Iterable[int], names: Sequence[str]) -> list[str]:
    """A sentence for each class id that is the name of another class, as of folders '1', '2', '10'.

    Args:
      numbers: class ids that a user typed.
      names: the data set's, in the order of the class ids.
    """
    named = {name: number for number, name in enumerate(names)}
    return [
        f'{number} is taken for the number of a class, which is called {names[number]!r}; the class'
        f' called {str(number)!r} has the number {named[str(number)]}'
        for number in dict.fromkeys(numbers)
        if 0 <= number < len(names) and named.get(str(number), number) != number
    ]


@functools.lru_cache(maxsize=8)
def _numbers(names: tuple[str, ...]) -> Mapping[str, list[int]]:
    """Every plain name of a class -> the ids of the classes that have it."""
    known: dict[str, list[int]] = {}
    for number, (name, shown) in enumerate(zip(names, readable(names), strict=True)):
        for each in {_plain(each) for each in (name, shown, *_words().get(name, ()))}:
            known.setdefault(each, []).append(number)
    return known


@functools.cache
def _words() -> Mapping[str, tuple[str, ...]]:
    """WordNet id -> its words, the usual one first, of the 1,000 classes of ImageNet."""
    text = importlib.resources.files('cfg_jax.data').joinpath('wordnet.txt').read_text('utf-8')
    pairs = (line.split(' ', 1) for line in text.splitlines())
    return {identifier: tuple(words.split(', ')) for identifier, words in pairs}


def _plain(name: str) -> str:
    # Within a word alone: '-2' is not '2'.
    return ' '.join(re.sub(r'(?<=\w)[-_](?=\w)', ' ', name.casefold()).split())
