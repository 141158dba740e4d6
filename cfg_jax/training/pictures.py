"""Pictures of a model in training: the same images again and again, guided and not."""

from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import model_checks
from cfg_jax.data import images
from cfg_jax.distributed import devices
from cfg_jax.guidance.classifier_free import ClassifierFree
from cfg_jax.inference import Model
from cfg_jax.settings import make_rule

_W = (0.0, 1.0, 3.0)
_CLASSES = 10


class Pictures:
    """WORKDIR/samples/step_N.png: a row per class, a column per w, the same seeds always.

    Args:
      config: of the run; its rule is taken if it needs no other network, and guides this one.
      workdir: of the run.
    """

    def __init__(self, config: ConfigDict, workdir: epath.Path):
        rules = [make_rule(config), ClassifierFree()]
        if any(evaluation.network != 'main' for evaluation in rules[0].evaluations):
            del rules[0]
        # Alone 0, where nothing guides the network, and -1, where it knows no class.
        rule, w = next(
            (rule, w)
            for rule in rules
            for w in (np.asarray(_W), np.zeros(()), -np.ones(()))
            if model_checks.refusal(rule, config, w) is None
        )
        self._model, self._w = Model(config, rule=rule), np.atleast_1d(w).astype(np.float32)
        self._directory = workdir / 'samples'

    def draw(self, step: int, ema_params: Any) -> None:
        """Writes the picture of a step."""
        config = self._model.config
        labels = np.repeat(np.arange(min(_CLASSES, config.data.num_classes)), len(self._w))
        w = np.tile(self._w, len(labels) // len(self._w))
        params = {'main': jax.device_put(ema_params, devices.replicated())}
        condition = self._model.conditioning.from_user(labels.tolist())
        x = self._model.generate(config.seed, labels, condition, w, params).x
        picture = images.grid(np.asarray(images.to_uint8(x)), len(self._w))
        self._directory.mkdir(parents=True, exist_ok=True)
        images.save_png(self._directory / f'step_{step:08d}.png', picture, min_side=256)
