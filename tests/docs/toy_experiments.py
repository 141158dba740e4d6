"""Experiments in seconds: few of their rows and settings, the same classifier for all."""

import contextlib
import functools

import jax.numpy as jnp
import pytest
from support import experiment

from cfg_jax.metrics.features import classifier

# Each of these is compared with others of them alone.
_ABLATIONS = ('w = 0', 'w = 0.5', 'w = 1', 'w = 0.5, noise for eps(z)', 'p_uncond = 0.5')
# (part, sampler, rule) of guidance_zoo.py, and how many strengths.
_ZOO = {
    ('samplers', 'ancestral', 'classifier_free'): 1,  # the paper's
    ('together', 'dpmpp_2m_sde', 'interval'): 1,
    ('rules', 'ddim', 'classifier_free'): 2,
    ('rules', 'ddim', 'autoguidance'): 1,
}


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

    def load(inception, net, classes, dtype):
        both = Both('inception768')
        both.inception = instrument('inception768')
        return both

    return load


@contextlib.contextmanager
def few(root, instrument):
    """Shortens the experiments; those that write into the repository do so in `root`."""
    rows = experiment('ablations_parts.rows')
    settings = experiment('guidance_zoo_parts.settings')
    trained = {}
    train = classifier.train

    def train_once(data):
        key = data.to_json()
        trained[key] = trained[key] if key in trained else train(data)
        return trained[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, '_EPOCHS', 1)  # nobody looks at its numbers
        patch.setattr(classifier, 'train', train_once)
        patch.setattr(rows, 'ROWS', tuple(row for row in rows.ROWS if row.name in _ABLATIONS))
        few_settings = functools.partial(_few_settings, settings.all_settings)
        patch.setattr(settings, 'all_settings', few_settings)
        both = _both_instruments(instrument)
        patch.setattr(experiment('tiny_imagenet64_parts.extractor'), 'load', both)
        patch.setattr(experiment('cost'), '_ROOT', root)
        yield
