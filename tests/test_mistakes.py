"""Mistakes of a user: each ends in one line of error, and leaves nothing behind."""

import concurrent.futures
import json
import shutil

import pytest
from support import DIGITS, checkpoint_steps, run_here, run_script, tiny_arguments

from cfg_jax import files
from cfg_jax.distributed import multihost

# id: script, arguments ({...} filled in by `outcomes`), words that the error must hold.
MISTAKES = {
    'no_config_option': ('train.py --workdir={new}', ['--config']),
    'no_workdir_option': ('train.py --config={digits}', ['--workdir']),
    'no_such_config': (
        'train.py --config=configs/digit.py --workdir={new}',
        ['configs/digit.py', 'digits.py'],
    ),
    'report_of_nothing': ('report.py {new} --out={new}.html', ['does not exist', 'a sweep']),
    'misspelt_option': ('sweep.py --workdir={run} --num_sample=10', ['--num_sample=10', '--help']),
    'misspelt_field': (
        'train.py --config={digits} --workdir={new} --config.p_uncnd=0.2',
        ["'p_uncnd'", "did you mean 'p_uncond'?"],
    ),
    'field_out_of_range': (
        'train.py --config={digits} --workdir={new} --config.p_uncond=1.5',
        ['p_uncond', '[0, 1]', '1.5'],
    ),
    'field_of_another_type': (
        'train.py --config={digits} --workdir={new} --config.train.steps=many',
        ['train.steps'],
    ),
    'image_size': (
        'train.py --config={digits} --workdir={new} --config.data.image_size=9',
        ['data.image_size=9', 'model.channel_mult'],
    ),
    'batch_over_devices': (
        'train.py --config={digits} --workdir={new} --config.train.batch_size=10',
        ['train.batch_size=10', '4 devices'],
    ),
    'unknown_data_set': (
        'train.py --config={digits} --workdir={new} --config.data.name=digit',
        ["'digit'", "did you mean 'digits'?"],
    ),
    'unprepared_data_set': (
        'train.py --config={digits} --workdir={new} --config.data.name=mnist',
        ['mnist', 'scripts/prepare_data.py --name=mnist'],
    ),
    'tfrecord': (
        'train.py --config={digits} --workdir={new} --config.data.name={tfrecord}',
        ['{tfrecord}', 'tfrecord', 'convert_format'],
    ),
    'wrong_classes': (
        'train.py --config={digits} --workdir={new} --config.data.num_classes=7',
        ['data.num_classes=7', '10 classes'],
    ),
    'train_into_foreign_directory': (
        'train.py --config={digits} --workdir={foreign}',
        ['{foreign}', 'not empty'],
    ),
    'train_into_a_file': ('train.py --config={digits} --workdir={foreign}/notes', ['is a file']),
    'contradiction': (
        'train.py --config={digits} --workdir={run} {tiny} --config.p_uncond=0.3',
        ['{run}', 'p_uncond: 0.1 -> 0.3'],
    ),
    'missing_archives': (
        'prepare_data.py --name=imagenet2012 --data_dir={empty} --manual_dir={empty}',
        ['ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar', '{empty}', '--manual_dir'],
    ),
    'prepare_unknown': ('prepare_data.py --name=imagnet2012', ["did you mean 'imagenet2012"]),
    'sweep_of_empty_directory': ('sweep.py --workdir={empty}', ['{empty}', 'scripts/train.py']),
    'sweep_of_foreign_directory': ('sweep.py --workdir={foreign}', ['{foreign}']),
    'sweep_without_checkpoint': ('sweep.py --workdir={young}', ['{young}', 'checkpoint']),
    'sweep_negative_samples': (
        'sweep.py --workdir={run} --num_samples=-5',
        ['num_samples', '-5'],
    ),
    'sweep_w': ('sweep.py --workdir={run} --w=abc', ['--w', "'abc'", '0,0.1,0.5']),
    'sweep_w_nan': ('sweep.py --workdir={run} --w=0,nan', ['--w', '0,nan']),
    'sampler_steps': (
        'sweep.py --workdir={run} --sampler=ddim:num_steps=4 --num_steps=6',
        ['ddim:num_steps=4', '--num_steps'],
    ),
    'sweep_sampler': ('sweep.py --workdir={run} --sampler=eulr', ['eulr', 'ancestral', 'ddim']),
    'sweep_metric': ('sweep.py --workdir={run} --metrics=fud', ['fud', 'fid', 'precision']),
    'sweep_without_weights': (
        'sweep.py --workdir={run} --features=inception',
        ['RGB', "'classifier'"],
    ),
    'sample_of_empty_directory': ('sample.py --workdir={empty} --labels=1', ['{empty}']),
    'sample_of_missing_directory': ('sample.py --workdir={new} --labels=1', ['{new}']),
    'sample_label': (
        'sample.py --workdir={run} --labels=3,10',
        ['label 10', '0..9'],
    ),
    'sample_labels': ('sample.py --workdir={run} --labels=three', ["'three'", '0..9']),
    'sample_w': ('sample.py --workdir={run} --labels=1,2,3 --w=1,2', ['--w', '3']),
    'sample_large_seed': (
        'sample.py --workdir={run} --labels=1 --seed=4294967296',
        ['--seed', '4294967296', '2^32'],
    ),
    'sweep_large_seed': ('sweep.py --workdir={run} --seed=4294967296', ['--seed', '2^32']),
    'negative_labels': ('sample.py --workdir={run} --labels=1,-2', ['label -2', '0..9']),
    'workers': ('bench_input.py --config={digits} --workers=0,-1', ['--workers', '0,-1']),
    'bench_w': ('bench_sample.py --config={digits} --w=nan', ['--w', "'nan'"]),
    'bench_rounds': ('bench_train.py --config={digits} --rounds=0', ['--rounds', "'0'"]),
    'bench_seconds': ('bench_input.py --config={digits} --seconds=inf', ['--seconds', "'inf'"]),
    'utilisation': ('describe.py --config={digits} --utilisation=0', ['--utilisation', "'0'"]),
    'coordinator': (
        'train.py --config={digits} --workdir={new} --coordinator=host:abc --num_processes=2'
        ' --process_id=0',
        ['--coordinator=HOST:PORT', 'host:abc'],
    ),
    'config_that_raises': (
        'train.py --config={raising} --workdir={new}',
        ['{raising}', 'line 5', 'ZeroDivisionError: division by zero'],
    ),
    'config_that_exits': (
        'train.py --config={exiting} --workdir={new}',
        ['{exiting}', 'line 5', 'SystemExit: 3'],
    ),
    'memory': (
        'train.py --config={digits} --workdir={new} --config.train.batch_size=4000000000000',
        ['train.batch_size=4000000000000', 'GiB', 'train.grad_accum=2'],
    ),
    'sample_seed': ('sample.py --workdir={run} --labels=1 --seed=-1', ['--seed', '-1']),
    'sample_out': ('sample.py --workdir={run} --labels=1 --out={empty}', ['.png', '{empty}']),
    'sample_jpeg': ('sample.py --workdir={run} --labels=1 --out=a.jpg', ['.png', 'a.jpg']),
    'sample_animated_png': (
        'sample.py --workdir={run} --labels=1 --animate=w --out=a.png',
        ['.webp', 'a.png'],
    ),
    # Models and images that are not there come later than where results would go.
    'sample_into_a_directory': (
        'sample.py --model={new} --labels=1 --out={folder}',
        ['{folder} is a directory'],
    ),
    'animation_below_a_file': (
        'sample.py --model={new} --labels=1 --animate=w --out={foreign}/notes/a.webp',
        ['{foreign}/notes is a file'],
    ),
    **{
        f'{command.split()[0]}_below_a_file': (command, ['{foreign}/notes is a file'])
        for command in (
            'sample.py --model={new} --labels=1 --out={foreign}/notes/a.png',
            'report.py {new} --out={foreign}/notes/a.html',
            'export.py --model={new} --out={foreign}/notes/b/a.safetensors',
            'import_checkpoint.py {new} --out={foreign}/notes/a.safetensors',
            'evaluate.py {new} {new} --inception={new} --out={foreign}/notes/a.json',
            'validate.py --model={new} --out={foreign}/notes/a.json',
            'reference_stats.py --config={digits} --inception={new} --out={foreign}/notes/a.npz',
            'convert_inception.py {new} {foreign}/notes/a.npz',
            'bench_train.py --config={digits} --out={foreign}/notes/a.json',
            'bench_sample.py --config={digits} --out={foreign}/notes/a.json',
        )
    },
    'report_pdf': ('report.py {run} --out=a.pdf', ['.html', 'a.pdf']),
    'sample_step': ('sample.py --workdir={run} --labels=1 --step=4', ['step 4', '3, 6']),
    'unknown_storage': ('sample.py --workdir=gcs://bucket/run --labels=1', ['gs://']),
    'no_topology': ('compile_for.py --config={digits}', ['--topology', 'v5p:2x2x1']),
    'no_program': (
        'compile_for.py --config={digits} --topology=h100:8 --programs=sweep',
        ['training and sampling', 'sweep'],
    ),
    'no_policy': (
        'compile_for.py --config={digits} --topology=h100:8 --remat=some',
        ['none, convolutions, blocks', 'some'],
    ),
    'tables_and_config': (
        'compile_for.py --config={digits} --tables=docs/launching.md',
        ['--config and --topology, or --tables'],
    ),
    'accelerator': ('describe.py --config={digits} --accelerator=b900', ['a100', 'tpu-v4']),
    'two_throughputs': (
        'describe.py --config={digits} --accelerator=a100 --images_per_second=5',
        ['--accelerator', '--images_per_second'],
    ),
    'images_per_second': (
        'describe.py --config={digits} --images_per_second=-1',
        ['--images_per_second', '-1'],
    ),
}


