"""TFDS data sets prepared as ArrayRecord, with a clear error where there is none."""

import bisect
import contextlib
import importlib.util
import io
import itertools
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from cfg_jax import files
from cfg_jax.data import Examples, digits as digits  # registers the data set `digits` with TFDS
from cfg_jax.errors import UserError
from cfg_jax.registry import suggestion

_IMAGENET_ARCHIVES = ('ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar')
_CONVERT = (
    'python -m tensorflow_datasets.scripts.convert_format --out_file_format=array_record'
    ' --dataset_version_dir={directory}'
)
_FEATURES = ('pythonClassName', 'type')  # each features.json has one, by the version of TFDS
_AGAIN = 'copy or prepare the data set again'


class TfdsSet:
    """A `Source` of a TFDS builder; `digits` is prepared on first use.

    Raises:
      UserError: it has no images with labels.
    """

    def __init__(self, name: str, builder: tfds.core.DatasetBuilder):
        self.name = builder.name
        self._said = name  # what the user calls it
        self._builder = builder
        features = builder.info.features
        missing = [key for key in ('image', 'label') if key not in features]
        if missing:
            raise UserError(
                f'{name!r} has no feature {missing[0]!r} (it has: {", ".join(features)}); class'
                ' guidance needs images with labels'
            )
        if not isinstance(features['label'], tfds.features.ClassLabel):
            raise UserError(f"the feature 'label' of {name!r} is not a class label")
        self.class_names = features['label'].names
        self.channels = features['image'].shape[-1] or 3
        self.splits = list(builder.info.splits)

    def examples(self, split: str) -> Examples:
        """The examples of a split by number; the set must have been prepared as ArrayRecord."""
        builder = self._prepared()
        formats = {builder.info.file_format, *builder.info.alternative_file_formats}
        if tfds.core.FileFormat.ARRAY_RECORD not in formats:
            directory = os.fspath(builder.data_path)
            raise UserError(
                f'{directory} was prepared as {builder.info.file_format.value}, which offers no'
                " random access; add ArrayRecord next to it (needs pip install -e '.[prepare]')"
                f' with: {_CONVERT.format(directory=directory)}'
            )
        try:
            found = builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})
            files = builder.info.splits[split].file_instructions
        except (ValueError, KeyError) as error:
            splits = ', '.join(builder.info.splits)
            raise UserError(
                f'{self._said!r} has no split {split!r}; it has: {splits} (and slices of them)'
            ) from error
        _check_files(self._said, [epath.Path(file.filename) for file in files])
        return _Examples(found, self._said, files)

    def _prepared(self) -> tfds.core.DatasetBuilder:
        builder = self._builder
        if not builder.is_prepared() and builder.name == 'digits':
            tfds.disable_progress_bar()  # a second of work, on which TFDS would print many lines
            with contextlib.redirect_stdout(io.StringIO()):
                prepare(builder)
        if not builder.is_prepared():
            root = os.fspath(builder.data_dir_root)
            raise UserError(
                f'the data set {self._said!r} is not prepared in {builder.data_path}; run: python'
                f' scripts/prepare_data.py --name={self._said} --data_dir={root}'
            )
        # Read from the files: a builder made before, or by name, knows another format than they
        # have.
        return _from_directory(epath.Path(builder.data_path))


class _Examples:
    """A TFDS data source whose errors name the set and the file."""

    def __init__(self, examples: Examples, name: str, files: Sequence[Any]):
        self._examples, self._name = examples, name
        self._files = [file.filename for file in files]
        self._ends = list(itertools.accumulate(file.take for file in files))

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, number: int) -> dict[str, Any]:
        try:
            return self._examples[number]
        except Exception as error:  # the readers raise RuntimeError, ValueError, DecodeError ...
            file = self._files[bisect.bisect_right(self._ends, number)]
            raise UserError(
                f'example {number} of {self._name!r} cannot be read from {file}'
                f' ({first_line(error)[:200]}); {_AGAIN}'
            ) from error


def open_set(location: str, data_dir: str) -> TfdsSet:
    """The set of a TFDS name or of the directory of a prepared set.

    Raises:
      UserError: as `find_builder`, or it has no images with labels.
    """
    return TfdsSet(location, find_builder(location, data_dir))


