"""Samples for the page: the same noise at every w, of all classes and of one."""

import base64
import io
import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from cfg_jax import config as config_lib, loading
from cfg_jax.conditioning import Condition
from cfg_jax.data import class_names, images
from cfg_jax.errors import UserError
from cfg_jax.evaluation import drawing, results as results_lib
from cfg_jax.inference import Model
from cfg_jax.models import networks as networks_lib
from cfg_jax.report.runs import Run
from cfg_jax.training import export

COLUMNS = 8
_LOSSLESS_BYTES = 3_000_000  # of all sheets of a set; above, WebP of high quality is as good to see
_QUALITY = 90
_OF_LABELS = ('label', 'label_only')
_AVERAGE = re.compile(r'ema of sigma_rel (?P<length>\S+)')
# What provenance calls the networks beside the main one, and what people call them.
_OTHERS = {'guidance_network': 'the network of its guidance', 'decoder': 'its decoder'}


class PictureSet(NamedTuple):
    """Samples of one choice of conditions.

    Attributes:
      title: says which.
      classes: the name of each image's class.
      labels: the class ids, [N]; empty where conditions are no labels.
      sheets: at each w, uint8 [N, H, W, C].
    """

    title: str
    classes: list[str]
    labels: list[int]
    sheets: np.ndarray


class Pictures(NamedTuple):
    """All sets of a run, and the seconds that drawing them took, compilation included."""

    sets: list[PictureSet]
    seconds: float


def draw(run: Run, count: int, label: int | None) -> Pictures:
    """Images 0 to `count` - 1 of a sweep at each of its w; then the same noise, all of one class.

    Args:
      run: its model must be there, with the weights that were swept.
      count: images of a set.
      label: the one class; None takes the first class of labels, and no such set elsewhere.

    Raises:
      UserError: no model, or other weights than those swept.
    """
    model = _load(run)
    config, start = model.config, time.monotonic()
    indices = np.arange(count)
    conditions = [model.draw_conditions(config.sweep.seed, indices, config.sweep.labels)]
    titles, names, labels = ['as swept'], [], [[]]
    if config.condition in _OF_LABELS:
        names = class_names.readable(model.class_names)
        one = model.conditioning.from_user([label or 0] * count)
        conditions.append(one)
        all_classes = 'classes in turn' if config.sweep.labels == 'balanced' else 'random classes'
        titles = [all_classes, f'only {names[one[0]]}']
        labels = [np.asarray(condition).tolist() for condition in conditions]
    drawn = _generate(model, [row['w'] for row in run.results['rows']], indices, conditions)
    sets = [
        PictureSet(title, [names[i] for i in ids], ids, sheets)
        for title, ids, sheets in zip(titles, labels, drawn, strict=True)
    ]
    return Pictures(sets, time.monotonic() - start)


def check(run: Run, count: int, label: int | None) -> None:
    """Raises UserError unless `count` images of a w find room on a sheet and `label` is a class."""
    config = config_lib.from_json(run.results['config'])
    if label is not None:
        if config.condition not in _OF_LABELS:
            raise UserError(f'{run.directory}: its conditions are no labels; leave --label out')
        networks_lib.make_conditioning(config).from_user([label])
    size = config.data.image_size
    most = COLUMNS * (images.LONGEST_WEBP // size)
    if count > most:
        raise UserError(
            f'--images is at most {most:,} for images of {size} pixels: a sheet is one WebP, of at'
            f' most {images.LONGEST_WEBP:,} pixels a side'
        )


def encode(sheets: np.ndarray) -> list[str]:
    """uint8 sheets [S, N, H, W, C] as data URIs of WebP, one a sheet, `COLUMNS` images a row.

    Lossless if all of them stay small so, else of a quality at which no loss is seen.
    """
    tiled = [_tile(sheet) for sheet in sheets]
    small = len(tiled) * len(_webp(tiled[0], lossless=True)) <= _LOSSLESS_BYTES
    options = {'lossless': True} if small else {'quality': _QUALITY}
    encoded = [_webp(sheet, **options) for sheet in tiled]
    return ['data:image/webp;base64,' + base64.b64encode(content).decode() for content in encoded]


def _load(run: Run) -> Model:
    if run.model is None:
        raise UserError(f'the model of {run.directory} is not beside it')
    results = run.results
    model = loading.load(
        run.model,
        step=None if export.is_export(run.model) else results['checkpoint_step'],
        config=config_lib.from_json(results['config']),
        ema=average_length(run),
    )
    check_model(run, model)
    return model


def average_length(run: Run) -> float | None:
    """sigma_rel of the average that was swept, where it is not the one that training made.

    None for an exported file, which holds one average.
    """
    if run.model is not None and export.is_export(run.model):
        return None
    average = _AVERAGE.fullmatch(run.results.get('weights', ''))
    return float(average['length']) if average else None


def check_model(run: Run, model: Model) -> None:
    """Compares a model with what was swept: the weights of every network, as far as recorded, and
    what its sampler and its rule compute.

    Raises:
      UserError: a network has been replaced, or trained further; or the library is a later one.
    """
    # The first edition has other names for the network of a rule.
    swept, found = results_lib.comparable(run.results), model.provenance()
    if found['weights_sha256'] != swept['weights_sha256']:
        raise UserError(f'{run.model} has other weights than those that were swept')
    revisions = swept['sampler'].get('revision', 0), swept.get('guidance_revision', 0)
    if revisions != (model.sampler.revision, model.rule.revision):
        raise UserError(f'{run.directory} was swept before its sampler or its rule was mended')
    for name, words in _OTHERS.items():
        ours, theirs = (record.get(name, {}).get('weights_sha256') for record in (found, swept))
        if None not in (ours, theirs) and ours != theirs:
            raise UserError(
                f'{run.model}: {words} has other weights than those that it was swept with'
            )


def _generate(
    model: Model, weights: Sequence[float], indices: np.ndarray, conditions: Sequence[Condition]
) -> list[np.ndarray]:
    """uint8 [len(weights), N, H, W, C] of each condition."""
    columns, count = len(weights), len(indices)
    tiled = [jax.tree.map(lambda leaf: np.concatenate([leaf] * columns), c) for c in conditions]
    condition = jax.tree.map(lambda *leaves: np.concatenate(leaves), *tiled)
    numbers = np.tile(indices, columns * len(conditions))
    w = np.tile(np.repeat(np.asarray(weights, np.float32), count), len(conditions))
    x = drawing.draw(model, numbers, condition, w)
    return list(x.reshape(len(conditions), columns, count, *x.shape[1:]))


def _tile(sheet: np.ndarray) -> np.ndarray:
    """[N, H, W, C] -> [rows H, COLUMNS W, C]; missing places are black."""
    count, height, width, channels = sheet.shape
    rows = -(-count // COLUMNS)
    filled = np.zeros((rows * COLUMNS, height, width, channels), np.uint8)
    filled[:count] = sheet
    tiles = filled.reshape(rows, COLUMNS, height, width, channels)
    return tiles.swapaxes(1, 2).reshape(rows * height, COLUMNS * width, channels)


def _webp(picture: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    grey = picture.shape[-1] == 1
    Image.fromarray(picture[..., 0] if grey else picture).convert('RGB').save(
        buffer, 'WEBP', method=4, **options
    )
    return buffer.getvalue()
