"""The claims checker: it can say yes, no and not enough, on curves made to deserve each."""

import json

import numpy as np
import pytest
from support import ROOT, experiment, run_here, user_error

findings, columns = experiment('claims_parts.findings'), experiment('claims_parts.columns')
paper = experiment('shared_parts.paper')

W = (0.0, 0.1, 0.3, 0.5, 1.0, 2.0, 4.0)


def column(fid, inception_score, num_samples=50_000, **setting):
    """A curve over W."""
    rows = [{'w': w, 'fid': f, 'is': i} for w, f, i in zip(W, fid, inception_score, strict=True)]
    return findings.Column('made up', setting, findings.with_errors(rows, num_samples))


FID = (3.0, 2.0, 2.5, 3.0, 5.0, 9.0, 15.0)
IS = (50.0, 60.0, 80.0, 100.0, 150.0, 200.0, 250.0)


def test_errors_grow_as_one_over_the_root_of_the_samples():
    (row,) = findings.with_errors([{'w': 0.0, 'fid': 10.0, 'is': 100.0}], 50_000)
    assert row['fid_se'] == pytest.approx(0.1)
    assert row['is_se'] == pytest.approx(0.5)
    (row,) = findings.with_errors([{'w': 0.0, 'fid': 10.0, 'is': 100.0, 'fid_se': 7.0}], 500)
    assert row['fid_se'] == 7.0
    assert row['is_se'] == pytest.approx(5.0)


def test_is_rises():
    assert findings.is_rises(column(FID, IS)).verdict == 'supported'
    dip = (*IS[:3], 70.0, *IS[4:])
    assert findings.is_rises(column(FID, dip)).verdict == 'not supported'
    assert findings.is_rises(column(FID, IS[::-1])).verdict == 'not supported'
    flat = np.linspace(9.99, 10.0, 7)
    assert findings.is_rises(column(FID, flat, 1000)).verdict == 'not enough samples'
    noisy_dip = (*IS[:3], 79.9, *IS[4:])  # a step down of less than two errors
    assert findings.is_rises(column(FID, noisy_dip)).verdict == 'supported'


def test_fid_is_best_at_small_w():
    check = findings.fid_is_best_at_small_w
    assert check(column(FID, IS)).verdict == 'supported'
    assert check(column((1.0, *FID[1:]), IS)).verdict == 'not supported'  # best without guidance
    assert check(column((4.0, 3.9, 3.8, 3.7, 3.6, 3.5, 3.4), IS)).verdict == 'not supported'
    assert check(column((*FID[:6], 4.0), IS)).verdict == 'not supported'  # only twice as bad
    assert check(column((2.001, *FID[1:]), IS)).verdict == 'not enough samples'
    assert check(column((1.999, *FID[1:]), IS)).verdict == 'not enough samples'
    assert check(column((*FID[:6], 6.05), IS)).verdict == 'not enough samples'
    short = column(FID, IS)._replace(rows=column(FID, IS).rows[:-1])
    verdict = check(short)
    assert verdict.verdict == 'not enough samples'
    assert 'w >= 4' in verdict.evidence


def test_one_weight_tells_nothing():
    one = column(FID, IS)._replace(rows=column(FID, IS).rows[:1])
    (verdict,) = findings.check_all([one])
    assert verdict.verdict == 'not enough samples'
    assert 'there are 1' in verdict.evidence


def test_fid_falls_throughout():
    check = findings.fid_falls_throughout
    rising = check(column(FID, IS))
    assert rising.verdict == 'not supported'
    assert rising.evidence.startswith('contradicted')
    assert check(column((9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0), IS)).verdict == 'supported'
    assert check(column(7 * (3.0,), IS)).verdict == 'not enough samples'


def by_dropout(tenth, fifth, half, num_samples=50_000):
    """FID of the three models, scaled."""
    return {
        p: column(scale * np.array(FID), IS, num_samples, p_uncond=p)
        for p, scale in ((0.1, tenth), (0.2, fifth), (0.5, half))
    }


def test_dropout_half_is_worse():
    check = findings.dropout_half_is_worse
    assert check(by_dropout(1.0, 1.03, 1.3)).verdict == 'supported'
    assert check(by_dropout(1.0, 1.5, 2.0)).verdict == 'not supported'  # 0.1 and 0.2 differ
    assert check(by_dropout(1.0, 1.03, 0.9)).verdict == 'not supported'  # 0.5 is better
    assert check(by_dropout(1.0, 1.03, 1.04)).verdict == 'not enough samples'
    assert check(by_dropout(1.0, 1.03, 1.3, 500)).verdict == 'not enough samples'
    two = by_dropout(1.0, 1.0, 1.3)
    del two[0.2]
    assert 'needs p_uncond' in check(two).evidence