# These run as a user runs them; 'batch_over_devices' needs four devices.
IN_PROCESSES = (
    'no_config_option',
    'misspelt_field',
    'batch_over_devices',
    'tfrecord',
    'sweep_without_checkpoint',
    'sample_label',
)


def run_together(calls):
    """Runs {id: (script, *arguments)} on two cores; returns {id: (status, stdout, stderr)}."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        jobs = {name: pool.submit(run_script, *call) for name, call in calls.items()}
        return {name: job.result() for name, job in jobs.items()}


@pytest.fixture(scope='module')
def places(trained_workdir, digits_dir, tmp_path_factory):
    """What the {...} of MISTAKES stand for."""
    root = tmp_path_factory.mktemp('places')
    (root / 'empty').mkdir()
    (root / 'folder.png').mkdir()
    (root / 'foreign').mkdir()
    (root / 'foreign' / 'notes').write_text('mine')
    young = shutil.copytree(trained_workdir, root / 'young')
    for step in checkpoint_steps(young):
        shutil.rmtree(young / 'checkpoints' / str(step))
    raising = root / 'raising.py'
    raising.write_text('x = 0\n\n\ndef get_config():\n    return 1 / x\n')
    exiting = root / 'exiting.py'
    exiting.write_text('import sys\n\n\ndef get_config():\n    sys.exit(3)\n')
    tfrecord = shutil.copytree(digits_dir, root / 'tfrecord' / '1.0.0')
    info = json.loads((tfrecord / 'dataset_info.json').read_text())
    (tfrecord / 'dataset_info.json').write_text(json.dumps(info | {'fileFormat': 'tfrecord'}))
    return {
        'digits': DIGITS,
        'tiny': ' '.join(tiny_arguments()).replace(', ', ','),
        'new': root / 'new',
        'empty': root / 'empty',
        'folder': root / 'folder.png',
        'raising': raising,
        'exiting': exiting,
        'foreign': root / 'foreign',
        'young': young,
        'run': trained_workdir,
        'tfrecord': tfrecord,
    }


@pytest.fixture(scope='module')
def outcomes(places):
    """Mistakes made in processes of their own, as a user makes them; two at a time."""
    flags = '--xla_force_host_platform_device_count=4'
    return run_together(
        {name: (flags, *MISTAKES[name][0].format(**places).split()) for name in IN_PROCESSES}
    )


@pytest.mark.parametrize('name', MISTAKES)
def test_mistake_ends_in_one_line(outcomes, places, capfd, name):
    if name in IN_PROCESSES:
        status, stdout, stderr = outcomes[name]
        stdout, lines = stdout.splitlines(), stderr.splitlines()
    else:  # in this process: importing everything anew takes 5 s each time
        script, *arguments = MISTAKES[name][0].format(**places).split()
        status, stdout, lines = run_here(capfd, f'scripts/{script}', *arguments)
    assert status == 2, lines
    assert len(lines) == 1, lines
    assert lines[0].startswith('error: ')
    assert not any('Traceback' in line for line in stdout)
    for word in MISTAKES[name][1]:
        assert word.format(**places) in lines[0]


def test_mistakes_leave_nothing_behind(outcomes, places):
    """Runs after all of them."""
    assert not places['new'].exists()
    assert list(places['empty'].iterdir()) == []
    assert [path.name for path in places['foreign'].iterdir()] == ['notes']
    assert (places['foreign'] / 'notes').read_text() == 'mine'
    assert not (places['run'] / 'sweep').exists()
    config = json.loads((places['run'] / 'config.json').read_text())
    assert config['p_uncond'] == 0.1


def test_the_environment_wrong(capsys, monkeypatch):
    """Slurm's variables as srun sets them, one of them broken."""
    for name in multihost._SLURM:
        monkeypatch.setenv(name, '1')
    monkeypatch.setenv('SLURM_NTASKS', 'abc')
    status, _, errors = run_here(
        capsys, 'scripts/train.py', f'--config={DIGITS}', '--workdir=/nowhere/run'
    )
    assert status == 2
    assert errors == [
        "error: the environment variable SLURM_NTASKS must be a number of processes; got 'abc'"
    ]


