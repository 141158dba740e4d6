"""Every flag and name that the launchers give, word for word as the documentation has it.

Sources, all read again on 2026-11-26:

* gcloud: the command definitions of Google Cloud SDK 528.0.0 (June 2025), and stored copies of the
  reference that is made from them, https://cloud.google.com/sdk/gcloud/reference/compute/tpus
  (of May to October 2025). `accelerator-types` stands there twice: below `tpu-vm` for TPU VMs.
* Versions of TPU software: https://docs.cloud.google.com/tpu/docs/runtimes (a copy without a date,
  which says that the Cloud TPU API stops before TPU7x and only gets corrections).
* States of queued resources: https://docs.cloud.google.com/tpu/docs/queued-resources (likewise).
* Slurm: doc/man/man1 of https://github.com/SchedMD/slurm at slurm-26-05-3-1 (August 2026): sbatch,
  srun, scontrol, sinfo; earlier `man` of 22.05, which has the same flags.
* kubectl: `kubectl COMMAND --help` of 1.32.4.

JobSet's fields are in test_launchers.py.
"""

import re
import shlex

import pytest
from recorder import Machine, printed_calls

EVERYWHERE = {'--quiet', '--project', '--format'}
GCLOUD = {
    'tpu-vm create': {'--zone', '--accelerator-type', '--version', '--spot', '--data-disk'},
    'tpu-vm list': {'--zone'},
    'tpu-vm describe': {'--zone'},
    'tpu-vm delete': {'--zone'},
    'tpu-vm ssh': {'--zone', '--worker', '--command'},
    'tpu-vm scp': {'--zone', '--worker'},
    'queued-resources create': {
        *('--zone', '--node-id', '--accelerator-type', '--runtime-version', '--spot'),
        '--data-disk',
    },
    'queued-resources list': {'--zone'},
    'queued-resources delete': {'--zone', '--force'},
}
SOFTWARE = {
    'v6e-8': 'v2-alpha-tpuv6e',
    'v5p-8': 'v2-alpha-tpuv5',
    'v5litepod-8': 'v2-alpha-tpuv5-lite',
    'v4-8': 'tpu-ubuntu2204-base',
}
SBATCH = {
    *('--job-name', '--nodes', '--ntasks-per-node', '--cpus-per-task', '--time', '--partition'),
    *('--account', '--qos', '--output', '--open-mode', '--requeue', '--signal', '--gpus-per-node'),
}
SRUN = {'--kill-on-bad-exit', '--wait', '--open-mode', '--output', '--cpus-per-task'}
COMMAND = ['--', 'python', 'train.py', '--workdir=gs://b/in64']


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def dry_run(machine, name, *arguments):
    result = machine.run(machine.scripts / name, *arguments, '--dry-run', *COMMAND)
    assert result.returncode == 0, result.stderr
    return result.stdout


def tpu_calls(machine, verb, *flags):
    at = ['--name=in64', '--zone=us-central2-b', '--project=mine', *flags]
    return printed_calls(dry_run(machine, 'launch_tpu.sh', verb, *at), ['gcloud'])


@pytest.mark.parametrize('queued', [[], ['--queued']])
def test_every_flag_of_gcloud_is_documented(machine, queued):
    disk = '--create_flag=--data-disk=source=d,mode=read-only'
    calls = []
    for verb in ('run', 'status', 'logs', 'stop', 'delete'):
        calls += tpu_calls(machine, verb, '--type=v4-8', '--spot', disk, *queued)
    calls += tpu_calls(machine, 'logs', '--out=logs')
    for call in calls:
        assert call[:3] == ['gcloud', 'compute', 'tpus']
        flags = {word.partition('=')[0] for word in call[5:] if word.startswith('--')}
        assert flags <= GCLOUD[' '.join(call[3:5])] | EVERYWHERE, call
    used = {' '.join(call[3:5]) for call in calls}
    assert used >= {f'{"queued-resources" if queued else "tpu-vm"} {v}' for v in ('create', 'list')}


@pytest.mark.parametrize(('kind', 'software'), SOFTWARE.items())
def test_the_software_of_a_tpu(machine, kind, software):
    [create] = [c for c in tpu_calls(machine, 'run', f'--type={kind}') if c[4] == 'create']
    assert f'--accelerator-type={kind}' in create
    assert f'--version={software}' in create
    calls = tpu_calls(machine, 'run', f'--type={kind}', '--queued')
    [create] = [c for c in calls if c[4] == 'create']
    assert f'--runtime-version={software}' in create


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('v5e-8', 'gcloud calls --type=v5e-8 v5litepod-8'),
        ('tpu7x-8', '--type=tpu7x-8: gcloud ends with v6e; use Kubernetes'),
    ],
)
def test_a_name_that_gcloud_does_not_know(machine, kind, message):
    arguments = ['up', '--name=a', '--zone=z', f'--type={kind}', '--dry-run']
    result = machine.run(machine.scripts / 'launch_tpu.sh', *arguments)
    assert result.returncode == 2
    assert result.stderr == f'error: {message}\n'


def test_every_flag_of_slurm_is_documented(machine):
    places = ['--partition=p', '--account=a', '--qos=q', '--time=1:00:00']
    sizes = ['--nodes=1', '--gpus_per_node=8', '--cpus_per_task=8']
    text = dry_run(machine, 'launch_slurm.sh', '--job_name=in64', *places, *sizes)
    directives = re.findall(r'^#SBATCH (--[a-z-]+)', text, re.MULTILINE)
    assert set(directives) == SBATCH
    [srun] = [shlex.split(line) for line in text.splitlines() if line.startswith('srun ')]
    flags = srun[1 : srun.index('python')]
    assert {flag.partition('=')[0] for flag in flags} == SRUN


