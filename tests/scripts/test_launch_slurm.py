import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from recorder import Machine, error_of

COMMAND = ['python', 'train.py', '--workdir=/a b/c', "it's", '$HOME']


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    machine.play('sbatch')
    machine.play('srun', 'exit "$(pop statuses)"')
    machine.play('scontrol')
    machine.env['SLURM_JOB_ID'] = '17'
    return machine


def launch(machine, *arguments, command=COMMAND):
    return machine.run(machine.scripts / 'launch_slurm.sh', *arguments, '--', *command)


def submit(machine, *arguments):
    """Submits to the recorder; the batch script that it was given."""
    result = launch(machine, '--job_name=in64', *arguments)
    assert result.returncode == 0, result.stderr
    [[_, script]] = machine.calls('sbatch')
    machine.forget()
    return script


def directives(text):
    return [line.removeprefix('#SBATCH ') for line in text.splitlines() if '#SBATCH' in line]


def test_the_directives_are_those_asked_for(machine):
    logs = machine.scripts.parent / 'runs' / 'slurm'
    result = launch(
        machine,
        *('--job_name=in64', '--nodes=4', '--gpus_per_node=8', '--cpus_per_task=12'),
        *('--time=24:00:00', '--partition=gpu', '--account=us', '--qos=low', '--warn_seconds=300'),
        *('--sbatch=--exclusive', '--sbatch=--mem=64G', '--dry-run'),
    )
    assert directives(result.stdout) == [
        *('--job-name=in64', '--nodes=4', '--ntasks-per-node=8', '--cpus-per-task=12'),
        *('--time=24:00:00', '--partition=gpu', '--account=us', '--qos=low'),
        *(f'--output={logs}/in64-%j.log', '--open-mode=append', '--requeue', '--signal=TERM@300'),
        *('--exclusive', '--mem=64G', '--gpus-per-node=8'),
    ]
    assert machine.calls() == []


def test_the_dry_run_prints_what_is_submitted(machine):
    flags = ['--job_name=in64', '--tasks_per_node=2', '--setup=module load "a b"', '--logs=my logs']
    dry = launch(machine, *flags, '--dry-run')
    assert machine.calls() == []
    assert launch(machine, *flags).returncode == 0
    script = machine.scripts.parent / 'my logs' / 'in64.sbatch'
    assert machine.calls() == [['sbatch', str(script)]]
    text, _, command = dry.stdout.partition('\n\n# ')
    assert text + '\n' == script.read_text()
    assert shlex.split(command.splitlines()[-1]) == ['sbatch', str(script)]


def test_srun_gets_the_command_word_by_word(machine):
    script = submit(machine, '--cpus_per_task=3', '--warn_seconds=60', '--logs=my logs')
    machine.answer('statuses', '0')
    assert machine.run(script).returncode == 0
    logs = machine.scripts.parent / 'my logs'
    assert machine.calls() == [
        [
            *('srun', '--kill-on-bad-exit=0', '--wait=60', '--open-mode=append'),
            *(f'--output={logs}/in64-%j-%t.log', '--cpus-per-task=3', *COMMAND),
        ]
    ]


@pytest.mark.parametrize(
    ('statuses', 'requeues'),
    [
        ([0], 0),
        ([2], 0),
        ([75, 75, 75, 0], 3),
        ([1, 134, 0], 2),
        ([1, 1, 1], 2),  # two restarts are allowed
        ([1, 1, 75, 1, 1, 1], 5),  # in a row
    ],
)
def test_the_job_is_queued_again_as_the_status_says(machine, statuses, requeues):
    script = submit(machine, '--max_restarts=2')
    for status in statuses:
        machine.answer('statuses', str(status))
        assert machine.run(script).returncode == status
    assert machine.calls('scontrol') == [['scontrol', 'requeue', '17']] * requeues
    assert len(machine.calls('srun')) == len(statuses)


def test_a_crash_after_an_hour_begins_a_new_row(machine):
    script = Path(submit(machine, '--max_restarts=1'))
    script.write_text(script.read_text().replace('SECONDS < 3600', 'SECONDS < 0'))
    machine.answer('statuses', '1')
    for _ in range(4):
        machine.run(script)
    assert len(machine.calls('scontrol')) == 4


@pytest.mark.parametrize(
    ('job', 'requeued'),
    [
        ('Reason=None PreemptTime=None', False),  # scancel
        ('Reason=None', False),  # scancel where nothing preempts
        ('Reason=TimeLimit PreemptTime=None', True),
        ('Reason=None PreemptTime=2026-11-21T16:23:28', True),
    ],
)
def test_a_signalled_batch_shell_waits_for_the_tasks_and_tells_scancel(machine, job, requeued):
    script = submit(machine)
    machine.play('srun', 'touch "$answers/started"; sleep 0.5; exit 75')
    machine.play('scontrol', f'[[ $1 != show ]] || echo "{job}"')
    shell = subprocess.Popen(['bash', script], env=machine.env, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not (machine.root / 'answers' / 'started').exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    shell.send_signal(signal.SIGTERM)
    assert shell.wait(timeout=20) == 75
    requeue = ['scontrol', 'requeue', '17']
    show = ['scontrol', 'show', 'job', '17']
    assert machine.calls('scontrol') == ([show, requeue] if requeued else [show])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], '--job_name'),
        (['--job_name=a b'], "--job_name='a b'"),
        (['--job_name=a', '--nodes=0'], 'at least 1'),
        (['--job_name=a', '--nodes=two'], '--nodes=two'),
        (['--job_name=a', '--warn_seconds=90000'], 'at most 65535'),
        (['--job_name=a', '--node=2'], 'unknown argument --node=2'),
    ],
)
def test_mistakes_end_in_one_line(machine, arguments, message):
    assert message in error_of(launch(machine, *arguments))
    assert machine.calls() == []


def test_without_a_command(machine):
    result = launch(machine, '--job_name=a', command=[])
    assert (result.returncode, result.stderr.count('\n')) == (2, 1)
    assert 'no command' in result.stderr


def test_without_slurm(tmp_path):
    machine = Machine(tmp_path)
    machine.only('bash', 'dirname')
    assert error_of(launch(machine, '--job_name=a')).startswith('error: sbatch is not on PATH')
