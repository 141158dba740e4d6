"""`launch_tpu.sh` against a recorder in gcloud's place."""

import subprocess

import pytest
from recorder import Machine, error_of, printed_calls

STATE = (
    '--command=mkdir -p cfg_jax_run/files && if [ -e cfg_jax_run/tpu_worker.sh ]; then'
    ' bash cfg_jax_run/tpu_worker.sh state; fi'
)
PLACE = ['--quiet', '--zone=us-central2-b', '--project=mine']
AT = ['--name=in64', '--zone=us-central2-b', '--project=mine', '--poll=0']
COMMAND = ['python', 'train.py', '--workdir=gs://b/in64', '--config.a=(1, 2)', "it's", '"$HOME"']
GCLOUD = """
case "$*" in
  *" tpu-vm list "*) pop nodes ;;
  *" queued-resources list "*) pop requests ;;
  *" create "*) [[ ! -e $answers/create ]] || exit "$(pop create)" ;;
  *" describe "*) echo 2 ;;
  *worker.sh\\ state*) pop states ;;
esac
"""


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    machine.play('gcloud', GCLOUD)
    machine.play('git')
    return machine


def launch(machine, *arguments):
    return machine.run(machine.scripts / 'launch_tpu.sh', *arguments)


def run_spot(machine, *flags):
    arguments = ['run', *AT, '--type=v4-32', '--spot', *flags, '--', *COMMAND]
    return launch(machine, *arguments)


def tpu_call(*arguments):
    return ['gcloud', 'compute', 'tpus', *arguments]


def verbs(machine):
    """What was asked of gcloud, in order: 'list', 'create', ..., and 'start' for a command."""
    names = []
    for call in machine.calls('gcloud'):
        remote = call[-1].removeprefix('--command=')
        names.append(call[4] if call[4] != 'ssh' else remote.removesuffix('; fi').split(' ')[-1])
    return [name if name != '10' else 'start' for name in names]


def expected_run(machine):
    """Every gcloud call of a run that finds no TPU and whose command is done at the first look."""
    parcel = machine.scripts.parent / 'build' / 'launch_tpu' / 'in64'
    files = [str(parcel / n) for n in ('code.tar.gz', 'command.sh', 'setup.sh', 'tpu_worker.sh')]
    listing = tpu_call('tpu-vm', 'list', *PLACE, '--format=value(name.basename(),state)')
    ssh = tpu_call('tpu-vm', 'ssh', 'in64', *PLACE, '--worker=all')
    return [
        listing,
        tpu_call(
            *('tpu-vm', 'create', 'in64', *PLACE, '--accelerator-type=v4-32'),
            *('--version=tpu-ubuntu2204-base', '--tags=a b', '--spot'),
        ),
        listing,
        [*ssh, STATE],
        tpu_call('tpu-vm', 'scp', *files, 'in64:cfg_jax_run/', *PLACE, '--worker=all'),
        tpu_call('tpu-vm', 'scp', 'w.npz', 'in64:cfg_jax_run/files/', *PLACE, '--worker=all'),
        [*ssh, '--command=bash cfg_jax_run/tpu_worker.sh start 10'],
        [*ssh, STATE],
    ]


def test_a_run_makes_the_tpu_copies_starts_and_watches(machine):
    machine.answer('nodes', 'another READY', 'in64 READY')
    machine.answer('states', '', 'cfg_jax-state ended 0 5')
    (machine.root / 'w.npz').touch()
    flags = ['--copy=w.npz', '--create_flag=--tags=a b', '--setup=mount "the disk"']
    result = run_spot(machine, *flags)
    assert result.returncode == 0, result.stderr
    assert machine.calls('gcloud') == expected_run(machine)
    parcel = machine.scripts.parent / 'build' / 'launch_tpu' / 'in64'
    assert machine.calls('git')[-1] == [
        *('git', '-C', str(machine.scripts.parent), 'archive', '--format=tar.gz'),
        *(f'--output={parcel / "code.tar.gz"}', 'HEAD'),
    ]
    assert (parcel / 'setup.sh').read_text() == 'mount "the disk"\n'
    assert (parcel / 'tpu_worker.sh').read_text() == (machine.scripts / 'tpu_worker.sh').read_text()