def test_the_error_at_equal_is_has_that_of_is_itself():
    """Between IS 10 and 20 FID goes from 2 to 6: an error of 1 of IS is one of 0.4 of FID."""
    rows = [
        {'fid': 2.0, 'is': 10.0, 'fid_se': 0.3, 'is_se': 1.0},
        {'fid': 6.0, 'is': 20.0, 'fid_se': 0.3, 'is_se': 1.0},
    ]
    fid, error = findings._at_equal_is(rows, 15.0)
    assert (fid, error) == (pytest.approx(4.0), pytest.approx(0.5))


def test_dropout_is_compared_at_equal_is_not_at_equal_w():
    """p_uncond = 0.5 guides less: at equal w its FID is lower, at equal IS higher."""
    base = np.array(IS)
    columns = {p: column(base**2 / 1000, base, p_uncond=p) for p in (0.1, 0.2)}
    columns[0.5] = column(0.9 * base**2 / 1000, 0.7 * base, p_uncond=0.5)
    assert all(
        half['fid'] < tenth['fid']
        for half, tenth in zip(columns[0.5].rows, columns[0.1].rows, strict=True)
    )
    assert findings.dropout_half_is_worse(columns).verdict == 'supported'


def test_steps_help_up_to_a_point():
    def verdict(*scales, num_samples=50_000):
        columns = {
            t: column(scale * np.array(FID), IS, num_samples, T=t)
            for t, scale in zip((128, 256, 1024), scales, strict=True)
        }
        return findings.steps_help_up_to_a_point(columns).verdict

    assert verdict(1.3, 1.0, 0.995) == 'supported'
    assert verdict(1.3, 1.0, 0.7) == 'not supported'  # still gaining
    assert verdict(1.0, 1.3, 1.3) == 'not supported'  # more steps hurt
    assert verdict(1.01, 1.0, 1.0) == 'not enough samples'
    assert verdict(1.3, 1.0, 0.995, num_samples=500) == 'not enough samples'


def test_the_papers_findings_on_the_papers_tables():
    """All four supported, and its sentence on monotone FID contradicted, column by column."""
    verdicts = findings.check_all(columns.of_the_paper())
    sentence = [v for v in verdicts if 'sentence of section 4.1' in v.claim]
    others = [v for v in verdicts if v not in sentence]
    assert len(sentence) == 6
    assert all(v.verdict == 'not supported' and 'contradicted' in v.evidence for v in sentence)
    assert len(others) == 6 + 6 + 2
    assert all(v.verdict == 'supported' for v in others)


def of_dropout(p_uncond, scale=1.0, name='made up', **setting):
    fid = scale * np.array(FID)
    return column(fid, IS, p_uncond=p_uncond, **setting)._replace(name=name)


def dropout_verdicts(found):
    return {
        v.claim.partition('equal IS')[2]: v
        for v in findings.check_all(found)
        if '0.5 is' in v.claim
    }


@pytest.mark.parametrize('last', [4, 8])
def test_only_what_agrees_in_all_else_is_compared(last):
    """0.5 is worse at T = 4 and better at T = 8, whatever the order of the files."""
    scales = {4: {0.1: 1.0, 0.2: 1.03, 0.5: 1.3}, 8: {0.1: 1.0, 0.2: 1.03, 0.5: 0.8}}
    order = sorted(scales, key=lambda t: t == last)
    every = [of_dropout(p, s, T=t) for t in order for p, s in scales[t].items()]
    found = dropout_verdicts(every)
    assert found[' (T = 4)'].verdict == 'supported'
    assert found[' (T = 8)'].verdict == 'not supported'
    assert len(found) == 2
    for setting in ('sampler', 'rule', 'num_samples'):
        two = [of_dropout(0.1), of_dropout(0.5)]
        assert len(dropout_verdicts(two)) == 1
        apart = [c._replace(setting=c.setting | {setting: i}) for i, c in enumerate(two)]
        assert dropout_verdicts(apart) == {}


