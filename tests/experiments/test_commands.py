"""What holds for every experiment: help at once, and no dependence on the working directory."""

import json
import re
import shlex
import subprocess
import sys

import pytest
from support import ROOT, experiment, run_here, script_environment
from test_comparison import Means

from cfg_jax import config as config_lib
from cfg_jax.data import sources
from cfg_jax.evaluation import sweep
from cfg_jax.metrics.features import EXTRACTORS
from cfg_jax.report import page
from cfg_jax.training import loop

FOLDER = ROOT / 'experiments'
COMMANDS = sorted(path.stem for path in FOLDER.glob('*.py'))
PRESETS = experiment('shared_parts.presets')
SIZES = experiment('tiny_imagenet64_parts.sizes')

_HELP = """
import json, runpy, sys
sys.path.insert(0, sys.argv[1])
loaded = {}
for name in sys.argv[2:]:
    path = f'{sys.path[0]}/{name}.py'
    sys.argv = [path, '--help']
    try:
        runpy.run_path(path, run_name='__main__')
    except SystemExit as end:
        loaded[name] = [end.code, 'jax' in sys.modules]
print('\\n' + json.dumps(loaded))
"""


def test_help_needs_no_jax_in_any_directory(tmp_path):
    done = subprocess.run(
        [sys.executable, '-c', _HELP, str(FOLDER), *COMMANDS],
        cwd=tmp_path,
        env=script_environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {name: [0, False] for name in COMMANDS}
    for name in COMMANDS:
        assert f'python experiments/{name}.py' in done.stdout


def test_what_is_not_a_command_lies_in_packages_of_parts():
    folders = [path for path in FOLDER.iterdir() if path.is_dir() and path.name[0] != '_']
    assert folders
    for folder in folders:
        assert folder.name.endswith('_parts')
        assert (folder / '__init__.py').exists()
        assert folder.name.removesuffix('_parts') in [*COMMANDS, 'shared', 'tables']


class Options:
    """What the parsers of experiments leave."""

    data, inception = '/data/set/1.0.0', '/weights.npz'

    def __init__(self, preset):
        self.preset = preset


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Another working directory, and a data set of 200 classes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, 'label_names', lambda name: 200 * ['n'])


@pytest.mark.parametrize('preset', PRESETS.PRESETS)
@pytest.mark.parametrize('name', ['imagenet64.py', 'imagenet128.py'])
def test_presets_of_the_tables(elsewhere, preset, name):
    """Both tables' configs and the classifier's agree on images and classes, and are valid."""
    config = PRESETS.load(Options(preset), name, ['--config.sweep.seed=5'])
    config_lib.validate(config)
    assert config.sweep.seed == 5
    classifier = PRESETS.load_classifier(Options(preset))
    assert classifier.model.kind == 'classifier'
    assert classifier.data.num_classes == config.data.num_classes
    steps = {'paper': {400_000, 2_700_000}, 'digits': {450}, 'tiny': {40}}[preset]
    assert config.train.steps in steps
    if preset != 'paper':
        assert classifier.train.steps == config.train.steps
        assert classifier.data.image_size == config.data.image_size
    if preset != 'digits':
        assert config.sweep.inception == '/weights.npz'
    if preset == 'tiny':
        assert (config.data.name, config.data.num_classes) == ('/data/set/1.0.0', 200)


@pytest.mark.parametrize('variant', ['', ':small', ':guide', ':classifier', '_small', '_guide'])
def test_sizes_of_the_real_images(elsewhere, variant):
    """At toy size every config is the toy of its kind; names of files of earlier releases too."""
    path = SIZES.CONFIG + variant if ':' in variant else f'{SIZES.CONFIG[:-3]}{variant}.py'
    gpu, toy = (SIZES.load(Options(size), path, ['--config.seed=5']) for size in SIZES.PRESETS)
    assert gpu.model.kind == toy.model.kind == ('classifier' if 'class' in variant else 'unet')
    assert (gpu.train.batch_size, toy.train.batch_size) == (256, 16)
    assert (gpu.data.num_workers, toy.data.num_workers) == (14, 0)
    assert gpu.seed == toy.seed == 5
    assert gpu.data.num_classes == toy.data.num_classes == 200


