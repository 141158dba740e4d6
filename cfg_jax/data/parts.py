"""The examples of a copy that are made already, in files of a few thousand: what a kill leaves.

The builder of TFDS writes a set whole or not at all, and ImageNet takes hours. Each of these files
becomes a shard of the copy.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from etils import epath

from cfg_jax import files
from cfg_jax.data.reading import BadExample, Example

EXAMPLES = 4096  # in a file: half a minute of one core
_BYTES = 2**28  # of its images, if they are large: files may have megabytes each


class Parts:
    """A directory of parts; made for `what`, and emptied where it was made for something else."""

    def __init__(self, folder: epath.Path, what: str):
        self._folder = folder
        mark = folder / 'made_from.json'
        if files.read_or_set_aside(mark, files.read_json) != {'what': what}:
            self.remove()
            files.write_json(mark, {'what': what})

    def saved(self, split: str) -> Iterator[list[Example | BadExample]]:
        """The parts of a split from its beginning, up to the first that is missing or damaged."""
        for number in range(10**6):
            found = files.read_or_set_aside(self._path(split, number), _read)
            if found is None:
                return
            yield found

    def part(self, split: str, number: int) -> list[Example | BadExample]:
        """Part `number` of a split, which is there."""
        return _read(self._path(split, number))

    def save(self, split: str, number: int, examples: list[Example | BadExample]) -> None:
        """Writes part `number` of a split."""
        files.write_npz(self._path(split, number), _arrays(examples))

    def remove(self) -> None:
        """Removes them all."""
        if self._folder.exists():
            self._folder.rmtree()

    def _path(self, split: str, number: int) -> epath.Path:
        return self._folder / f'{split}-{number:06d}.npz'


def is_full(examples: list[Example | BadExample]) -> bool:
    """Whether these examples make a part."""
    size = sum(len(e['image']) for e in examples if not isinstance(e, BadExample))
    return len(examples) >= EXAMPLES or size >= _BYTES


def _arrays(examples: Iterable[Example | BadExample]) -> dict[str, np.ndarray]:
    """Images one after the other, their lengths, labels and texts; of a bad one number and reason.

    A bad example has the label -1, its number in the place of the length, and no image.
    """
    images, lengths, labels, names, reasons = [], [], [], [], []
    for example in examples:
        bad = isinstance(example, BadExample)
        images.append(b'' if bad else example['image'])
        lengths.append(example.number if bad else len(example['image']))
        labels.append(-1 if bad else example['label'])
        names.append(example.file if bad else example['file'])
        reasons.append(example.reason if bad else '')
    return {
        'images': np.frombuffer(b''.join(images), np.uint8),
        'lengths': np.asarray(lengths, np.int64),
        'labels': np.asarray(labels, np.int64),
        'files': np.asarray(names, str),
        'reasons': np.asarray(reasons, str),
    }


def _read(path: epath.Path) -> list[Example | BadExample]:
    keys = ('images', 'lengths', 'labels', 'files', 'reasons')
    arrays = files.read_npz(path, keys=keys)
    images, begin, examples = arrays['images'].tobytes(), 0, []
    for length, label, file, reason in zip(
        *(arrays[key].tolist() for key in keys[1:]), strict=True
    ):
        if label < 0:
            examples.append(BadExample(length, file, reason))
        else:
            image = images[begin : begin + length]
            examples.append({'image': image, 'label': label, 'file': file})
            begin += length
    return examples
