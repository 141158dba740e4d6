"""The model behind the page: pictures of a wish, step by step."""

import base64
import collections
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from cfg_jax.data import class_names, images
from cfg_jax.explorer.wishes import LARGEST_W, MOST_STEPS, Wish
from cfg_jax.guidance import RULES
from cfg_jax.inference import Model
from cfg_jax.registry import option_defaults
from cfg_jax.samplers import SAMPLERS
from cfg_jax.watching import Watcher

_SMALLEST_SIDE = 64  # of each picture, so that the line between two of them is thin
_SECONDS_BETWEEN_FRAMES = 0.04
_SETTINGS_KEPT = 8  # with their compiled programs


class Studio:
    """Draws wishes. Not thread-safe.

    Args:
      model: what draws.
      name: how the page calls it.

    Attributes:
      num_classes: of the model.
      description: what the page offers: names, defaults and limits, for JSON.
    """

    def __init__(self, model: Model, name: str):
        self._model = model
        self._watchers: collections.OrderedDict[Any, Watcher] = collections.OrderedDict()
        self._compiled: set[tuple[Watcher, int, bool]] = set()
        config = model.config
        self.num_classes: int = config.data.num_classes
        self.description: dict[str, Any] = {
            'name': name,
            'classes': class_names.readable(model.class_names),
            'size': config.data.image_size,
            'rules': [_rule(each) for each in RULES if self._has_networks_of(each)],
            'samplers': [{'name': each, 'about': SAMPLERS[each].summary} for each in SAMPLERS],
            'guidance': _spec(config.guidance.rule, config.guidance.options),
            'sampler': _spec(config.sampler.name, config.sampler.options),
            'num_steps': min(model.sampler.num_steps, MOST_STEPS),
            'w': [float(w) for w in config.sweep.w],
            'most': {'num_steps': MOST_STEPS, 'w': LARGEST_W},
        }

    def _has_networks_of(self, rule: str) -> bool:
        needed = {evaluation.network for evaluation in RULES.make(rule).evaluations}
        return needed <= self._model.networks.keys()

    def prepare(self, wish: Wish) -> Watcher:
        """What draws a wish, and others with the same rule, sampler and number of steps.

        Raises:
          UserError: a rule or a sampler that does not exist, or that this model cannot follow.
        """
        model = self._model.with_settings(
            wish.guidance or None, wish.sampler or None, wish.num_steps
        )
        key = model.rule, model.sampler
        if key not in self._watchers:
            self._watchers[key] = Watcher(model)
        self._watchers.move_to_end(key)
        if len(self._watchers) > _SETTINGS_KEPT:
            _, oldest = self._watchers.popitem(last=False)
            self._compiled = {entry for entry in self._compiled if entry[0] is not oldest}
        return self._watchers[key]

    def draw(self, watcher: Watcher, wish: Wish) -> Iterator[dict[str, Any]]:
        """What happens, for JSON.

        {'compiling': True} if so, {'step', 'of', 'png'} again and again, {'seconds', 'compiled'}.

        Args:
          watcher: what `prepare` returned of this wish.
          wish: the pictures.

        Raises:
          UserError: the rule does not fit this model.
        """
        program = watcher, wish.count, wish.w == 0 and watcher.model.rule.unguided_at_zero
        compiles = program not in self._compiled
        if compiles:
            yield {'compiling': True}
        start = shown = time.monotonic()
        condition = watcher.model.conditioning.from_user(wish.label_of_each)
        frames = watcher.pictures(wish.seed, range(wish.count), condition, wish.w)
        for step, picture in enumerate(frames, 1):
            if watcher in self._watchers.values():
                self._compiled.add(program)
            last = step == wish.num_steps
            if last or step == 1 or time.monotonic() - shown > _SECONDS_BETWEEN_FRAMES:
                shown = time.monotonic()
                yield {'step': step, 'of': wish.num_steps, 'png': _png(picture())}
        yield {'seconds': round(time.monotonic() - start, 2), 'compiled': compiles}


def _png(pictures: np.ndarray) -> str:
    """uint8 [B, H, W, C] as one PNG, in base64."""
    factor = max(1, -(-_SMALLEST_SIDE // pictures.shape[1]))
    enlarged = pictures.repeat(factor, axis=1).repeat(factor, axis=2)
    tiled = images.grid(enlarged, math.ceil(math.sqrt(len(pictures))))
    return base64.b64encode(images.png(tiled)).decode()


def _spec(name: str, options: str) -> str:
    return f'{name}:{options}' if options else name


def _rule(name: str) -> dict[str, str]:
    """What the page says of a guidance rule."""
    defaults = option_defaults(RULES.load(name))
    options = ', '.join(f'{option}={value}' for option, value in defaults.items())
    return {'name': name, 'about': RULES[name].summary, 'options': options}
