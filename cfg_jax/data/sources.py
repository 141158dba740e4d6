"""Finding a TFDS data set prepared as ArrayRecord, with a clear error where there is none."""

import contextlib
import importlib.util
import io
import os
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds
from etils import epath
from ml_collections import ConfigDict

from cfg_jax.data import digits as digits  # registers the data set `digits` with TFDS
from cfg_jax.errors import UserError
from cfg_jax.registry import suggestion

_IMAGENET_ARCHIVES = ('ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar')
_CONVERT = (
    'python -m tensorflow_datasets.scripts.convert_format --out_file_format=array_record'
    ' --dataset_version_dir={directory}'
)


def find_builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """The TFDS builder of `name`, a data set's name or the directory of a prepared one.

    Raises:
      UserError: no such data set or directory.
    """
    if _is_path(name):
        directory = epath.Path(name).expanduser()
        if not (directory / 'dataset_info.json').exists():
            raise UserError(
                f'{directory} holds no prepared TFDS data set (no dataset_info.json there); give'
                ' the directory that ends in config and version, such as imagenet2012/5.1.0'
            )
        return tfds.builder_from_directory(directory)
    root = os.path.expanduser(data_dir) or None
    try:
        builder = tfds.builder(name, data_dir=root)
    except (tfds.core.registered.DatasetNotFoundError, ImportError) as error:
        known = tfds.list_builders(with_community_datasets=False)
        raise UserError(f'no TFDS data set is called {name!r}{suggestion(name, known)}') from error
    except (ValueError, TypeError) as error:
        raise UserError(f'TFDS refuses {name!r}: {first_line(error)}') from error
    return builder


def data_source(data: ConfigDict, split: str) -> Sequence[dict[str, Any]]:
    """Random access to the still encoded examples of a split: {'image': bytes, 'label': int, ...}.

    `digits` is prepared on first use; any other set must have been prepared as ArrayRecord.

    Args:
      data: the config's `data` group.
      split: a TFDS split, slices such as 'train[:80%]' included.

    Raises:
      UserError: the set is unknown, not prepared, prepared as TFRecord, or not of the classes
        that the config says.
    """
    builder = find_builder(data.name, data.data_dir)
    if not builder.is_prepared() and builder.name == 'digits':
        tfds.disable_progress_bar()  # a second of work, which TFDS would tell in many lines
        with contextlib.redirect_stdout(io.StringIO()):
            prepare(builder)
    if not builder.is_prepared():
        raise UserError(
            f'the data set {data.name!r} is not prepared in {builder.data_path}; run: python'
            f' scripts/prepare_data.py --name={data.name} --data_dir={data.data_dir or "DIR"}'
        )
    # Read from the files: a builder made before, or by name, knows another format than they have.
    builder = tfds.builder_from_directory(builder.data_path)
    formats = {builder.info.file_format, *builder.info.alternative_file_formats}
    if tfds.core.FileFormat.ARRAY_RECORD not in formats:
        directory = os.fspath(builder.data_path)
        raise UserError(
            f'{directory} was prepared as {builder.info.file_format.value}, which offers no random'
            " access; add ArrayRecord beside it (needs pip install -e '.[prepare]') with:"
            f' {_CONVERT.format(directory=directory)}'
        )
    _check_features(builder, data)
    try:
        source: Any = builder.as_data_source(
            split=split, decoders={'image': tfds.decode.SkipDecoding()}
        )
        return source
    except (ValueError, KeyError) as error:
        splits = ', '.join(builder.info.splits)
        raise UserError(
            f'{data.name!r} has no split {split!r}; it has: {splits} (and slices of them)'
        ) from error


def prepare(builder: tfds.core.DatasetBuilder, manual_dir: str = '') -> None:
    """Downloads and prepares as ArrayRecord; another process doing the same at once is no error."""
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
    except (OSError, AssertionError, RuntimeError) as error:
        raise UserError(f'{name!r} could not be prepared: {first_line(error)}') from error
    return f'{name} is prepared in {builder.data_path}'


def _check_imagenet_archives(manual_dir: epath.PathLike) -> None:
    manual_dir = epath.Path(manual_dir).expanduser()
    missing = [archive for archive in _IMAGENET_ARCHIVES if not (manual_dir / archive).exists()]
    if missing:
        raise UserError(
            f'{" and ".join(missing)} not found in {manual_dir}; download them from image-net.org'
            ' (registration needed) and name their folder with --manual_dir'
        )


def class_names(data: ConfigDict) -> list[str]:
    """The data set's names of its classes, in the order of their ids."""
    return label_names(data.name, data.data_dir)


def label_names(name: str, data_dir: str = '') -> list[str]:
    """`class_names` of a data set that no config names yet; arguments as of `find_builder`."""
    return list(find_builder(name, data_dir).info.features['label'].names)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _is_path(name: str) -> bool:
    return name.startswith(('/', '.', '~')) or '://' in name or os.path.isdir(name)


def _check_features(builder: tfds.core.DatasetBuilder, data: ConfigDict) -> None:
    features = builder.info.features
    missing = [key for key in ('image', 'label') if key not in features]
    if missing:
        raise UserError(
            f'{data.name!r} has no feature {missing[0]!r} (it has: {", ".join(features)}); class'
            ' guidance needs images with labels'
        )
    if features['label'].num_classes != data.num_classes:
        raise UserError(
            f'data.num_classes={data.num_classes}, but {data.name!r} has'
            f' {features["label"].num_classes} classes'
        )
