"""Data sources: what one is, and which there are.

A source is opened by `open_set(location, data_dir)`: what follows 'KIND:' in `data.name`, and
`data.data_dir`. `sources` opens it, `pipeline` makes batches of it.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from cfg_jax.registry import Registry


class Examples(Protocol):
    """The encoded examples of a split by number; sent to worker processes, so it is picklable."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> dict[str, Any]:
        """{'image': encoded bytes, 'label': int, 'file': name, if known}.

        Raises:
          UndecodableImage: (`preprocess`) this one can never be read; it counts as bad.
          UserError: the data set cannot be read.
        """
        ...


class Source(Protocol):
    """A set of labelled images.

    Attributes:
      name: short, fit for a file name.
      class_names: in the order of the class ids.
      splits: the names that `examples` takes.
      channels: of the stored images, 1 or 3.
    """

    name: str
    class_names: Sequence[str]
    splits: Sequence[str]
    channels: int

    def examples(self, split: str) -> Examples:
        """Random access to the examples of a split.

        Any part of it from the front must be a fair sample of the whole: slices of splits, such as
        'train[:80%]', are taken in order.

        Raises:
          UserError: no such split, or damaged files.
        """
        ...


SOURCES = Registry(
    'data source',
    {
        'tfds': (
            'cfg_jax.data.tfds_sets:open_set',
            'a TFDS data set in ArrayRecord, by its name or its directory; the default',
        ),
        'folder': (
            'cfg_jax.data.folder:open_set',
            'folder:PATH, JPEG, PNG and WebP files in a sub-directory per class',
        ),
    },
)
