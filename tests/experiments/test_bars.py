"""What a sweep over photographs must show: verdicts on curves made to deserve each."""

import pytest
from support import experiment, make_tiny_config

from cfg_jax import config as config_lib

bars = experiment('tiny_imagenet64_parts.bars')

W = (0.0, 1.0, 4.0)
ERRORS = {'fd768_se': 0.1, 'is_se': 0.1, 'is_judge_se': 0.5}


def rows_of(distance=(5.0, 3.0, 6.0), agreement=(0.1, 0.2, 0.4), judge=(5.0, 10.0, 20.0)):
    return [
        ERRORS | {'w': w, 'fd768': d, 'is': 2.0 + w, 'class_agreement': a, 'is_judge': j}
        for w, d, a, j in zip(W, distance, agreement, judge, strict=True)
    ]


def verdicts(rows, untrained=100.0, num_samples=5000):
    config = config_lib.to_json(make_tiny_config())
    curve = {'name': 'made up', 'config': config, 'rows': rows, 'num_samples': num_samples}
    return {each.claim: each for each in bars.check_all(curve, {'fd768': untrained})}


def verdict_on(words, *arguments, **more):
    (found,) = (each for claim, each in verdicts(*arguments, **more).items() if words in claim)
    return found.verdict


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
    assert verdict_on('best at some w > 0', rows_of(distance)) == verdict


def test_paired_errors_decide_where_they_are_kept():
    rows = rows_of((5.0, 3.0, 3.7))
    column = [row | {'fid': row['fd768'], 'fid_se': row['fd768_se']} for row in rows]
    others = [{'w': 0.0, 'difference': 2.0, 'se': 0.1}, {'w': 4.0, 'difference': 0.7, 'se': 0.1}]
    assert bars.best_is_guided(column).verdict == 'not supported'  # 4.9 standard errors
    found = bars.best_is_guided(column, others)
    assert found.verdict == 'supported'
    assert '+7.0 better than at w = 4' in found.evidence


@pytest.mark.parametrize(('untrained', 'verdict'), [(9.1, 'supported'), (8.9, 'not supported')])
def test_far_from_untrained(untrained, verdict):
    assert verdict_on("the untrained network's", rows_of(), untrained) == verdict


@pytest.mark.parametrize(
    ('agreement', 'num_samples', 'verdict'),
    [
        ((0.1, 0.2, 0.4), 5000, 'supported'),
        ((0.1, 0.2, 0.4), 100, 'not enough samples'),
        ((0.1, 0.14, 0.4), 5000, 'not supported'),
        ((0.0, 0.2, 0.4), 5000, 'supported'),
    ],
)
def test_agreement_rises(agreement, num_samples, verdict):
    rows = rows_of(agreement=agreement)
    words = 'class agreement (GoogLeNet) is 1.5 times'
    assert verdict_on(words, rows, num_samples=num_samples) == verdict
    assert verdict_on(words, rows[::2]) == 'not enough samples'


def test_what_has_no_errors_is_judged_with_assumed_ones():
    """With sweep.bootstrap=0; a row of before errors were kept has none either."""
    without = [{k: v for k, v in row.items() if not k.endswith('_se')} for row in rows_of()]
    assert verdicts(without).keys() == verdicts(rows_of()).keys()


@pytest.mark.parametrize(
    ('judge', 'verdict'),
    [((5.0, 10.0, 20.0), 'supported'), ((5.0, 20.0, 10.0), 'not supported')],
)
def test_the_judges_score_rises(judge, verdict):
    """Not GoogLeNet's, which does in both."""
    found = verdicts(rows_of(judge=judge))
    rises = found['IS (judge) rises with w (made up)']
    assert rises.verdict == verdict
    assert f'IS (judge) {judge[0]:g} at w = 0' in rises.evidence
    assert len(found) == 4


def test_rows_that_the_judge_has_not_seen_are_left_out_of_its_verdicts():
    """In place of its score they once lent GoogLeNet's."""
    rows = rows_of()
    for key in ('is_judge', 'is_judge_se'):
        del rows[1][key]
    rises = verdicts(rows)['IS (judge) rises with w (made up)']
    assert rises.verdict == 'supported'
    assert rises.evidence.endswith('; not judged: w = 1')
    assert len(verdicts(rows)) == 4
    for key in ('is_judge', 'is_judge_se'):
        del rows[0][key]
    assert len(verdicts(rows)) == 3  # one row is no curve


def test_agreement_is_compared_where_both_rows_have_it():
    rows = [row | {'class_agreement_judge': row['class_agreement']} for row in rows_of()]
    words = 'class agreement (judge) is 1.5 times'
    assert verdict_on(words, rows) == 'supported'
    del rows[0]['class_agreement_judge']
    assert verdict_on(words, rows) == 'not enough samples'
