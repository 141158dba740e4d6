"""scripts/explore.py: from the command to a picture, and what is said where it cannot start."""

import re
import signal
import subprocess
import sys

from served import asked, changed, drawn
from support import run_here, script_environment, start_script

from cfg_jax.explorer import server


def test_it_serves_until_interrupted(trained_workdir):
    process = start_script('', 'explore.py', trained_workdir, '--port=0')
    try:
        line = process.stdout.readline()
        found = re.fullmatch(
            r'open http://127\.0\.0\.1:(\d+) \(for this machine only; Ctrl-C ends\)\n', line
        )
        assert found, line + process.stderr.read()
        status, events = drawn(int(found[1]), changed())
        assert (status, events[0]) == (200, {'compiling': True})
        assert events[-2]['step'] == 4
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stdout, stderr) == (0, '', '')
    finally:
        process.kill()


def test_it_ends_at_once_while_a_step_is_drawn():
    """Ctrl-C neither waits for what compiles nor prints a traceback."""
    code = (
        'import time\n'
        'from cfg_jax.explorer import server\n'
        'class Slow:\n'
        '    num_classes, description = 10, {}\n'
        '    def prepare(self, wish): return self\n'
        '    def draw(self, watcher, wish):\n'
        '        yield {"compiling": True}\n'
        '        time.sleep(60)\n'
        'with server.listen(0) as listener: server.serve(Slow(), listener)\n'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', code],
        env=script_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        port = int(re.search(r':(\d+) ', process.stdout.readline())[1])
        with asked(port, 'POST', '/pictures', changed(), Content_Type='application/json') as answer:
            assert b'compiling' in answer.readline()
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=20)
        assert (process.returncode, stdout, stderr) == (0, '', '')
    finally:
        process.kill()


def test_a_port_that_is_taken(trained_workdir, capsys):
    with server.listen(0) as listener:
        port = listener.getsockname()[1]
        status, lines, errors = run_here(
            capsys, 'scripts/explore.py', trained_workdir, f'--port={port}'
        )
    assert (status, lines) == (2, [])
    [error] = errors
    assert f'port {port}' in error
    assert 'another --port' in error


def test_no_model(tmp_path, capsys):
    for arguments, words in (
        ([tmp_path / 'nothing'], 'nothing'),
        ([tmp_path, '--port=65536'], '--port is at most 65535'),
        ([tmp_path, '--port=-1'], "'-1'"),
        ([], 'MODEL'),
    ):
        status, lines, errors = run_here(capsys, 'scripts/explore.py', *arguments)
        assert (status, lines) == (2, [])
        [error] = errors
        assert words in error
