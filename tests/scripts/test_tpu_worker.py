"""`tpu_worker.sh` in a directory of its own, with recorders for tmux, Python and the command."""

import shutil
import subprocess
import tarfile
import time

import pytest
from recorder import Machine


@pytest.fixture
def worker(tmp_path):
    """A directory as `launch_tpu.sh` copies it, where installing takes no time."""
    machine = Machine(tmp_path)
    machine.play('tmux', '[[ $1 != has-session ]]')
    directory = tmp_path / 'cfg_jax_run'
    (directory / 'files').mkdir(parents=True)
    (directory / 'files' / 'w.npz').touch()
    (directory / 'setup.sh').write_text('echo mounting\n')
    with tarfile.open(directory / 'code.tar.gz', 'w:gz') as archive:
        archive.add(machine.scripts, 'scripts')
    machine.play('python')
    (directory / 'venv' / 'bin').mkdir(parents=True)
    (directory / 'venv' / 'bin' / 'python').symlink_to(tmp_path / 'bin' / 'python')
    machine.scripts = directory
    shutil.copy(tmp_path / 'checkout' / 'scripts' / 'tpu_worker.sh', directory)
    return machine


def work(worker, *arguments):
    return worker.run(worker.scripts / 'tpu_worker.sh', *arguments)


@pytest.mark.parametrize(
    ('statuses', 'runs', 'ended'),
    [
        ([0], 1, 0),
        ([2], 1, 2),
        ([75] * 5 + [0], 6, 0),
        ([1, 1, 0], 3, 0),
        ([1, 1, 1, 0], 3, 1),  # two restarts are allowed
        ([1, 1, 75, 1, 1, 0], 6, 0),  # in a row
    ],
)
def test_the_worker_restarts_as_the_status_says(worker, statuses, runs, ended):
    worker.play('train', 'exit "$(pop statuses)"')
    worker.answer('statuses', *map(str, statuses))
    (worker.scripts / 'command.sh').write_text("exec train --a='1 2'\n")
    assert work(worker, 'start', '2').returncode == 0
    assert worker.calls('tmux')[-1] == [
        *('tmux', 'new-session', '-d', '-s', 'cfg_jax', 'bash'),
        *(str(worker.scripts / 'tpu_worker.sh'), 'supervise', '2'),
    ]
    assert work(worker, 'supervise', '2').returncode == 0
    assert worker.calls('train') == [['train', '--a=1 2']] * runs
    assert work(worker, 'state').stdout.startswith(f'cfg_jax-state ended {ended} ')
    install = 'python -m pip install --quiet --disable-pip-version-check -e code[tpu,gcs]'
    assert worker.calls('python') == [install.split()]
    assert (worker.scripts / 'code' / 'w.npz').exists()
    assert 'mounting' in work(worker, 'log', '100').stdout


def test_a_crash_after_an_hour_begins_a_new_row(worker):
    script = worker.scripts / 'tpu_worker.sh'
    script.write_text(script.read_text().replace('began < 3600', 'began < 0'))
    worker.play('train', 'exit "$(pop statuses)"')
    worker.answer('statuses', '1', '1', '1', '1', '0')
    (worker.scripts / 'command.sh').write_text('exec train\n')
    work(worker, 'start', '1')
    work(worker, 'supervise', '1')
    assert len(worker.calls('train')) == 5


def test_stop_lets_the_command_save_and_does_not_restart_it(worker):
    body = "trap 'echo saved; exit 75' TERM; touch started; while true; do sleep 0.05; done"
    worker.play('train', body)
    (worker.scripts / 'command.sh').write_text('exec train\n')
    work(worker, 'start', '2')
    supervisor = subprocess.Popen(
        ['bash', worker.scripts / 'tpu_worker.sh', 'supervise', '2'], env=worker.env
    )
    deadline = time.monotonic() + 20
    while not (worker.scripts / 'code' / 'started').exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert work(worker, 'stop').returncode == 0
    assert supervisor.wait(timeout=20) == 0
    assert work(worker, 'state').stdout.startswith('cfg_jax-state ended 75 ')
    assert len(worker.calls('train')) == 1


