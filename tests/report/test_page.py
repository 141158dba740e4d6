"""The page's content: numbers, pictures and provenance, without a browser."""

import argparse
import base64
import io
import json
import re
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image
from runs_on_disk import WEIGHTS, row, sweep_with_rows
from support import logged, make_tiny_config, run_here, toy_instead_of_networks, user_error

import cfg_jax
from cfg_jax import config as config_lib, loading
from cfg_jax.guidance.classifier_free import ClassifierFree
from cfg_jax.report import content, page, pictures, runs
from cfg_jax.samplers.ancestral import Ancestral
from cfg_jax.training import loop


@pytest.fixture(scope='module')
def workdir(swept_workdir, tmp_path_factory):
    return sweep_with_rows(swept_workdir, tmp_path_factory.mktemp('pages'))


def data_of(path):
    """The page's data, as a browser reads it."""
    [text] = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL
    )
    return json.loads(text)


@pytest.fixture(scope='module')
def data(workdir, tmp_path_factory):
    out = tmp_path_factory.mktemp('out') / 'report.html'
    return data_of(page.write([workdir], out, count=12, label=3, command='a command'))


def decoded(uri):
    head, _, body = uri.partition(',')
    assert head == 'data:image/webp;base64'
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


def test_rows_hold_the_numbers_and_the_texts_of_the_table(data):
    [run] = data['runs']
    assert [each['w'] for each in run['rows']] == list(WEIGHTS)
    first, last = run['rows'][0], run['rows'][-1]
    assert first['values']['fid'] == 5.0
    assert first['errors'] == {
        'fid': 0.5, 'is': 0.01, 'precision': None, 'recall': None, 'class_agreement': None
    }  # fmt: skip
    assert (first['s'], last['s']) == ('1', '65')
    assert last['cells']['is'] == '10.000 ± 0.010'
    assert first['best'] == ['fid']
    assert last['best'] == ['is']
    assert [first['nfe'], last['nfe']] == [4, 8]
    assert data['command'] == 'a command'