def test_gs_without_its_package(capsys, monkeypatch):
    find = files.importlib.util.find_spec
    missing = ('gcsfs', 'tensorflow')
    monkeypatch.setattr(
        files.importlib.util, 'find_spec', lambda name: None if name in missing else find(name)
    )
    for script in ('sample.py --labels=1', 'sweep.py', f'train.py --config={DIGITS}'):
        name, *arguments = script.split()
        status, _, errors = run_here(
            capsys, f'scripts/{name}', '--workdir=gs://bucket/run', *arguments
        )
        assert status == 2
        assert len(errors) == 1
        assert 'pip install gcsfs' in errors[0]


def test_a_config_that_raises_keeps_its_traceback_for_debugging(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv('CFG_JAX_DEBUG', '')  # --debug sets it, for this process
    (tmp_path / 'raising.py').write_text('def get_config():\n    return {}["width"]\n')
    command = ('scripts/train.py', f'--config={tmp_path}/raising.py', '--workdir=/nowhere/run')
    _, _, short = run_here(capsys, *command)
    _, _, long = run_here(capsys, *command, '--debug')
    assert len(short) == 1
    assert "KeyError: 'width'" in short[0]
    assert 'Traceback (most recent call last):' in long
    assert any('return {}["width"]' in line for line in long)
    assert long[-1] == short[0]


def test_a_width_that_contradicts_the_checkpoint_is_one_line(trained_workdir, tmp_path, capfd):
    workdir = shutil.copytree(trained_workdir, tmp_path / 'run')
    config = json.loads((workdir / 'config.json').read_text())
    config['model']['width'] *= 2
    (workdir / 'config.json').write_text(json.dumps(config))
    for script in ('sample.py --labels=1', 'sweep.py'):
        name, *arguments = script.split()
        status, _, errors = run_here(capfd, f'scripts/{name}', f'--workdir={workdir}', *arguments)
        assert status == 2
        assert len(errors) == 1, errors
        assert 'does not fit the config: ema_params.' in errors[0]


def test_a_damaged_checkpoint_is_one_line(trained_workdir, tmp_path, capfd):
    workdir = shutil.copytree(trained_workdir, tmp_path / 'run')
    arrays = (workdir / 'checkpoints' / '6' / 'state' / 'd').iterdir()
    largest = max(arrays, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    for script in ('sample.py --labels=1', 'sweep.py'):
        name, *arguments = script.split()
        status, _, errors = run_here(capfd, f'scripts/{name}', f'--workdir={workdir}', *arguments)
        assert status == 2
        assert len(errors) == 1, errors
        assert f'{workdir}/checkpoints/6 cannot be read (' in errors[0]
