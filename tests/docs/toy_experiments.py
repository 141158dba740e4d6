"""Experiments in seconds: few of their rows and settings, and no instrument that was trained."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import experiment

from cfg_jax.metrics.features import classifier

# Each of these is compared with others of them alone.
_ABLATIONS = ('w = 0', 'w = 0.5', 'w = 1', 'w = 0.5, noise for eps(z)')
# (part, sampler, rule) of guidance_zoo.py, and how many strengths.
_ZOO = {
    ('samplers', 'ancestral', 'classifier_free'): 1,  # the paper's
    ('rules', 'ddim', 'classifier_free'): 2,
    ('rules', 'ddim', 'autoguidance'): 1,
}


def _draw_classifier(data):
    """In the place of `classifier.train`: nobody looks at what it measures."""
    net, image = classifier.ConvNet(data.num_classes), (data.image_size, data.image_size)
    image = jax.ShapeDtypeStruct((1, *image, data.channels), jnp.float32)
    shapes, rng = jax.eval_shape(net.init, jax.random.key(0), image), np.random.default_rng(0)
    return jax.tree.map(lambda a: 0.1 * rng.standard_normal(a.shape, np.float32), shapes), 0.1


def _few_settings(all_settings, *arguments):
    kept = {}
    for setting in all_settings(*arguments):
        key = setting.part, setting.sampler, setting.rule.partition(':')[0]
        if key in _ZOO:
            kept[key] = setting._replace(strengths=setting.strengths[: _ZOO[key]])
    assert kept.keys() == _ZOO.keys()
    return list(kept.values())


def _both_instruments(instrument):
    """In the place of the Inception and GoogLeNet, made of `instrument`: as many logits."""

    class Both(instrument):
        logits_are_labels = True

        def apply(self, params, images):
            found = super().apply(params, images)
            return found._replace(logits=jnp.tile(found.pooled, 334)[:, :1000])

    def load(inception, net, classes, dtype, judge=None):
        both = Both('inception768')
        both.inception = instrument('inception768')
        return both

    return load


@contextlib.contextmanager
def few(root, instrument):
    """Shortens the experiments; those that write into the repository do so in `root`."""
    rows = experiment('ablations_parts.rows')
    settings = experiment('guidance_zoo_parts.settings')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, 'train', _draw_classifier)
        # One column of each table.
        patch.setattr(experiment('table1'), 'P_UNCOND', (0.1,))
        patch.setattr(experiment('table2'), 'STEPS', (128,))
        patch.setattr(experiment('table2'), 'SMALL_STEPS', (4,))
        patch.setattr(rows, 'ROWS', tuple(row for row in rows.ROWS if row.name in _ABLATIONS))
        few_settings = functools.partial(_few_settings, settings.all_settings)
        patch.setattr(settings, 'all_settings', few_settings)
        both = _both_instruments(instrument)
        patch.setattr(experiment('tiny_imagenet64_parts.extractor'), 'load', both)
        patch.setattr(experiment('cost'), '_ROOT', root)
        yield
