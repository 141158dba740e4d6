"""Rows of guidance_zoo.py, with the influence of every image on FID and IS."""

import math
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import loading
from cfg_jax.errors import UserError
from cfg_jax.evaluation import dataset_reference, results as results_lib, sweep
from cfg_jax.evaluation.cache import SampleCache
from cfg_jax.metrics.features import FeatureExtractor, extraction
from cfg_jax.metrics.inception_score import log_softmax
from cfg_jax.metrics.influence import Influence
from guidance_zoo_parts.networks import Paths
from guidance_zoo_parts.settings import Setting

_IDENTITY = ('checkpoint_step', 'weights', 'weights_sha256')  # of a network


class Point(NamedTuple):
    """A setting at one strength.

    Attributes:
      setting, w: what was sampled.
      row: metrics, with 'nfe'.
      influences: of each image on 'fid' and 'is', for paired differences; none where images are not
        finite, whose metrics are NaN.
    """

    setting: Setting
    w: float
    row: dict[str, Any]
    influences: dict[str, Influence]

    @property
    def valid(self) -> bool:
        """Whether there are numbers to compare."""
        return bool(self.influences) and math.isfinite(self.fid)

    @property
    def fid(self) -> float:
        """FID, or what the extractor has in its place."""
        return self.row[self.distance]

    @property
    def distance(self) -> str:
        """The key of `fid` in the row."""
        return next(key for key in self.row if key.startswith(('fid', 'fd')))


class Bench:
    """Samples, measures and keeps settings in ROOT/sweep; continues from what is there.

    Args:
      config: of the main model.
      root: of the experiment.
      paths: of the networks.
      extractor: of features.

    Raises:
      UserError: an extractor without logits, or a sweep without FID, IS and their errors.
    """

    def __init__(
        self, config: ConfigDict, root: epath.Path, paths: Paths, extractor: FeatureExtractor
    ):
        image = config.data.image_size, config.data.image_size, config.data.channels
        if extraction.shapes(extractor, image, 1).logits is None:
            raise UserError(
                f'{extractor.name} gives no logits, and rules are compared at equal IS: take a'
                ' model with sweep.features=inception, and its whole weights as --inception'
            )
        if not config.sweep.bootstrap or not {'fid', 'is'} <= set(config.sweep.metrics):
            raise UserError(
                'rules are compared by FID and IS with their errors: leave sweep.bootstrap above 0,'
                ' and fid and is in sweep.metrics'
            )
        self._config, self._root, self._paths = config, root, paths
        self._extractor = extractor
        self._reference = dataset_reference.reference(config, root, extractor)
        self._networks: dict[str, Any] = {}
        self.left_out: list[str] = []

    @property
    def record(self) -> dict[str, Any]:
        """What all points share, for provenance: the networks so far, features and reference."""
        return {
            'networks': self._networks,
            'features': self._extractor.provenance(),
            'reference': self._reference.record,
            'num_samples': self._config.sweep.num_samples,
            'seed': self._config.sweep.seed,
        }

    def measure(self, setting: Setting) -> list[Point]:
        """The points of a setting; none where a network is missing, which is noted."""
        network = getattr(self._paths, setting.network) if setting.network else ''
        if network is None:
            self.left_out.append(f'{setting.rule}: no {setting.network} was given')
            return []
        config = setting.config(self._config)
        logging.info('\n%s', setting.slug())
        model = loading.load(self._paths.main, config=config, guidance_network=network)
        settings = sweep.settings_of(model, self._extractor)
        self._networks['main'] = {key: settings[key] for key in _IDENTITY}
        if setting.network:
            self._networks[setting.network] = settings['guidance_network']
        directory = self._root / 'sweep' / setting.slug()
        results_lib.claim(directory, settings, 'choose another --root')
        cache = SampleCache(model, directory / 'shards', self._extractor)
        cache.compute()
        return [self._point(setting, config, cache, w) for w in setting.strengths]

    def _point(self, setting: Setting, config: ConfigDict, cache: SampleCache, w: float) -> Point:
        samples = cache.collect(w, config.sweep.seed)
        row, influences = sweep.evaluate(samples, self._extractor, self._reference, config)
        kept = {}
        if 'images_not_finite' not in row:
            [fid] = influences.values()
            score = score_influence(samples.features.logits, samples.condition)
            kept = {'fid': fid, 'is': score}
        return Point(setting, w, row | {'nfe': samples.nfe}, kept)


def score_influence(logits: np.ndarray, strata: np.ndarray) -> Influence:
    """The influence of each image on exp(mean KL(p(y|x) || p(y))), the Inception Score.

    The derivative of the mean in the share of image i is KL_i less their mean: what p(y) changes
    adds -sum_y p_i(y), a constant.
    """
    log_p = log_softmax(logits)
    p = np.exp(log_p)
    marginal = np.clip(p.mean(axis=0), np.finfo(np.float64).tiny, None)
    divergence = (p * (log_p - np.log(marginal))).sum(axis=1)
    score = np.exp(divergence.mean())
    return Influence(score * (divergence - divergence.mean()), np.zeros(0), np.asarray(strata))
