"""MODEL_CARD.md: it says what the exported file is, and its commands work as they stand."""

import re

import jax
import pytest
from runs_on_disk import WEIGHTS, sweep_with_rows
from support import ROOT, make_tiny_config, run_here

import cfg_jax
from cfg_jax import config as config_lib
from cfg_jax.evaluation import tables
from cfg_jax.pretrained import edm
from cfg_jax.report import card


@pytest.fixture(scope='module')
def workdir(swept_workdir, tmp_path_factory):
    return sweep_with_rows(swept_workdir, tmp_path_factory.mktemp('card'))


@pytest.fixture(scope='module')
def directory(workdir):
    return workdir.parent / 'exported'


@pytest.fixture
def text(workdir, directory, capsys):
    out = directory / 'tiny.safetensors'
    status, lines, errors = run_here(
        capsys, 'scripts/export.py', f'--model={workdir}', f'--out={out}'
    )
    assert (status, errors) == (0, [])
    assert f'model card written to {directory / card.NAME}' in lines
    return (directory / card.NAME).read_text()


def test_it_says_what_and_how(text, workdir):
    model = cfg_jax.load(workdir)
    assert text.startswith('# tiny.safetensors\n')
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params['main']))
    assert f'{count:,} parameters' in text
    assert '6 steps of batch 16 (96 images' in text
    assert 'p_uncond = 0.1' in text
    assert '## Classes\n\n0 0, 1 1, ' in text
    assert model.provenance()['weights_sha256'] in text
    for convention in ('(1 + w) eps_cond - w eps_uncond', 'eps_uncond + s (eps_cond - eps_uncond)'):
        assert convention in text


def test_it_has_the_table_of_every_sweep_with_its_protocol(text, workdir):
    [results] = card.sweeps_of(workdir, cfg_jax.load(workdir).provenance()['weights_sha256'])
    assert [row['w'] for row in results['rows']] == list(WEIGHTS)
    assert tables.sweep_table(results['rows']) in text
    assert '40 samples a row' in text
    assert results['reference']['sha256'] in text
    assert card.sweeps_of(workdir, 64 * '0') == []


def test_its_python_and_its_command_work(text, directory, monkeypatch, capsys):
    [code] = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
    [command] = re.findall(r'```\npython (.*?)\n```', text)
    monkeypatch.chdir(directory)
    names = {}
    exec(code, names)
    assert names['images'].shape == (3, 8, 8, 1)
    name, *arguments = command.split()
    assert (ROOT / name).exists()
    # The test's helper runs commands in the repository.
    arguments = [re.sub(r'=(tiny|grid)', rf'={directory}/\1', each) for each in arguments]
    assert run_here(capsys, name, *arguments)[0] == 0
    assert (directory / 'grid.png').exists()


def test_the_labels_of_its_commands_are_classes():
    config = make_tiny_config(data__num_classes=2)
    text = card._sampling('two.safetensors', config)
    assert '--labels=0,1 ' in text
    assert 'model.sample([0, 1], w=1.0, seed=0)  # uint8 [2, H, W, C]' in text


def test_its_commands_guide_only_what_can_be_guided():
    config = make_tiny_config(p_uncond=0.0)
    assert '--w=0.0 ' in card._sampling('plain.safetensors', config)
    config.guidance.rule = 'independent'
    assert '--w=1.0 ' in card._sampling('plain.safetensors', config)
    latents = config_lib.base_config('dit')
    text = card._sampling('dit.safetensors', latents)
    assert '--model=dit.safetensors --decoder=DECODER.safetensors ' in text
    assert "load('dit.safetensors', decoder='DECODER.safetensors')" in text


def test_what_a_model_predicts():
    config = config_lib.base_config('adm')
    edm.set_edm(config)
    text = card._task(config)
    assert "predicts the image, behind EDM's preconditioning, noise levels 0.002 to 80," in text
    assert 'p_uncond' not in text
    assert 'p_uncond' not in card._task(make_tiny_config(p_uncond=0.0))


@pytest.mark.parametrize(
    ('path', 'kept', 'shown'),
    [
        ('/work/data/tiny/1.0.0', 2, 'tiny/1.0.0'),
        ('folder:/home/me/cats/', 2, 'folder:me/cats'),
        ('imagenet2012', 2, 'imagenet2012'),
        ('gs://bucket/runs/muon', 1, 'muon'),
    ],
)
def test_a_card_names_no_place_of_one_machine(path, kept, shown):
    assert card._without_folders(path, kept) == shown


def test_a_card_of_another_file_is_kept(text, workdir, directory, capsys):
    other = directory / 'other.safetensors'
    run_here(capsys, 'scripts/export.py', f'--model={workdir}', f'--out={other}')
    assert (directory / card.NAME).read_text() == text
    assert (directory / f'other.{card.NAME}').read_text().startswith('# other.safetensors')
