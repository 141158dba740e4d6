"""What a sweep over photographs must show: verdicts on curves made to deserve each."""

import pytest
from support import experiment, make_tiny_config

from cfg_jax import config as config_lib

bars = experiment('tiny_imagenet64_parts.bars')

W = (0.0, 1.0, 4.0)
ERRORS = {'fd768_se': 0.1, 'is_se': 0.1, 'is_judge_se': 0.5}


def rows_of(distance, agreement=(0.1, 0.2, 0.4), error=0.01, judge=(5.0, 10.0, 20.0)):
    return [
        ERRORS
        | {'w': w, 'fd768': d, 'is': 2.0 + w, 'class_agreement': a, 'is_judge': j}
        | {'class_agreement_se': error}
        for w, d, a, j in zip(W, distance, agreement, judge, strict=True)
    ]


@pytest.mark.parametrize(
    ('distance', 'verdict'),
    [
        ((5.0, 3.0, 6.0), 'supported'),
        ((3.0, 4.0, 6.0), 'not supported'),  # best without guidance
        ((5.0, 3.0, 3.7), 'not supported'),  # 4.9 standard errors
        ((3.1, 3.0, 6.0), 'not enough samples'),
    ],
)
def test_best_is_guided(distance, verdict):
    assert bars.best_is_guided(rows_of(distance)).verdict == verdict


@pytest.mark.parametrize(('untrained', 'verdict'), [(9.1, 'supported'), (8.9, 'not supported')])
def test_far_from_untrained(untrained, verdict):
    found = bars.far_from_untrained(rows_of((5.0, 3.0, 6.0)), {'fd768': untrained})
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ('agreement', 'error', 'verdict'),
    [
        ((0.1, 0.2, 0.4), 0.001, 'supported'),
        ((0.1, 0.2, 0.4), 0.05, 'not enough samples'),
        ((0.1, 0.14, 0.4), 0.001, 'not supported'),
    ],
)
def test_agreement_rises(agreement, error, verdict):
    rows = rows_of((5.0, 3.0, 6.0), agreement, error)
    assert bars.agreement_rises(rows, 'class_agreement').verdict == verdict
    short = bars.agreement_rises(rows[::2], 'class_agreement')
    assert (short.verdict, short.evidence) == ('not enough samples', 'needs w = 0 and w = 1')


@pytest.mark.parametrize(
    ('judge', 'verdict'),
    [((5.0, 10.0, 20.0), 'supported'), ((5.0, 20.0, 10.0), 'not supported')],
)
def test_the_judges_score_rises(judge, verdict):
    """Not GoogLeNet's, which does in both."""
    rows = rows_of((5.0, 3.0, 6.0), judge=judge)
    curve = {
        'name': 'made up',
        'config': config_lib.to_json(make_tiny_config()),
        'rows': rows,
        'num_samples': 40,
    }
    found = {each.claim: each for each in bars.check_all(curve, {'fd768': 100.0})}
    rises = found['IS (judge) rises with w (made up)']
    assert rises.verdict == verdict
    assert f'IS (judge) {judge[0]:g} at w = 0' in rises.evidence
    assert len(found) == 4
