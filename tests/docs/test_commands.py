"""Every shell block of README.md, CONTRIBUTING.md and docs/ runs, by bash, where programs are
recorders; each command of Python that they record runs then, in this process, in a toy world.

What does not run here is named: commands whose own test runs them, and what needs another machine.
"""

import importlib.metadata
import re
import shlex
from pathlib import Path

import pytest
from pages import blocks, pages
from recorder import Machine
from support import ROOT
from toy_world import located, main_of, world

from cfg_jax import cli, config_files

# What takes longer than most of the rest together, or does not end, by the test that runs it; the
# first where XLA's compilers for TPUs and GPUs are.
OWN_TESTS = {
    'scripts/compile_for.py': 'perf/test_topologies.py::test_the_digits_compile',
    'scripts/explore.py': 'explorer/test_command.py::test_it_serves_until_interrupted',
    'experiments/failures.py': 'experiments/test_failures.py::test_the_command',
    'experiments/figure2.py': 'experiments/test_figure2.py::test_command_writes_everything',
    'experiments/classifier_guidance.py': (
        'experiments/test_guidance_methods.py::test_one_command_shows_all_methods_with_their_cost'
    ),
    'experiments/figures_samples.py': 'experiments/test_figures_samples.py::test_command',
    # With fakes for training and sweep there; the same commands for ImageNet run here.
    'experiments/table1.py --preset=digits': (
        'experiments/test_paper_tables.py::test_table1_runs_three_models'
    ),
    'experiments/table2.py --preset=digits': (
        'experiments/test_paper_tables.py::test_table2_samples_one_model_three_ways'
    ),
}
# What no test runs, by what it needs; its options are checked.
UNTESTED = {'scripts/bench_peers.py': 'PyTorch, and a clone of another repository'}
# Programs of others, by what their commands do not show without their service.
ELSEWHERE = {'squeue': 'Slurm', 'scancel': 'Slurm', 'tail': 'the log of a job of Slurm'}
# Blocks in another language, and what runs them.
UNCHECKED = {'dockerfile': 'Docker'}
# What bash and the launchers need.
PROGRAMS = ('bash', 'env', 'dirname', 'sed', 'awk', 'cut', 'cat')
LAUNCHERS = ('launch_tpu.sh', 'launch_slurm.sh', 'launch_jobset.sh')
# A launcher says what it would do, then its command is recorded.
LAUNCH = """
set -- "${@/#--check/--dry-run}"
bash @SCRIPT@ --dry-run "$@" || exit
while (($#)) && [[ $1 != -- ]]; do shift; done
"${@:2}"
"""
# What pages take for granted, by what makes it where no page has before.
MADE_BEFORE = {
    'runs/digits': 'scripts/train.py --config=configs/digits.py --workdir=runs/digits',
    'runs/in64': (
        'scripts/train.py --config=configs/imagenet64.py --workdir=runs/in64'
        ' --config.data.data_dir=/data/tfds'
    ),
    'runs/in64-guide': (
        'scripts/train.py --config=configs/imagenet64.py --workdir=runs/in64-guide'
        ' --config.data.data_dir=/data/tfds'
    ),
    'runs/in64/sweep/plain': (
        'scripts/sweep.py --model=runs/in64 --inception=inception.npz --name=plain'
    ),
    'runs/in64/sweep/interval': (
        'scripts/sweep.py --model=runs/in64 --inception=inception.npz --name=interval'
        ' --guidance=interval:highest=5'
    ),
}
# By commands of a page, beside what they name as --out or --workdir.
WRITTEN = {
    'README.md': ('grid.png', 'report.html', 'digits.safetensors', 'MODEL_CARD.md'),
    'sampling.md': ('grid.png',),
    'seeing.md': ('named.png', 'forming.webp', 'growing.webp'),
}
PAGES = {page.name: page for page in pages()}
SHELL = {
    name: found
    for name, page in PAGES.items()
    if (found := [block.text for block in blocks(page) if not block.info])
}