AT = ['--name=in64', '--zone=us-central2-b', '--project=mine', '--type=v6e-8']


def check(machine, *arguments, command=COMMAND):
    result = machine.run(machine.scripts / 'launch_tpu.sh', 'run', *AT, '--check', *arguments)
    assert not [call for call in machine.calls('gcloud') if 'create' in call]
    return result.returncode, result.stdout.splitlines()


def test_check_of_a_tpu_finds_all(machine):
    machine.play('gcloud', 'case "$*" in "auth list "*) echo me@here ;; esac')
    machine.play('ssh-add')
    (machine.root / 'inception.npz').touch()
    arguments = ['--copy=inception.npz', '--setup=mount', *COMMAND, '--inception=inception.npz']
    status, lines = check(machine, *arguments, '--config.data.data_dir=/data/tfds')
    assert status == 0
    assert [line.split()[0] for line in lines] == ['ok'] * 3 + ['look'] + ['ok'] * 3 + ['look']
    place = ['--quiet', '--zone=us-central2-b', '--project=mine']
    tpu_vm = ['gcloud', 'compute', 'tpus', 'tpu-vm']
    assert machine.calls('gcloud', 'ssh-add') == [
        ['gcloud', 'auth', 'list', '--filter=status:ACTIVE', '--format=value(account)'],
        [*tpu_vm, 'accelerator-types', 'describe', 'v6e-8', *place],
        ['gcloud', 'storage', 'buckets', 'describe', 'gs://b', '--format=value(name)'],
        ['ssh-add', '-L'],
    ]


def test_check_of_a_tpu_names_what_is_missing(machine):
    machine.play('gcloud', 'case "$*" in *describe*) exit 1 ;; esac')
    machine.play('ssh-add', 'exit 1')
    machine.play(
        'git', 'case "$*" in *start.safetensors | *inception.npz | *away*) exit 128 ;; esac'
    )
    arguments = [*COMMAND, '--inception=inception.npz', '--config.data.data_dir=/data/tfds']
    arguments += ['--config.train.start_from=start.safetensors', '--config.sweep.inception=/w.npz']
    arguments += ['--config.guidance.network=results/weak.safetensors']
    arguments += ['--guidance_network=away/guide', '--decoder=away/vae.pt', '--guide=away/2']
    arguments += ['--config.latent.decoder=away/3', '--googlenet=away/4', '--judge=away/5']
    arguments += ['--model=away/adm.safetensors', '--classifier=runs/trained_there']
    status, lines = check(machine, *arguments)
    assert 'ok       weights results/weak.safetensors, committed' in lines
    assert status == 2
    missing = [line.removeprefix('missing').strip() for line in lines if line[:7] == 'missing']
    expected = [
        'login',
        'v6e-8 in us',
        'bucket gs://b;',
        'a key',
        'weights inception',
        'weights away/4',
        'weights start.safetensors: they do not travel',
        'weights away/guide',
        'weights away/2',
        'weights away/5',
        'weights away/vae.pt',
        'weights away/3',
        'weights away/adm.safetensors',
        'data set /',
    ]
    for line, start in zip(missing, expected, strict=True):
        assert line.startswith(start)


def test_check_of_slurm(machine):
    machine.play('sbatch')
    machine.play('sinfo', 'pop partitions')
    command = ['--', 'python', 'train.py', f'--workdir={machine.root}/new/run']
    command += [f'--config.data.data_dir={machine.root}/tfds', f'--inception={machine.root}/w.npz']
    command += [f'--config.train.start_from={machine.root}/start']
    arguments = ['--job_name=in64', '--partition=gpu', '--check', *command]
    result = machine.run(machine.scripts / 'launch_slurm.sh', *arguments)
    assert result.returncode == 2
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ['missing', 'partition'],
        ['missing', f'{machine.scripts.parent}/.venv;'],
        ['missing', 'data'],
        ['missing', 'weights'],
        ['missing', 'weights'],
        ['ok', 'may'],
    ]
    machine.answer('partitions', 'gpu*')
    (machine.root / 'tfds').mkdir()
    (machine.root / 'w.npz').touch()
    (machine.root / 'start').mkdir()
    python = machine.scripts.parent / '.venv' / 'bin' / 'python'
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    arguments += ['--config.guidance.network=gs://b/weak']
    result = machine.run(machine.scripts / 'launch_slurm.sh', *arguments)
    assert result.returncode == 0, result.stderr
    assert 'look     weights gs://b/weak' in result.stdout.splitlines()
    sinfo = ['sinfo', '--noheader', '--partition=gpu', '--format=%P']
    assert machine.calls() == [sinfo, sinfo]  # and no sbatch


def test_check_of_slurm_reads_paths_as_the_command_does(machine):
    """From wherever it is called: the job runs in the checkout."""
    machine.play('sbatch')
    (machine.scripts.parent / 'tfds').mkdir()
    command = ['--job_name=in64', '--check', '--', 'train', '--config.data.data_dir=tfds']
    result = machine.run(machine.scripts / 'launch_slurm.sh', *command, cwd=machine.root)
    assert 'ok       data set tfds' in result.stdout.splitlines()