def test_the_dry_run_prints_what_the_run_runs_and_runs_nothing(machine):
    (machine.root / 'w.npz').touch()
    result = run_spot(machine, '--copy=w.npz', '--create_flag=--tags=a b', '--dry-run')
    assert result.returncode == 0
    assert printed_calls(result.stdout, ['gcloud']) == expected_run(machine)
    assert machine.calls('gcloud') == []
    assert not (machine.scripts.parent / 'build').exists()


def test_the_command_reaches_the_worker_word_by_word(machine):
    machine.answer('nodes', 'in64 READY')
    machine.answer('states', '', 'cfg_jax-state ended 0 5')
    assert run_spot(machine).returncode == 0
    machine.forget()
    machine.play('python')
    machine.run(machine.scripts.parent / 'build' / 'launch_tpu' / 'in64' / 'command.sh')
    assert machine.calls() == [COMMAND]


# States of a TPU that does not come back, 'unknown state after a failed repair' among them:
# google.cloud.tpu_v2.types.Node.State in cloud.google.com/python/docs/reference/tpu, 2026-11-27.
@pytest.mark.parametrize('state', ['PREEMPTED', 'TERMINATED', 'UNKNOWN'])
def test_a_lost_tpu_is_deleted_made_again_and_given_the_same_command(machine, state):
    gone = f'in64 {state}'
    machine.answer('nodes', 'in64 READY', gone, gone, '', '', 'in64 READY')
    machine.answer('states', '', 'cfg_jax-state running 5', '', 'cfg_jax-state ended 0 5')
    machine.answer('create', '1', '0')  # no capacity at first
    result = run_spot(machine)
    assert result.returncode == 0, result.stderr
    launched = ['state', 'scp', 'start', 'state']
    replaced = ['list', 'list', 'delete', 'list', 'create', 'list', 'create', 'list']
    assert verbs(machine) == ['list', *launched, *replaced, *launched]


def test_queued_resources_wait_and_come_back_after_preemption(machine):
    machine.answer(
        'requests', '', 'in64 WAITING_FOR_RESOURCES', 'in64 ACTIVE', 'in64 SUSPENDED',
        'in64 SUSPENDED', '', 'in64 ACTIVE',
    )  # fmt: skip
    machine.answer('nodes', 'in64 CREATING', 'in64 READY')
    machine.answer('states', '', 'cfg_jax-state running 5', '', 'cfg_jax-state ended 0 5')
    result = run_spot(machine, '--queued')
    assert result.returncode == 0, result.stderr
    calls = machine.calls('gcloud')
    create = tpu_call(
        *('queued-resources', 'create', 'in64', '--node-id=in64', *PLACE),
        *('--accelerator-type=v4-32', '--runtime-version=tpu-ubuntu2204-base', '--spot'),
    )
    assert calls.count(create) == 2
    assert tpu_call('queued-resources', 'delete', 'in64', *PLACE, '--force') in calls


def test_a_command_that_runs_is_left_alone_and_another_is_refused(machine):
    machine.answer('nodes', 'in64 READY')
    machine.answer('states', '', 'cfg_jax-state ended 0 5')
    assert run_spot(machine, '--detach').returncode == 0
    parcel = machine.scripts.parent / 'build' / 'launch_tpu' / 'in64'
    cksum = subprocess.run(['cksum'], stdin=(parcel / 'command.sh').open(), capture_output=True)
    number = cksum.stdout.decode().split()[0]
    machine.forget()
    machine.answer('states', f'cfg_jax-state running {number}', 'cfg_jax-state ended 0 5')
    assert run_spot(machine).returncode == 0
    assert verbs(machine) == ['list', 'state', 'state']
    machine.answer('states', 'cfg_jax-state running 12345')
    result = run_spot(machine)
    assert (result.returncode, result.stderr.count('error:')) == (2, 1)
    assert 'another command runs on in64' in result.stderr


@pytest.mark.parametrize('status', [2, 75, 134])
def test_a_command_that_failed_ends_the_run_with_its_status(machine, status):
    machine.answer('nodes', 'in64 READY')
    machine.answer('states', '', f'cfg_jax-state ended {status} 5')
    assert run_spot(machine).returncode == status
    assert verbs(machine) == ['list', 'state', 'scp', 'start', 'state', 'stop']


