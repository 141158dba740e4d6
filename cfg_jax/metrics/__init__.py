"""Metrics of a set of images: what a metric is, and the registry of all of them.

To add one: a file with a function from `Inputs` to `Value`, an entry in METRICS, a test file.
Tables, plots, config fields and commands take names, headings, formats and directions from here.
Importing this module loads neither NumPy nor JAX.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from cfg_jax.errors import UserError
from cfg_jax.registry import Entry, Registry

if TYPE_CHECKING:
    import numpy as np

    from cfg_jax.metrics.features import Features
    from cfg_jax.metrics.influence import Influence
    from cfg_jax.metrics.statistics import Reference

_T = TypeVar('_T')


class Inputs(NamedTuple):
    """What a metric may use.

    Attributes:
      samples: features of the samples as NumPy arrays, in the order of the file or of image number.
      reference: the real images.
      labels: int [N], the class that each sample was asked to be; None where it is not known.
      num_classes: of the data set that the labels are of.
      splits: parts of the Inception Score.
      replicates: of bootstrapped standard errors; 0 leaves all standard errors out.
      strata: int [N]; samples of one value are exchangeable. None: all are. Give the labels where
        the number of samples of each class was fixed rather than drawn.
    """

    samples: 'Features'
    reference: 'Reference'
    labels: 'np.ndarray | None' = None
    num_classes: int | None = None
    splits: int = 10
    replicates: int = 0
    strata: 'np.ndarray | None' = None


class Value(NamedTuple):
    """What a metric gives.

    Attributes:
      value: the metric.
      error: its standard error, where asked for and available.
      deviation: standard deviation over splits or subsets, where the protocol has them.
      note: what a reader of the value must know.
      influence: how each sample moves the value, for paired differences; with `error` only.
    """

    value: float
    error: float | None = None
    deviation: float | None = None
    note: str = ''
    influence: 'Influence | None' = None


def given(value: _T | None, need: str) -> _T:
    """`value`, which the caller of a metric with this need gives.

    Raises:
      ValueError: it is None.
    """
    if value is None:
        raise ValueError(f'the inputs lack what needs {need!r}')
    return value


@dataclass(frozen=True)
class Metric(Entry):
    """One metric: `target` is the function from `Inputs` to `Value`, 'module:attribute'.

    Attributes:
      heading: in tables and plots; '{distance}' stands for what the extractor calls the Frechet
        distance of its features, and the metric's key changes with it.
      format: of its values; '' leaves it to the extractor, whose distance decides the scale.
      higher_is_better: its direction.
      needs: out of 'spatial', 'logits', 'labels', 'splits' and 'images' (features of single real
        images, not statistics alone).
      images: fewest images a side.
      covariance_of: 'pooled' or 'spatial' where it uses the covariance of these features, which is
        singular with too few images.
      default: whether `evaluate.py` computes it unasked.
      bold: whether tables print its best value in bold.
    """

    heading: str
    format: str
    higher_is_better: bool
    needs: tuple[str, ...] = ()
    images: int = 2
    covariance_of: str = ''
    default: bool = True
    bold: bool = False

    def title(self, distance: str = 'FID') -> str:
        """The heading where the Frechet distance is called `distance`."""
        return self.heading.format(distance=distance)


class MetricRegistry(Registry[Metric]):
    """The metrics by name."""

    def __init__(self, entries: Mapping[str, Metric]):
        super().__init__('metric', entries)

    def check(self, names: Iterable[str]) -> None:
        """Raises UserError if one of the names is not a metric's."""
        for name in names:
            if name not in self:
                raise UserError(f'{name!r} is not a metric; there are: {", ".join(self)}')

    def key(self, name: str, distance: str = 'FID') -> str:
        """Where a row holds the metric: 'fid' -> 'fd768' where the distance is called 'FD-768'."""
        if '{distance}' not in self[name].heading:
            return name
        return name.replace('fid', distance.lower().replace('-', ''), 1)


METRICS = MetricRegistry(
    {
        'fid': Metric(
            'cfg_jax.metrics.frechet:fid',
            'Frechet distance of the pooled features (Heusel et al. 2017)',
            heading='{distance}',
            format='',
            higher_is_better=False,
            covariance_of='pooled',
            bold=True,
        ),
        'sfid': Metric(
            'cfg_jax.metrics.frechet:sfid',
            'Frechet distance of a spatial feature map (Nash et al. 2021)',
            heading='sFID',
            format='.2f',
            higher_is_better=False,
            needs=('spatial',),
            covariance_of='spatial',
        ),
        'is': Metric(
            'cfg_jax.metrics.inception_score:inception_score',
            'Inception Score (Salimans et al. 2016)',
            heading='IS',
            format='.3f',
            higher_is_better=True,
            needs=('logits', 'splits'),
            images=1,
            bold=True,
        ),
        'precision': Metric(
            'cfg_jax.metrics.precision_recall:precision',
            'share of samples among the real images (Kynkaanniemi et al. 2019)',
            heading='precision',
            format='.3f',
            higher_is_better=True,
            needs=('images',),
            images=4,
        ),
        'recall': Metric(
            'cfg_jax.metrics.precision_recall:recall',
            'share of real images among the samples (Kynkaanniemi et al. 2019)',
            heading='recall',
            format='.3f',
            higher_is_better=True,
            needs=('images',),
            images=4,
        ),
        'kid': Metric(
            'cfg_jax.metrics.kernel_distance:kid',
            'Kernel Inception Distance, unbiased (Binkowski et al. 2018)',
            heading='KID',
            format='.5f',
            higher_is_better=False,
            needs=('images',),
            images=4,
        ),
        'fid_infinity': Metric(
            'cfg_jax.metrics.frechet_infinity:fid_infinity',
            'FID extrapolated to infinitely many samples (Chong & Forsyth 2020)',
            heading='{distance}∞',
            format='',
            higher_is_better=False,
            images=4,
            covariance_of='pooled',
            default=False,
        ),
        'class_agreement': Metric(
            'cfg_jax.metrics.class_agreement:class_agreement',
            'share of samples that the classifier finds to be of their class',
            heading='class agreement',
            format='.1%',
            higher_is_better=True,
            needs=('logits', 'labels'),
            images=1,
            default=False,
        ),
    }
)