@pytest.fixture
def quickstart(elsewhere, tmp_path, monkeypatch):
    """Runs the quick start without its work: (config, command on the page)."""
    trained, commands = [], []
    monkeypatch.setattr(loop, 'train', lambda config, workdir: trained.append(config))
    monkeypatch.setattr(sweep, 'run', lambda config, workdir: tmp_path)
    monkeypatch.setattr(page, 'write', lambda runs, out, command: commands.append(command) or out)
    (tmp_path / 'table.md').write_text('')

    def quickstart(*argv):
        experiment('quickstart').main(argv)
        return trained[-1], commands[-1]

    return quickstart


def test_the_quick_start_finds_its_config(quickstart):
    config, _ = quickstart()
    assert config.data.name == 'digits'


def test_the_page_of_the_quick_start_names_its_command(quickstart):
    """`make quickstart` only where that makes the same page."""
    called = re.search(r'quickstart.py (\S+)', (ROOT / 'Makefile').read_text())[1]
    default = called.replace('$(WORKDIR)', 'runs/quickstart')
    assert {quickstart()[1], quickstart(default)[1]} == {'make quickstart'}
    given = ('--workdir=a b', '--config.train.steps=7')
    config, command = quickstart(*given)
    assert config.train.steps == 7
    assert shlex.split(command) == ['python', 'experiments/quickstart.py', *given]


@pytest.mark.parametrize(
    ('command', 'words'),
    [
        ('ablations.py --config.p_uncond=0.3', 'p_uncond=0.3 is passed over'),
        ('ablations.py --config.sampler.num_steps=9', 'num_steps=9 is passed over'),
        ('ablations.py --config.sampler.clip=False', 'clip=False is passed over'),
        ('failures.py --config.sweep.seed=3', 'seed=3 is passed over'),
        ('classifier_guidance.py --config.sampler.name=ddim', 'name=ddim is passed over'),
        ('classifier_guidance.py --config.sweep.w=(0.0,)', 'give --w'),
        ('classifier_guidance.py --ratios=0.5', 'at least 1; got 0.5'),
        ('ablations.py --config.sweep.w=(0.0,)', 'sweep.w=(0.0,) is passed over'),
        ('ablations.py --config.guidance.rule=independent', 'rule=independent is passed over'),
        ('ablations.py -config.p_uncond=0.3', 'p_uncond=0.3 is passed over'),
        ('table2.py --preset=digits --config.sampling.num_steps=9', 'num_steps=9 is passed over'),
        ("ablations.py --config.sweep.metrics=('fid',)", 'lacks is'),
        (
            "classifier_guidance.py --preset=digits --config.sweep.metrics=('is',)",
            'lacks fid',
        ),
        ('guidance_zoo.py --config.sweep.labels=uniform', 'labels=uniform is passed over'),
        ('guidance_zoo.py --guide=runs/x', '--guide goes with --model'),
        ('guidance_zoo.py --classifier=runs/x', '--classifier goes with --model'),
    ],
)
def test_what_would_be_passed_over_is_refused(tmp_path, capsys, command, words):
    """Before anything is trained."""
    name, *arguments = command.split(' ')
    root = tmp_path / 'root'
    status, _, errors = run_here(capsys, f'experiments/{name}', *arguments, f'--root={root}')
    assert status == 2
    assert words in errors[0]
    assert not root.exists()


@pytest.mark.parametrize('name', ['ablations', 'failures'])
def test_features_that_do_not_know_the_classes_are_refused(tmp_path, monkeypatch, capsys, name):
    """Before anything is trained: agreement with the classes stands in the results."""
    monkeypatch.setattr(EXTRACTORS, 'load', lambda features: lambda config, root: Means())
    monkeypatch.setattr(loop, 'train', None)
    root = tmp_path / 'root'
    status, _, errors = run_here(capsys, f'experiments/{name}.py', f'--root={root}')
    assert status == 2
    assert "'means' do not know the classes of the data set" in errors[-1]
    assert 'sweep.features=classifier' in errors[-1]
    assert not root.exists()


@pytest.mark.parametrize('change', ['train.optimizer=muon', 'model.patch=2'])
def test_what_the_peer_does_otherwise_is_not_compared(tmp_path, capsys, change):
    (tmp_path / 'guided_diffusion').mkdir()
    (tmp_path / 'guided_diffusion' / 'unet.py').write_text('')
    command = ['scripts/bench_peers.py', f'--peer={tmp_path}', '--python=/nowhere/python']
    command += [f'--config={ROOT}/configs/imagenet64.py', f'--config.{change}']
    status, _, errors = run_here(capsys, *command)
    assert status == 2
    assert f'the peer has {change.partition("=")[0]}=' in errors[0]
