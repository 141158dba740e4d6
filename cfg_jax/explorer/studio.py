"""The model behind the page: pictures of a wish, step by step."""

import base64
import collections
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cfg_jax.data import images, sources
from cfg_jax.errors import UserError
from cfg_jax.explorer.wishes import LARGEST_W, MOST_PICTURES, MOST_STEPS, Wish
from cfg_jax.guidance import RULES
from cfg_jax.inference import Model
from cfg_jax.samplers import SAMPLERS
from cfg_jax.watching import Watcher

_SMALLEST_SIDE = 64  # of a picture that is sent; the page enlarges it further
_SECONDS_BETWEEN_FRAMES = 0.04
_SETTINGS_KEPT = 8  # compiled programs


class Studio:
    """Draws wishes, one after the other.

    Args:
      model: what draws.
      name: how the page calls it.
    """

    def __init__(self, model: Model, name: str):
        self._model, self._name = model, name
        self._watchers: collections.OrderedDict[tuple[Any, ...], Watcher] = (
            collections.OrderedDict()
        )
        self._compiled: set[tuple[Any, ...]] = set()

    @property
    def num_classes(self) -> int:
        """Of the model."""
        return self._model.config.data.num_classes

    def description(self) -> dict[str, Any]:
        """What the page offers: names, defaults and limits, for JSON."""
        config = self._model.config
        return {
            'name': self._name,
            'classes': _class_names(config.data),
            'size': config.data.image_size,
            'rules': sorted(RULES),
            'samplers': sorted(SAMPLERS),
            'guidance': _spec(config.guidance.rule, config.guidance.options),
            'sampler': _spec(config.sampler.name, config.sampler.options),
            'num_steps': config.sampler.num_steps,
            'w': [float(w) for w in config.sweep.w],
            'most': {'count': MOST_PICTURES, 'num_steps': MOST_STEPS, 'w': LARGEST_W},
        }

    def prepare(self, wish: Wish) -> Watcher:
        """What draws a wish.

        Raises:
          UserError: a rule or a sampler that this model has not.
        """
        model = self._model.with_settings(
            wish.guidance or None, wish.sampler or None, wish.num_steps
        )
        key = model.rule, model.sampler
        if key not in self._watchers:
            self._watchers[key] = Watcher(model)
        self._watchers.move_to_end(key)
        while len(self._watchers) > _SETTINGS_KEPT:
            old, _ = self._watchers.popitem(last=False)
            self._compiled = {entry for entry in self._compiled if entry[0] != old}
        return self._watchers[key]

    def draw(self, wish: Wish, cancelled: threading.Event) -> Iterator[dict[str, Any]]:
        """What happens, for JSON: {'compiling': True}, {'step', 'of', 'png'} ..., {'seconds'}.

        Ends without a last word once `cancelled` is set.
        """
        watcher = self.prepare(wish)
        key = (watcher.model.rule, watcher.model.sampler), wish.count, wish.w == 0
        if key not in self._compiled:
            yield {'compiling': True}
        start = shown = time.monotonic()
        numbers = range(wish.count)
        condition = watcher.model.conditioning.from_user([wish.label] * wish.count)
        frames = watcher.pictures(wish.seed, numbers, condition, wish.w)
        for step, picture in enumerate(frames, 1):
            self._compiled.add(key)
            if cancelled.is_set():
                return
            last = step == wish.num_steps
            if last or step == 1 or time.monotonic() - shown > _SECONDS_BETWEEN_FRAMES:
                shown = time.monotonic()
                yield {'step': step, 'of': wish.num_steps, 'png': _png(picture)}
        yield {'seconds': round(time.monotonic() - start, 2)}


def _png(pictures: np.ndarray) -> str:
    """uint8 [B, H, W, C] as one PNG, in base64."""
    tiled = images.grid(pictures, math.ceil(math.sqrt(len(pictures))))
    return base64.b64encode(images.png(tiled, _SMALLEST_SIDE)).decode()


def _spec(name: str, options: str) -> str:
    return f'{name}:{options}' if options else name


def _class_names(data: ConfigDict) -> list[str]:
    """The data set's names, or numbers where the data set is not here."""
    try:
        return [str(name) for name in sources.class_names(data)]
    except UserError:
        return [f'class {number}' for number in range(data.num_classes)]
