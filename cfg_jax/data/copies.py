"""Data sets written once as ArrayRecord: a folder's files as they are, or any set's images resized.

Resized copies are lossless, so that training decodes almost nothing.
"""

import contextlib
import errno
import io
import json
import os
import re
from collections.abc import Iterable

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from cfg_jax.data import Examples, Source, sources, tfds_sets
from cfg_jax.data.copy_builders import Copy, Folder, Resized
from cfg_jax.data.preprocess import UndecodableImage
from cfg_jax.errors import UserError


def resize(
    name: str, data_dir: str, size: int, out: str, num_workers: int = 0, validation: float = 0.0
) -> str:
    """Writes a resized copy of a data set; returns a sentence that says where it lies.

    Args:
      name, data_dir: as in a config's `data`.
      size: side of the images.
      out: a TFDS directory for the copy.
      num_workers: processes that decode.
      validation: the share of a set with one split that becomes the split 'validation'.

    Raises:
      UserError: the set is not there, has no labelled images, or `out` holds another copy.
    """
    if size < 1:
        raise UserError(f'--resize is a side in pixels, at least 1; got {size}')
    source = sources.open_source(name, data_dir)
    data = _group(name, data_dir, source, size, num_workers)
    splits = _splits(data, source, validation)
    _check_names(name, splits, source.class_names)
    builder = Resized(f'{source.name}_{size}', source.name, data, splits, out)
    return _write(builder, f'{name} at {size} pixels')


def copy_folder(path: str, out: str, num_workers: int = 0, validation: float = 0.0) -> str:
    """Writes a folder's image files as ArrayRecord; returns a sentence that says where they lie.

    Args:
      path: see `folder`.
      out, num_workers, validation, errors: as of `resize`.
    """
    name = f'folder:{path}'
    source = sources.open_source(name)
    data = _group(name, '', source, 1, num_workers)
    splits = _splits(data, source, validation)
    _check_names(path, splits, source.class_names)
    return _write(Folder(source.name, source.name, data, splits, out), path)


def _group(name: str, data_dir: str, source: Source, size: int, num_workers: int) -> ConfigDict:
    return ConfigDict(
        {
            'name': name,
            'data_dir': data_dir,
            'image_size': size,
            'channels': source.channels,
            'num_classes': len(source.class_names),
            'num_workers': num_workers,
            'max_bad_examples': 0,
        }
    )


def _splits(data: ConfigDict, source: Source, validation: float) -> dict[str, str]:
    """The copy's splits; one without labels, as ImageNet's test split, cannot be trained on."""
    if not 0.0 <= validation < 1.0:
        raise UserError(f'--validation is a share of at least 0 and below 1; got {validation:g}')
    if not source.splits:
        source.examples('train')  # says how to prepare a set that is not there yet
    if len(source.splits) > 1 or not validation:
        labelled = [split for split in source.splits if _is_labelled(source.examples(split))]
        if not labelled:
            raise UserError(f'{data.name} has no split with labels, which training needs')
        return {split: split for split in labelled}
    (split,) = source.splits
    total = len(sources.data_source(data, split))
    count = max(1, round(validation * total))
    if count >= total:
        raise UserError(f'--validation={validation:g} leaves none of {total} images to train on')
    return {split: f'{split}[{count}:]', 'validation': f'{split}[:{count}]'}


def _check_names(what: str, splits: Iterable[str], classes: Iterable[str]) -> None:
    """Raises UserError at a name that could not be read again from what TFDS writes."""
    for split in splits:
        if split.lower() == 'all' or not re.fullmatch(r'[\w-]+', split, re.ASCII):
            raise UserError(
                f'the split {split!r} of {what} needs another name for a copy: letters, digits, _'
                " and -, and not 'all'"
            )
    for name in classes:
        if name != name.strip() or not name.isprintable():
            raise UserError(
                f'the class {name!r} of {what} needs another name for a copy: one of letters that'
                ' can be printed, without a space at either end'
            )


def _is_labelled(examples: Examples) -> bool:
    try:
        return len(examples) > 0 and examples[0]['label'] >= 0
    except UndecodableImage:
        return True  # a file of a folder, in a directory of its class


def _write(builder: Copy, what: str) -> str:
    directory = epath.Path(builder.data_path)
    if builder.is_prepared():
        _check_kept(builder, directory, what)
        return f'{what} is already in {directory}; {_advice(directory)}'
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS speaks of a download
            tfds_sets.prepare(builder)
    except RuntimeError as error:
        if 'No space left' not in str(error):  # in the words of ArrayRecord
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory)) from error
    builder.parts().remove()
    for left in directory.parent.glob(f'incomplete.*_{directory.name}'):  # as TFDS calls it
        logging.warning(
            f'{left} was left by a run that was killed, if none is under way; remove it then'
        )
    left_out = f', {builder.left_out} bad examples left out' if builder.left_out else ''
    # Another process may have written it at once.
    splits = tfds_sets.find_builder(os.fspath(directory), '').info.splits
    counts = ', '.join(f'{n} {s.num_examples:,}' for n, s in splits.items())
    return f'{what} is in {directory} ({counts}{left_out}); {_advice(directory)}'


def _check_kept(builder: Copy, directory: epath.Path, what: str) -> None:
    """Raises UserError where the copy that is there is of something else, or of other files."""
    found = json.loads((directory / 'dataset_info.json').read_text()).get('description', '')
    again = 'remove it or give another --out'
    made = found.partition(' State ')[0]
    if 'Made from' in found and builder.made_from() not in found:
        raise UserError(
            f'{directory} holds another copy ({made[made.index("Made from") :]}); {again}'
        )
    if re.search(r' State [0-9a-f]{16}\.$', found) and builder.state() not in found:
        raise UserError(
            f'{directory} holds a copy of {what} that was made before names, sizes or times of its'
            f' files changed; {again}'
        )


def _advice(directory: epath.Path) -> str:
    classes = len(sources.label_names(os.fspath(directory)))
    return f'train on it with --config.data.name={directory} --config.data.num_classes={classes}'
