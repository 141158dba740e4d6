"""Every shell block of README.md, CONTRIBUTING.md and docs/ runs, by bash, where programs are
recorders; each command that they record is run then, or checked as far as its options.

Commands of a few seconds whose files are here run. Others need ImageNet, weights, a cloud or
hours: their own parser takes their arguments, and their config, fields, rules and presets exist.
"""

import importlib.metadata
import re
from pathlib import Path

import pytest
from pages import blocks, pages
from PIL import Image
from recorder import Machine
from support import DIGITS, ROOT, experiment, make_tiny_config, script, toy_instead_of_networks

from cfg_jax import cli, config_files, inference
from cfg_jax.evaluation import sweep
from cfg_jax.metrics.features import classifier
from cfg_jax.pretrained import presets
from cfg_jax.training import loop

QUICK = {'sample.py', 'report.py', 'export.py', 'claims.py'}
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
# By commands that run, so that their choice is known to find them.
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
def toys():
    """Toy networks, which compile at once."""
    with toy_instead_of_networks():
        yield


@pytest.fixture(scope='module')
def place(toys, tmp_path_factory):
    """A machine with the files that the quick commands name, where nothing but recorders runs."""
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
    run = root / 'runs' / 'quickstart'
    loop.train(make_tiny_config(), run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, '_EPOCHS', 1)  # nobody looks at its numbers
        sweep.run(make_tiny_config(), run)
    (root / 'runs' / 'digits').symlink_to('quickstart')
    (root / 'inception.npz').touch()  # for `--copy`
    for name in ('seven.png', 'half.png'):
        Image.linear_gradient('L').resize((8, 8)).save(root / name)
    return machine


def recorded(machine, texts):
    """The commands of shell blocks, [program, argument, ...]."""
    machine.forget()
    done = machine.run('-euc', '\n'.join(texts))
    assert done.returncode == 0, done.stderr
    return machine.calls()


def main_of(path):
    """The `main(argv)` of a command of scripts/ or experiments/."""
    folder, name = Path(path).parts
    assert (ROOT / path).is_file(), path
    return (script(name) if folder == 'scripts' else experiment(Path(name).stem)).main


def parsed(main, arguments):
    """What its parser makes of a command's arguments."""
    parse = cli.Parser.parse_args

    def stop(parser, *given):
        raise Parsed(parse(parser, *given))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed) as caught:
        patch.setattr(cli.Parser, 'parse_args', stop)
        main(arguments)
    return caught.value.args[0]


def check_options(path, options, arguments):
    """Raises unless config, fields, rule, sampler, grid and preset exist."""
    overrides = [argument for argument in arguments if argument.startswith('--config.')]
    config = getattr(options, 'config', None) or 'configs/imagenet64.py'
    config_files.load_config(config, overrides)
    if path.startswith('scripts/') and getattr(options, 'preset', None):
        assert options.preset in presets.PRESETS
    if hasattr(options, 'guidance'):
        options.preset = options.decoder = None
        config = config_files.load_config(DIGITS)
        cli.apply_model_options(config, options)
        inference.make_rule(config)
        inference.make_sampler(config)


def files_of(arguments):
    """The files and directories that a command reads, and those that it writes."""
    reads, writes = [], []
    for argument in arguments:
        value = argument.partition('=')[2] or argument
        if argument.startswith('--out='):
            writes.append(Path(value))
        elif re.fullmatch(r'.*/.*|.*\.[a-z]\w*', value):
            reads.append(Path(value))
    return reads, writes


def check_python(arguments, done):
    """Runs or checks `python ARGUMENTS`; `done` has those that have been."""
    if arguments[:2] == ['-m', 'pytest']:
        assert all((ROOT / path).exists() for path in arguments[2:]), arguments
        return
    # Two names of one run here.
    command = [argument.replace('runs/quickstart', 'runs/digits') for argument in arguments]
    if arguments[:2] == ['-m', 'venv'] or command in done:
        return
    done.append(command)
    path, *arguments = arguments
    main = main_of(path)
    check_options(path, parsed(main, arguments), arguments)
    reads, writes = files_of(arguments)
    if Path(path).name in QUICK and all(file.exists() for file in reads):
        main(arguments)
        assert all(file.exists() for file in writes), path


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
    """Commands of python that have been checked: pages repeat them."""
    return []


@pytest.mark.parametrize('name', SHELL)
def test_the_shell_of_a_page_is_right(name, place, done, monkeypatch):
    calls = recorded(place, SHELL[name])
    assert calls
    monkeypatch.chdir(place.root)
    for program, *arguments in calls:
        check(program, arguments, done)
    assert all((place.root / file).exists() for file in WRITTEN.get(name, ()))


def test_no_block_is_left_out():
    """Python of README.md and extending.md is executed by their tests, other by test_site.py."""
    for name, page in PAGES.items():
        for block in blocks(page):
            adds = name == 'extending.md' and block.info.startswith('python ')
            assert adds or block.info in {'', 'python', *UNCHECKED}, f'{name}: {block.info}'