def test_pictures_are_those_that_the_model_draws(data, workdir):
    """Cell i of the sheet of w is image number i of the sweep at w, and of the class asked for."""
    mixed, one = data['runs'][0]['sets']
    assert mixed['labels'] == [i % 10 for i in range(12)]
    assert (one['title'], one['labels']) == ('only 3', [3] * 12)
    model = cfg_jax.load(workdir)
    for shown in (mixed, one):
        assert shown['size'] == [8, 8]
        drawn = model.sample(shown['labels'], w=[WEIGHTS[3]] * 12, indices=range(12))
        sheet = decoded(shown['sheets'][3])[..., 0]
        assert sheet.shape == (16, 64)
        for i in (0, 7, 8, 11):
            top, left = 8 * (i // 8), 8 * (i % 8)
            cell = sheet[top : top + 8, left : left + 8].astype(int)
            assert np.abs(cell - drawn[i, ..., 0]).max() <= 1  # up to rounding of another batch


def test_many_large_pictures_stay_small():
    """14 w of 64 pictures at 64x64: below 8 MB in the page, and close to what they show."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (64, 9, 9, 3), np.uint8)
    smooth = np.stack([np.asarray(Image.fromarray(c).resize((64, 64), 2)) for c in coarse])
    noisy = np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)
    uris = pictures.encode(np.stack([noisy] * 14))
    assert sum(map(len, uris)) < 8e6
    sheet = decoded(uris[0])
    assert sheet.shape == (512, 512, 3)
    assert np.abs(sheet[:64, :64].astype(float) - noisy[0]).mean() < 6


def test_training_has_every_bin_of_log_snr(data):
    training = data['runs'][0]['training']
    assert training['steps'] == [2, 3, 4, 6]  # reports, and a checkpoint
    assert len(training['bins']) == 10
    assert training['bins'][0]['title'] == '-20 to -3.7'
    assert set(training['curves']) == {'loss', 'grad_norm'}


def test_long_trainings_are_thinned():
    rows = [{'step': i, 'loss': 1.0} for i in range(1, 100_001)]
    steps = content.training_curves(rows)['steps']
    assert len(steps) <= 401
    assert steps[-1] == 100_000


def test_provenance_identifies_the_numbers(data, workdir):
    results = json.loads((workdir / 'sweep' / 'tiny' / 'results.json').read_text())
    facts = dict(data['runs'][0]['provenance'])
    assert facts['SHA-256 of the parameters'] == results['weights_sha256']
    assert facts['SHA-256 of the reference'] == results['reference']['sha256']
    assert f'jax {results["versions"]["jax"]}' in facts['versions']
    assert data['runs'][0]['config'] == results['config']


def test_the_command_on_the_page_draws_its_picture(data, workdir, tmp_path, capsys):
    shown = data['runs'][0]
    command = shown['sampling'].split()[1:]
    out = tmp_path / 'one.png'
    arguments = [*command[1:], '--labels=0', f'--w={WEIGHTS[4]}', f'--out={out}']
    status, _, errors = run_here(capsys, command[0], *arguments)
    assert (status, errors) == (0, [])
    picture = np.asarray(Image.open(out).resize((8, 8), 0)).astype(int)
    cell = decoded(shown['sets'][0]['sheets'][4])[:8, :8, 0]
    assert np.abs(picture - cell).max() <= 1


@pytest.mark.parametrize(
    'changes',
    [
        {'sampler__v': 0.0},
        {'sampler__clip': False, 'sampler__num_steps': 3},
        {'sampler__name': 'euler', 'sampler__options': 'churn=2', 'sampler__grid': 'edm'}
        | {'guidance__rule': 'projected', 'guidance__options': 'eta=0.5,radius=1'},
        {'guidance__rule': 'autoguidance', 'guidance__network': 'guide'},
    ],
)
def test_the_command_draws_what_was_swept(swept_toy_workdir, tmp_path, capsys, changes):
    """Of a model that was trained on since, with what its own config does not say."""
    run, guide = (shutil.copytree(swept_toy_workdir, tmp_path / name) for name in ('run', 'guide'))
    out = tmp_path / 'one.png'
    with toy_instead_of_networks():
        loop.train(make_tiny_config(train__steps=8), run)
        loop.train(make_tiny_config(train__steps=7), guide)
        say_swept(run, **{k: str(guide) if v == 'guide' else v for k, v in changes.items()})
        [shown] = data_of(page.write([run], tmp_path / 'report.html', count=2))['runs']
        last = shown['rows'][-1]['w']
        command = [*shlex.split(shown['sampling'])[1:], '--labels=0', f'--w={last}', f'--out={out}']
        assert run_here(capsys, *command)[::2] == (0, [])
    picture = np.asarray(Image.open(out).resize((8, 8), 0)).astype(int)
    cell = decoded(shown['sets'][0]['sheets'][-1])[:8, :8, 0]
    np.testing.assert_array_equal(picture, cell)


def test_no_command_draws_another_average(workdir):
    [run] = runs.open_runs([workdir])
    assert content.of_run(run, None)['sampling']
    averaged = run._replace(results=run.results | {'weights': 'ema of sigma_rel 0.1'})
    assert content.of_run(averaged, None)['sampling'] == ''


def test_decoder_and_dtype_are_named_and_files_have_one_step(workdir):
    [run] = runs.open_runs([workdir])
    latent = {'channels': 4, 'factor': 8, 'decoder': "a decoder's.safetensors"}
    config = run.results['config'] | {'latent': latent}
    alone = run._replace(model=None, results=run.results | {'config': config})
    flags = shlex.split(content.of_run(alone, None)['sampling'])
    assert "--decoder=a decoder's.safetensors" in flags
    assert f'--step={run.results["checkpoint_step"]}' in flags
    assert not any('--model_dtype' in flag for flag in flags)
    more = {'weights': 'published', 'model_dtype': 'bfloat16'}
    published = alone._replace(results=alone.results | more)
    flags = shlex.split(content.of_run(published, None)['sampling'])
    assert '--model_dtype=bfloat16' in flags
    assert not any('--step' in flag for flag in flags)


def test_results_of_the_first_edition_are_shown(workdir):
    [run] = runs.open_runs([workdir])
    named = dict(run.results['sampler'])
    first = run.results | {'sampler': {'sampler': named.pop('name')} | named}
    assert content.of_run(run._replace(results=first), None) == content.of_run(run, None)


def test_no_name_leaves_its_place():
    hostile = '</script><script>alert(1)</script>/*SCRIPT*/<!--'
    data = {'title': hostile, 'command': '', 'warnings': [], 'runs': []}
    text = page.render(data)
    assert text.count('</script>') == 2
    assert hostile not in text
    assert '/*SCRIPT*/' in text  # as data, not as a place to fill
    [found] = re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert json.loads(found) == data


def test_nan_of_an_invalid_row_is_a_gap():
    rows = [row(0.0), row(1.0) | {'fid': float('nan'), 'is': float('nan')}]
    shown = content.table_row(rows[1], rows)
    assert shown['values']['fid'] is None
    assert shown['cells']['fid'] == 'invalid'
    assert shown['best'] == []


def test_other_weights_than_those_swept_give_no_pictures(workdir, tmp_path):
    changed = shutil.copytree(workdir, tmp_path / 'run')
    path = changed / 'sweep' / 'tiny' / 'results.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'weights_sha256': 64 * '0'}))
    with logged() as lines:
        out = page.write([changed], tmp_path / 'report.html', count=4)
    assert data_of(out)['runs'][0]['sets'] == []
    assert any('other weights' in line for line in lines if line.startswith('warning'))


@pytest.fixture
def guided(swept_toy_workdir, tmp_path):
    """A swept run that another one guides, as far as its results say."""
    run, guide = (shutil.copytree(swept_toy_workdir, tmp_path / name) for name in ('run', 'guide'))
    with toy_instead_of_networks():
        path = say_swept(run, guidance__rule='autoguidance', guidance__network=str(guide))
        yield run, guide, path


def say_swept(run, **changes):
    """Makes the results of a run those of a sweep with other settings; returns their path."""
    path = run / 'sweep' / 'tiny' / 'results.json'
    results = json.loads(path.read_text())
    config = config_lib.from_json(results['config'])
    for name, value in changes.items():
        group, _, field = name.partition('__')
        config[group][field] = value
    found = loading.load(run, config=config, step=results['checkpoint_step']).provenance()
    results['sampler'] |= config.sampler.to_dict()
    path.write_text(json.dumps(results | found | {'config': config_lib.to_json(config)}))
    return path


def shown_sets(run, tmp_path):
    """The sets of a page's only run, and what was said while it was made."""
    with logged() as lines:
        out = page.write([run], tmp_path / 'report.html', count=2)
    return data_of(out)['runs'][0]['sets'], ' '.join(lines)


def test_a_guide_that_was_trained_on_gives_no_pictures(guided, tmp_path):
    run, guide, path = guided
    assert shown_sets(run, tmp_path)[0]
    loop.train(make_tiny_config(train__steps=8), guide)
    sets, said = shown_sets(run, tmp_path)
    assert sets == []
    assert 'the network of its guidance has other weights' in said
    # As the first edition names it.
    results = json.loads(path.read_text())
    results['autoguidance'] = results.pop('guidance_network')
    del results['guidance']
    path.write_text(json.dumps(results))
    assert 'the network of its guidance has other weights' in shown_sets(run, tmp_path)[1]


@pytest.mark.parametrize('name', ['guidance_network', 'decoder'])
def test_every_network_is_compared_with_the_one_swept(workdir, name):
    [run] = runs.open_runs([workdir])
    own = {'weights_sha256': run.results['weights_sha256']}

    def check(recorded, found):
        model = argparse.Namespace(
            provenance=lambda: own | found, sampler=Ancestral(), rule=ClassifierFree()
        )
        pictures.check_model(run._replace(results=run.results | recorded), model)

    a, b = ({name: {'weights_sha256': letter, 'checkpoint_step': 1}} for letter in 'ab')
    check(a, a)
    check({}, a)  # an earlier edition did not record it
    assert 'other weights' in user_error(check, a, b)
    assert 'other weights' in user_error(check, {}, {'weights_sha256': 'a'})


def test_a_published_sweep_alone(workdir, tmp_path):
    """results.json without its model, as in results/: numbers, no pictures, no training."""
    (tmp_path / 'alone').mkdir()
    shutil.copy(workdir / 'sweep' / 'tiny' / 'results.json', tmp_path / 'alone')
    [run] = data_of(page.write([tmp_path / 'alone'], tmp_path / 'report.html'))['runs']
    assert (run['sets'], run['training'], run['name']) == ([], None, 'alone')
    assert len(run['rows']) == len(WEIGHTS)


def test_the_newest_sweep_of_a_model_is_shown(workdir, tmp_path):
    both = shutil.copytree(workdir, tmp_path / 'run')
    shutil.copytree(both / 'sweep' / 'tiny', both / 'sweep' / 'later')
    (both / 'sweep' / 'later' / 'results.json').touch()
    with logged() as lines:
        [run] = runs.open_runs([both])
    assert run.directory.name == 'later'
    assert any('tiny' in line for line in lines)
    named = runs.open_runs([both / 'sweep' / 'tiny', both / 'sweep' / 'later'])
    assert [each.name for each in named] == ['tiny', 'later']


def test_what_does_not_compare_is_said(workdir, tmp_path):
    other = shutil.copytree(workdir, tmp_path / 'other')
    path = other / 'sweep' / 'tiny' / 'results.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'num_samples': 7}))
    opened = runs.open_runs([workdir, other])
    [line] = content.incomparable(opened)
    assert 'num_samples (40, 7)' in line
    assert content.incomparable(opened[:1]) == []
    assert [run.name for run in opened] == ['run', 'other']


def test_what_was_recorded_before_it_could_differ_compares(workdir, tmp_path):
    older = shutil.copytree(workdir, tmp_path / 'older')
    path = older / 'sweep' / 'tiny' / 'results.json'
    results = json.loads(path.read_text())
    assert results.pop('rounding') == 'round'
    path.write_text(json.dumps(results))
    assert content.incomparable(runs.open_runs([workdir, older])) == []


def test_pictures_of_a_sampler_that_was_mended_since_are_left_out(workdir, tmp_path, monkeypatch):
    [run] = runs.open_runs([workdir])
    monkeypatch.setattr(Ancestral, 'revision', 1)
    assert 'before its sampler' in user_error(pictures.draw, run, 2, None)


def test_wrong_runs_are_told(workdir, tmp_path):
    assert 'does not exist' in user_error(runs.open_runs, [tmp_path / 'nothing'])
    (tmp_path / 'empty').mkdir()
    assert 'no finished sweep' in user_error(runs.open_runs, [tmp_path / 'empty'])
    assert 'named twice' in user_error(runs.open_runs, [workdir, workdir / 'sweep' / 'tiny'])
    (tmp_path / 'empty' / 'results.json').write_text('{"rows": [}')
    assert 'damaged' in user_error(runs.open_runs, [tmp_path / 'empty'])
    message = user_error(page.write, [workdir], tmp_path / 'x.html', count=2, label=10)
    assert 'label 10 is out of range' in message
    message = user_error(page.write, [workdir], tmp_path / 'x.html', count=16_377, label=None)
    assert '--images is at most 16,376 for images of 8 pixels' in message
    assert not (tmp_path / 'x.html').exists()
