"""The instruments of the real-images experiment as one feature extractor.

FD-768, sFID, precision and recall come from the FID Inception up to its 768-d tap, "IS (GoogLeNet)"
and class agreement from GoogLeNet. None is FID or the published IS: they compare with themselves.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from cfg_jax.errors import UserError
from cfg_jax.metrics.features import Features, inception as inception_lib
from tiny_imagenet64_parts import googlenet

# key of a row -> what it is called
NAMES = {'is': 'IS (GoogLeNet)', 'class_agreement': 'class agreement (GoogLeNet)'}


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
    ):
        self.inception, self._record = inception, record
        self._order = jnp.asarray(output_order(wnids, classes))
        self.params = (inception.params, params)

    def apply(self, params: Any, images: jax.Array) -> Features:
        """See `features.FeatureExtractor`; raises UserError unless the images are uint8 RGB."""
        inception, net = params
        found = self.inception.apply(inception, images)
        return found._replace(logits=googlenet.logits(net, images)[:, self._order])

    def provenance(self) -> dict[str, Any]:
        """See `features.FeatureExtractor`."""
        inception = self.inception.provenance()
        both = inception['sha256'] + self._record['sha256']
        return inception | {
            'name': self.name,
            'sha256': hashlib.sha256(both.encode()).hexdigest(),  # of the two that follow
            'inception_sha256': inception['sha256'],
            'googlenet_sha256': self._record['sha256'],
            'logits': 'BVLC GoogLeNet, 1,000 classes; images resized bilinearly to 224',
        }


def load(
    inception: epath.PathLike, net: epath.PathLike, classes: Sequence[str], dtype: str = 'float32'
) -> RealExtractor:
    """The extractor with the weights in two files, for a data set with these WordNet ids.

    Raises:
      UserError: a file that is missing, damaged or of another network, or an unknown class.
    """
    params, wnids, record = googlenet.load(net)
    tap = inception_lib.from_file(inception, 'inception768', dtype)
    return RealExtractor(tap, params, wnids, classes, record)


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