def find_builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """The TFDS builder of `name`, a data set's name or the directory of a prepared one.

    Raises:
      UserError: no such data set or directory, or its description is damaged.
    """
    if _is_path(name):
        directory = files.as_path(name)
        if not (directory / 'dataset_info.json').exists():
            raise UserError(
                f'{directory} holds no prepared TFDS data set (no dataset_info.json there); give'
                ' the directory that ends in config and version, such as imagenet2012/5.1.0, or'
                f' folder:{name} for image files in a directory per class: as --data of sweep.py'
                ' and validate.py, else as --config.data.name'
            )
        return _from_directory(directory)
    root = os.fspath(files.as_path(data_dir)) if data_dir else None
    try:
        return tfds.builder(name, data_dir=root)
    except (tfds.core.registered.DatasetNotFoundError, ImportError) as error:
        known = tfds.list_builders(with_community_datasets=False)
        here = f'; there is no directory {name} either' if '/' in name else ''
        raise UserError(
            f'no TFDS data set is called {name!r}{suggestion(name, known)}{here}'
        ) from error
    except Exception as error:  # of protobuf, JSON or TFDS itself over what lies in `data_dir`
        prepared = epath.Path(root or tfds.core.constants.DATA_DIR) / re.split('[:/]', name)[0]
        for depth in ('*', '*/*'):  # of the version, or of config and version
            for info in sorted(prepared.glob(f'{depth}/dataset_info.json')):
                _check_description(info.parent)
        raise UserError(f'TFDS refuses {name!r}: {first_line(error)}') from error


def _from_directory(directory: epath.Path) -> tfds.core.DatasetBuilder:
    _check_description(directory)
    try:
        return tfds.builder_from_directory(directory)
    except Exception as error:  # of protobuf, JSON or TFDS itself
        raise UserError(
            f'the data set in {directory} cannot be opened, its dataset_info.json or features.json'
            f' is damaged ({first_line(error)}); {_AGAIN}'
        ) from error


def _check_description(directory: epath.Path) -> None:
    """Raises UserError unless the files that describe a prepared set hold what they should."""
    for path in (directory / 'dataset_info.json', directory / 'features.json'):
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise UserError(f'{path} is missing; {_AGAIN}') from error
        except ValueError as error:
            raise UserError(f'{path} is damaged ({first_line(error)}); {_AGAIN}') from error
        if not isinstance(content, dict) or not (content.keys() & {'name', *_FEATURES}):
            raise UserError(f'{path} is damaged (it holds something else); {_AGAIN}')


def _check_files(name: str, files: Sequence[epath.Path]) -> None:
    """Raises UserError where some of a set's files are missing or empty."""
    present = {path for folder in {file.parent for file in files} for path in folder.iterdir()}
    missing = [file for file in files if file not in present]
    if missing:
        count = f'{len(missing)} of {len(files)} files' if len(files) > 1 else 'the file'
        raise UserError(f'{name!r} lacks {count}, such as {missing[0]}; {_AGAIN}')
    for file in files:
        if '://' not in os.fspath(file) and not file.stat().length:
            raise UserError(f'{file} of {name!r} is empty; {_AGAIN}')


def prepare(builder: tfds.core.DatasetBuilder, manual_dir: str = '') -> None:
    """Downloads and prepares as ArrayRecord; another process may do the same at once."""
    config = tfds.download.DownloadConfig(manual_dir=manual_dir or None)
    try:
        builder.download_and_prepare(download_config=config, file_format='array_record')
    except OSError:
        if not builder.is_prepared():
            raise


def prepare_by_name(name: str, data_dir: str, manual_dir: str = '') -> str:
    """Prepares a TFDS data set as ArrayRecord; returns a sentence that says where it lies.

    Raises:
      UserError: something is missing, named: the data set, its archives, TensorFlow, a network.
    """
    builder = find_builder(name, data_dir)
    if builder.is_prepared():
        return f'{name} is already prepared in {builder.data_path}'
    if builder.name == 'imagenet2012':
        _check_imagenet_archives(manual_dir or builder.data_dir_root / 'downloads' / 'manual')
    if builder.name != 'digits' and importlib.util.find_spec('tensorflow') is None:
        raise UserError(f"preparing {name!r} needs TensorFlow; run: pip install -e '.[prepare]'")
    try:
        prepare(builder, manual_dir)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # of archives, downloads, disks and the set's own code: of any type
        raise UserError(f'{name!r} could not be prepared: {first_line(error)}') from error
    return f'{name} is prepared in {builder.data_path}'


def _check_imagenet_archives(manual_dir: epath.PathLike) -> None:
    manual_dir = files.as_path(manual_dir)
    missing = [archive for archive in _IMAGENET_ARCHIVES if not (manual_dir / archive).exists()]
    if missing:
        raise UserError(
            f'{" and ".join(missing)} not found in {manual_dir}; download them from image-net.org'
            ' (registration needed) and name their folder with --manual_dir'
        )


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _is_path(name: str) -> bool:
    """Whether this is a directory's path. Other directories may have the name of a set as well."""
    if name.startswith(('/', '.', '~')) or '://' in name:
        return True
    if not os.path.isdir(name):
        return False
    known = tfds.list_builders(with_community_datasets=False)
    return re.split('[:/]', name)[0] not in known or Path(name, 'dataset_info.json').exists()