def test_a_rebooted_worker_gets_its_command_back(machine):
    machine.answer('nodes', 'in64 READY')
    machine.answer('states', '', 'cfg_jax-state none', '', 'cfg_jax-state ended 0 5')
    assert run_spot(machine).returncode == 0
    assert verbs(machine).count('start') == 2


def test_a_first_request_that_fails_ends_with_one_line(machine):
    machine.answer('create', '1')
    result = run_spot(machine)
    assert result.returncode == 2
    assert "error: creating in64 failed; gcloud's message stands above" in result.stderr


def test_status_logs_stop_and_delete(machine, tmp_path):
    ssh = tpu_call('tpu-vm', 'ssh', 'in64', *PLACE)
    worker = 'bash cfg_jax_run/tpu_worker.sh'
    machine.answer('nodes', 'in64 READY')
    machine.answer('states', 'cfg_jax-state running 5')
    result = launch(machine, 'status', *AT)
    assert result.stdout == 'in64: READY\nrunning 5\n'
    machine.forget()
    for arguments in (['logs', '--worker=3', '--lines=7'], ['stop'], ['delete']):
        assert launch(machine, *arguments, *AT).returncode == 0
    assert launch(machine, 'delete', '--queued', *AT).returncode == 0
    assert machine.calls('gcloud') == [
        [*ssh, '--worker=3', f'--command={worker} log 7'],
        [*ssh, '--worker=all', f'--command={worker} stop'],
        tpu_call('tpu-vm', 'delete', 'in64', *PLACE),
        tpu_call('queued-resources', 'delete', 'in64', *PLACE, '--force'),
    ]
    machine.forget()
    out = tmp_path / 'my logs'
    assert launch(machine, 'logs', f'--out={out}', *AT).returncode == 0
    scp = tpu_call('tpu-vm', 'scp', 'in64:cfg_jax_run/run.log')
    assert [call for call in machine.calls('gcloud') if call[4] == 'scp'] == [
        [*scp, f'{out}/worker-{i}.log', *PLACE, f'--worker={i}'] for i in range(2)
    ]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'say up, run'),
        (['run', '--zone=z'], '--name'),
        (['run', '--name=In64', '--zone=z'], "--name='In64'"),
        (['run', '--name=a'], '--zone is missing'),
        (['run', '--name=a', '--zone=z', '--', 'x'], '--type is missing'),
        (['run', '--name=a', '--zone=z', '--type=v9-8', '--', 'x'], 'no software is known'),
        (['run', '--name=a', '--zone=z', '--type=v4-8'], 'no command'),
        (['run', '--name=a', '--zone=z', '--type=v4-8', '--copy=no', '--', 'x'], '--copy=no'),
        (['stop', '--name=a', '--zone=z', '--poll=x'], '--poll=x'),
        (['stop', '--nam=a'], 'unknown argument --nam=a'),
    ],
)
def test_mistakes_end_in_one_line(machine, arguments, message):
    assert message in error_of(launch(machine, *arguments))
    assert machine.calls('gcloud') == []


def test_without_gcloud(tmp_path):
    machine = Machine(tmp_path)
    machine.only('bash', 'dirname')
    assert error_of(launch(machine, 'stop', '--name=a', '--zone=z')).startswith(
        'error: gcloud is not on PATH'
    )


@pytest.mark.parametrize(
    ('word', 'setup', 'note'),
    [
        ('--root=runs/t', '', 'note: --root=runs/t lies in ~/cfg_jax_run/code on each worker'),
        ('--root=runs/t', 'mount x', 'note: --root=runs/t lies in ~/cfg_jax_run/code on each wor'),
        ('--workdir=/t', '', 'note: --workdir=/t outlives the TPU only on a disk that --setup'),
        ('--workdir=/t', 'mount x', ''),
        ('--workdir=gs://b/t', '', ''),
    ],
)
def test_a_work_directory_on_the_workers_disk_is_remarked(machine, word, setup, note):
    machine.answer('nodes', 'in64 READY')
    arguments = ['run', *AT, '--type=v4-8', f'--setup={setup}', '--dry-run', '--', 'python', word]
    lines = launch(machine, *arguments).stderr.splitlines()
    notes = [line for line in lines if 'the TPU' in line]
    assert len(notes) == bool(note)
    assert not note or notes[0].startswith(note)
