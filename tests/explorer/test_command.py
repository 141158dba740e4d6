"""scripts/explore.py: from the command to a picture, and what is said where it cannot start."""

import re
import signal

from served import changed, drawn
from support import run_here, start_script

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