def ship(worker, **contents):
    """Another commit's code in the place of the one before; names have no suffix."""
    with tarfile.open(worker.scripts / 'code.tar.gz', 'w:gz') as archive:
        for name, text in contents.items():
            path = worker.root / name
            path.write_text(text)
            archive.add(path, f'scripts/{name}')


def test_what_the_command_wrote_outlives_new_code(worker):
    """A relative --workdir lies in the code: a restart may not cost its checkpoints."""
    code = worker.scripts / 'code'
    worker.play(
        'train', 'mkdir -p runs/x && echo 3 >>runs/x/checkpoint && echo mine >scripts/table'
    )
    (worker.scripts / 'command.sh').write_text('exec train\n')
    for runs, contents in enumerate([{'table': 'theirs', 'old': '1'}, {'table': 'new', 'b': '2'}]):
        ship(worker, **contents)
        for _ in range(2):  # the second time as after a reboot, with the same code
            assert work(worker, 'start', '0').returncode == 0
            worker.play('python', 'cat code/scripts/table >>"$answers/seen"')
            work(worker, 'supervise', '0')
        assert (code / 'runs' / 'x' / 'checkpoint').read_text() == '3\n' * 2 * (runs + 1)
    assert not (code / 'scripts' / 'old').exists()
    assert (code / 'scripts' / 'b').read_text() == '2'
    # What it wrote over a file of the code is there after a reboot, and kept beside new code.
    assert (worker.root / 'answers' / 'seen').read_text() == 'theirsmine\nnewmine\n'
    assert (code / 'scripts' / 'table.~1~').read_text() == 'mine\n'


def test_stop_during_the_installation_starts_nothing(worker):
    worker.play('python', f'bash {worker.scripts}/tpu_worker.sh stop')
    worker.play('train')
    (worker.scripts / 'command.sh').write_text('exec train\n')
    work(worker, 'start', '2')
    work(worker, 'supervise', '2')
    assert worker.calls('train') == []
    assert work(worker, 'state').stdout.startswith('cfg_jax-state ended 75 ')


def test_stop_just_before_the_command_has_a_number(worker):
    """`stop` finds no number to signal; the command must hear of it all the same."""
    script = worker.scripts / 'tpu_worker.sh'
    text = script.read_text()
    started = 'printf \'%s\\n\' "$!" >pid'
    assert text.count(started) == 1
    script.write_text(text.replace(started, f'stop; {started}'))
    worker.play('train', "trap 'exit 75' TERM; for i in {1..100}; do sleep 0.05; done")
    (worker.scripts / 'command.sh').write_text('exec train\n')
    work(worker, 'start', '2')
    began = time.monotonic()
    work(worker, 'supervise', '2')
    assert time.monotonic() - began < 4
    assert not work(worker, 'state').stdout.startswith('cfg_jax-state ended 0 ')


def test_an_old_python_makes_the_worker_bring_its_own(worker):
    (worker.scripts / 'venv' / 'bin' / 'python').unlink()
    for name in ('python3.13', 'python3.12', 'python3.11', 'python3'):
        worker.play(name, '[[ $1 != -c ]]')
    (worker.scripts / 'command.sh').write_text('exec train\n')
    work(worker, 'start', '0')
    work(worker, 'supervise', '0')
    assert worker.calls('python3')[1:] == [
        ['python3', '-m', 'pip', 'install', '--quiet', '--user', 'uv'],
        ['python3', '-m', 'uv', 'venv', '--quiet', '--seed', '--python', '3.12', 'venv'],
    ]


def test_a_worker_starts_once_and_resumes_only_what_is_gone(worker):
    (worker.scripts / 'command.sh').write_text('exec train\n')
    assert work(worker, 'state').stdout == 'cfg_jax-state none\n'
    work(worker, 'resume', '1')
    worker.play('tmux')  # has-session: yes
    worker.forget()
    work(worker, 'start', '1')
    work(worker, 'resume', '1')
    assert {call[1] for call in worker.calls('tmux')} == {'has-session'}