def test_steps_are_compared_at_one_dropout():
    """Steps help at one p_uncond and hurt at the other."""
    scales = {0.1: {128: 1.3, 256: 1.0, 1024: 0.995}, 0.5: {128: 1.0, 256: 1.3, 1024: 1.3}}
    every = [of_dropout(p, s, T=t) for p in scales for t, s in scales[p].items()]
    found = {v.claim: v.verdict for v in findings.check_all(every) if 'steps' in v.claim}
    assert [claim.partition('point')[2] for claim in found] == [
        ' (p_uncond = 0.1)',
        ' (p_uncond = 0.5)',
    ]
    assert list(found.values()) == ['supported', 'not supported']


def test_columns_are_compared_at_the_w_that_all_have():
    """A finer grid of w finds a lower best FID, which more steps have no part in."""
    scales = {128: 1.3, 256: 1.0, 1024: 0.995}
    every = [column(s * np.array(FID), IS, T=t) for t, s in scales.items()]
    lucky = findings.with_errors([{'w': 0.2, 'fid': 0.1, 'is': 70.0}], 50_000)
    every[0] = every[0]._replace(rows=[*every[0].rows[:2], *lucky, *every[0].rows[2:]])

    def of_steps():
        (found,) = (v for v in findings.check_all(every) if 'steps' in v.claim)
        return found

    assert of_steps().verdict == 'supported'
    every[0] = every[0]._replace(rows=[*lucky, every[0].rows[-1]])
    assert of_steps().evidence == 'they have fewer than two w in common'


def test_two_files_of_one_cell_decide_nothing():
    files = [of_dropout(p, s, f'file {p} {s}') for p, s in ((0.1, 1.0), (0.2, 1.03), (0.5, 1.3))]
    assert dropout_verdicts(files)[''].verdict == 'supported'
    again = of_dropout(0.5, 0.8, 'another')
    verdict = dropout_verdicts([*files, again])['']
    assert verdict.verdict == 'not enough samples'
    assert verdict.evidence.startswith('file 0.5 1.3 and another are both of p_uncond = 0.5')


@pytest.mark.parametrize('name', ['table1_digits', 'table2_digits'])
def test_columns_of_a_table_are_compared(name):
    """Sweeps of one table differ in nothing but what its columns are for."""
    held = json.loads((ROOT / 'results' / name / 'results.json').read_text())['columns']
    found = [columns.of_results(key, column['results'][0]) for key, column in held.items()]
    verdicts = findings.check_all(found)
    assert len(verdicts) == 3 * len(held) + 1
    assert 'needs' not in verdicts[-1].evidence


def test_the_papers_numbers():
    """Some of them, read off the paper, not off the file."""
    table1, table2 = paper.load('table1'), paper.load('table2')
    assert table1.rows[0.1][1] == {'w': 0.1, 'fid': 1.55, 'is': 66.11}
    assert table1.rows[0.5][-1] == {'w': 4.0, 'fid': 21.48, 'is': 225.10}
    assert table2.rows[256.0][3] == {'w': 0.3, 'fid': 2.43, 'is': 158.47}
    assert table2.rows[128.0][-1] == {'w': 4.0, 'fid': 21.55, 'is': 422.29}
    assert [len(rows) for rows in (*table1.rows.values(), *table2.rows.values())] == 6 * [14]
    assert table1.baselines['CDM'] == {'fid': 1.48, 'is': 67.95}


def test_command(tmp_path, swept_workdir, capsys):
    out = tmp_path / 'verdicts.json'
    results = swept_workdir / 'sweep' / 'tiny' / 'results.json'
    status, lines, errors = run_here(capsys, 'experiments/claims.py', results, f'--out={out}')
    assert (status, errors) == (0, [])
    written = json.loads(out.read_text())
    assert list(written) == ["the paper's own tables", 'these results']
    (is_rises, *_) = written['these results']
    assert str(results) in is_rises['claim']
    assert any(is_rises['evidence'] in line for line in lines)


def test_files_that_are_no_results(tmp_path):
    (tmp_path / 'a.json').write_text('{}')
    assert 'a.json is not the results.json' in user_error(columns.read, str(tmp_path / 'a.json'))
    text = (ROOT / 'results' / 'quickstart' / 'results.json').read_text()
    results = json.loads(text)
    for row in results['rows']:
        del row['is']
    (tmp_path / 'b.json').write_text(json.dumps(results))
    assert 'Inception Score' in user_error(columns.read, str(tmp_path / 'b.json'))
