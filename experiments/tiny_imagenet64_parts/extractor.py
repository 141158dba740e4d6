"""The instruments of the real-images experiment as one feature extractor.

FD-768, sFID, precision and recall come from the FID Inception up to its 768-d tap, "IS (GoogLeNet)"
and class agreement from GoogLeNet, and again from a classifier of the data set's own classes where
there is one, the judge. None is FID or the published IS: they compare with themselves.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import loading
from cfg_jax.errors import UserError
from cfg_jax.metrics.features import Features, inception as inception_lib
from cfg_jax.models import networks, role
from tiny_imagenet64_parts import exported, googlenet

# key of a row -> what it is called
NAMES = {
    'is': 'IS (GoogLeNet)',
    'class_agreement': 'class agreement (GoogLeNet)',
    'is_judge': 'IS (judge)',
    'class_agreement_judge': 'class agreement (judge)',
}


class RealExtractor:
    """768 pooled Inception features, the sFID map, and GoogLeNet's 1,000 logits.

    The logits of the data set's classes come first, in the order of its labels; the other classes
    follow. The order does not change the softmax, so the Inception Score is over all 1,000.
    References need no logits: `inception` alone makes them.

    Args:
      inception: the 768-d extractor.
      params: of GoogLeNet.
      wnids: WordNet id of each of GoogLeNet's outputs.
      classes: WordNet ids of the data set's labels.
      record: what identifies GoogLeNet's weights.
      judge: a classifier of the data set's classes, whose logits follow GoogLeNet's.

    Raises:
      UserError: a class that GoogLeNet does not know.
    """

    name = 'inception768+googlenet'
    distance = 'FD-768'
    logits_are_labels = True
    chunk = 64

    def __init__(
        self,
        inception: inception_lib.InceptionExtractor,
        params: googlenet.Params,
        wnids: Sequence[str],
        classes: Sequence[str],
        record: dict[str, Any],
        judge: 'Judge | None' = None,
    ):
        self.inception, self._record, self._judge = inception, record, judge
        self._order = jnp.asarray(output_order(wnids, classes))
        self.params = (inception.params, params, judge.params if judge else None)

    def apply(self, params: Any, images: jax.Array) -> Features:
        """See `features.FeatureExtractor`; raises UserError unless the images are uint8 RGB."""
        inception, net, judge = params
        found = self.inception.apply(inception, images)
        logits = googlenet.logits(net, images)[:, self._order]
        if self._judge is not None:
            logits = jnp.concatenate([logits, self._judge.logits(judge, images)], axis=-1)
        return found._replace(logits=logits)

    def provenance(self) -> dict[str, Any]:
        """See `features.FeatureExtractor`."""
        inception = self.inception.provenance()
        each = {'inception': inception['sha256'], 'googlenet': self._record['sha256']}
        if self._judge is not None:
            each['judge'] = self._judge.sha256
        return inception | {
            'name': self.name,
            'sha256': hashlib.sha256(''.join(each.values()).encode()).hexdigest(),
            **{f'{name}_sha256': digest for name, digest in each.items()},
            'logits': 'BVLC GoogLeNet, 1,000 classes, images resized bilinearly to 224; the judge',
        }


class Judge:
    """A noisy classifier of the data set's classes, looking at images without noise.

    Args:
      path: a work directory or an exported file.
      samples: the config of what it judges.

    Raises:
      UserError: not a classifier, or of other images or classes.
    """

    def __init__(self, path: epath.PathLike, samples: ConfigDict):
        self.params, config, provenance = loading.load_params(path)
        if role(config.model.kind) != 'classifier':
            raise UserError(f'--judge={path} is not a classifier')
        exported.check(path, config, samples, exported.OF_IMAGES)
        if 'train' not in config:
            raise UserError(
                f'--judge={path} was not trained here; give one of configs/NAME.py:judge'
            )
        step, steps = provenance['checkpoint_step'], config.train.steps
        if step < steps:
            raise UserError(
                f'--judge={path} is at step {step:,} of {steps:,}: train it to its end first, for'
                ' other weights make other scores'
            )
        self.sha256 = provenance['weights_sha256']
        self._classifier = networks.make_noisy_classifier(config)
        self._logsnr = config.diffusion.logsnr_max

    def logits(self, params: Any, images: jax.Array) -> jax.Array:
        """uint8 images [B, H, W, C] -> float32 [B, num_classes]."""
        x = images.astype(jnp.float32) / 127.5 - 1.0
        found = self._classifier(params, x, jnp.full(len(x), self._logsnr, jnp.float32))
        return found.astype(jnp.float32)


def load(
    inception: epath.PathLike,
    net: epath.PathLike,
    classes: Sequence[str],
    dtype: str = 'float32',
    judge: 'Judge | None' = None,
) -> RealExtractor:
    """The extractor with the weights in two files, for a data set with these WordNet ids.

    Args:
      inception, net: the files.
      classes: WordNet ids of the data set's labels.
      dtype: of the Inception.
      judge: the third instrument, if there is one.

    Raises:
      UserError: a file that is missing, damaged or of another network, or an unknown class.
    """
    params, wnids, record = googlenet.load(net)
    tap = inception_lib.from_file(inception, 'inception768', dtype)
    return RealExtractor(tap, params, wnids, classes, record, judge)


def output_order(wnids: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Numbers of the outputs: first those of `classes`, in their order, then all others.

    Raises:
      UserError: a class without output.
    """
    place = {wnid: number for number, wnid in enumerate(wnids)}
    unknown = [name for name in classes if name not in place]
    if unknown:
        raise UserError(
            f'the data set has the class {unknown[0]!r}, which is not a WordNet id that'
            " GoogLeNet knows; its classes must be named as ImageNet's, such as n02099601"
        )
    first = [place[name] for name in classes]
    chosen = set(first)
    return first + [number for number in range(len(wnids)) if number not in chosen]
