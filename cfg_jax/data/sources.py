"""Opening the data source that `data.name` selects."""

from absl import logging
from ml_collections import ConfigDict

from cfg_jax.data import SOURCES, Examples, Source
from cfg_jax.errors import UserError
from cfg_jax.registry import suggestion


def open_source(name: str, data_dir: str = '') -> Source:
    """The source of a config's `data.name`: 'KIND:LOCATION', or a TFDS set without the 'tfds:'.

    Raises:
      UserError: there is nothing of that name, or it is damaged.
    """
    kind, colon, location = name.partition(':')
    if colon and kind in SOURCES:
        return SOURCES.load(kind)(location, data_dir)
    if colon and suggestion(kind, SOURCES):
        SOURCES.load(kind)  # a misspelt kind, reported as such
    return SOURCES.load('tfds')(name, data_dir)


def data_source(data: ConfigDict, split: str) -> Examples:
    """Random access to the still encoded examples of a split: {'image': bytes, 'label': int, ...}.

    Args:
      data: the config's `data` group.
      split: a split's name, or a slice such as 'train[:80%]'.

    Raises:
      UserError: as `open_source`; or the set has no such split, nothing in it, or not as many
        classes as `data.num_classes`.
    """
    source = open_source(data.name, data.data_dir)
    count = len(source.class_names)
    if count != data.num_classes:
        raise UserError(
            f'data.num_classes={data.num_classes}, but {data.name!r} has {count} classes; set'
            f' --config.data.num_classes={count}'
        )
    examples = source.examples(split)
    if not len(examples):
        raise UserError(f'{data.name!r} has no examples in {split!r}')
    return examples


def class_names(data: ConfigDict) -> list[str]:
    """The data set's names of its classes, in the order of their ids."""
    return label_names(data.name, data.data_dir)


def names_or_numbers(data: ConfigDict) -> list[str]:
    """`class_names`, or numbers where the data set is not here, as is often so beside an export."""
    return names_if_known(data) or [str(number) for number in range(data.num_classes)]


def names_if_known(data: ConfigDict) -> list[str]:
    """`class_names`, or none where the data set is not here."""
    try:
        names = class_names(data)
    except UserError as error:
        logging.info('classes are numbers here, their names are not known: %s', error)
        return []
    return names if len(names) == data.num_classes else []


def label_names(name: str, data_dir: str = '') -> list[str]:
    """`class_names` of a data set that no config names yet; arguments as of `open_source`."""
    return list(open_source(name, data_dir).class_names)