class Parsed(Exception):
    """The options of a command, which goes no further."""


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A machine where nothing but recorders runs, and the toy world in its directory."""
    machine = Machine(tmp_path_factory.mktemp('commands'))
    root = machine.root
    for name in LAUNCHERS:
        machine.play(name, LAUNCH.replace('@SCRIPT@', str(machine.scripts / name)))
    for name in ('make', 'pip', 'python', 'python3', *ELSEWHERE):
        machine.play(name)
    machine.only(*PROGRAMS)
    (root / 'scripts').symlink_to('bin')
    (root / '.venv').mkdir()
    (root / '.venv' / 'bin').symlink_to('../bin')
    (root / 'configs').symlink_to(ROOT / 'configs')
    with world(root):
        yield machine


def recorded(machine, texts):
    """The commands of shell blocks, [program, argument, ...]."""
    machine.forget()
    done = machine.run('-euc', '\n'.join(texts))
    assert done.returncode == 0, done.stderr
    return machine.calls()


def parsed(main, arguments):
    """What its parser makes of a command's arguments."""
    parse = cli.Parser.parse_args

    def stop(parser, *given):
        raise Parsed(parse(parser, *given))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed) as caught:
        patch.setattr(cli.Parser, 'parse_args', stop)
        main(arguments)
    return caught.value.args[0]


def own_test(path, arguments):
    """The test out of OWN_TESTS that runs such a command; None for one that is to run here."""
    words = {path, *arguments}
    return next((test for key, test in OWN_TESTS.items() if set(key.split()) <= words), None)


def check_unrun(path, arguments):
    """Raises unless a command's parser takes its arguments, and its config exists."""
    options = parsed(main_of(path), arguments)
    if getattr(options, 'config', None):
        overrides = [argument for argument in arguments if argument.startswith('--config.')]
        config_files.load_config(options.config, overrides)


def run(path, arguments, done):
    """Runs a command, after what makes the runs that it names; `done` has those that have been."""
    for name, command in MADE_BEFORE.items():
        named = any(re.fullmatch(f'(--(model|guide)=)?{name}', each) for each in arguments)
        if named and not Path(name).exists():
            run_once(*shlex.split(command), done=done)
    main_of(path)(arguments)
    for argument in arguments:
        option, _, value = argument.partition('=')
        assert option not in {'--out', '--workdir', '--root'} or Path(value).exists(), argument


def run_once(path, *arguments, done):
    """Runs a command, or checks one that does not run here, unless it is among those of `done`."""
    # Two names of one run here: test_cli.py has the quick start.
    arguments = [each.replace('runs/quickstart', 'runs/digits') for each in located(arguments)]
    command = [path, *arguments]
    if command in done:
        return
    done.append(command)
    if own_test(path, arguments) or path in UNTESTED:
        check_unrun(path, arguments)
    else:
        run(path, arguments, done)


def check_python(arguments, done):
    """Runs or checks `python ARGUMENTS`."""
    if arguments[:2] == ['-m', 'pytest']:
        assert all((ROOT / path).exists() for path in arguments[2:]), arguments
    elif arguments[:2] != ['-m', 'venv']:
        run_once(*arguments, done=done)


def check(program, arguments, done):
    """Raises where a command of a page is not right."""
    if program.startswith('python'):
        check_python(arguments, done)
    elif program == 'pip':
        extras = importlib.metadata.metadata('cfg_jax').get_all('Provides-Extra')
        for extra in re.findall(r'\[(.*)\]', ' '.join(arguments)):
            assert extra in extras
    elif program == 'make':
        targets = re.findall(r'^(\w+):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
        assert {target for target in arguments if '=' not in target} <= set(targets)
    else:
        assert program in {*LAUNCHERS, *ELSEWHERE}


@pytest.fixture(scope='module')
def done():
    """Commands of python that have run or been checked: pages repeat them."""
    return []


@pytest.mark.parametrize('name', SHELL)
def test_the_shell_of_a_page_is_right(name, place, done, monkeypatch):
    calls = recorded(place, SHELL[name])
    assert calls
    monkeypatch.chdir(place.root)
    for program, *arguments in calls:
        check(program, arguments, done)
    assert all((place.root / file).exists() for file in WRITTEN.get(name, ()))


@pytest.mark.parametrize('test', OWN_TESTS.values())
def test_commands_that_do_not_run_here_have_a_test(test):
    path, _, name = test.partition('::')
    assert f'\ndef {name}(' in (ROOT / 'tests' / path).read_text()


def test_no_block_is_left_out():
    """Python of README.md and extending.md is executed by their tests, other by test_site.py."""
    for name, page in PAGES.items():
        for block in blocks(page):
            adds = name == 'extending.md' and block.info.startswith('python ')
            assert adds or block.info in {'', 'python', *UNCHECKED}, f'{name}: {block.info}'
