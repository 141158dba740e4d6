"""Executables that play gcloud, tmux, sbatch and the like: they record their arguments."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent / 'scripts'

# `pop NAME` prints the next line of what `Machine.answers` holds for NAME; the last one stays.
_RECORDER = """#!/usr/bin/env bash
pop() {
  local lines
  [[ -e $answers/$1 ]] || return 0
  mapfile -t lines <"$answers/$1"
  printf '%s\\n' "${lines[0]}"
  ((${#lines[@]} < 2)) || printf '%s\\n' "${lines[@]:1}" >"$answers/$1"
}
answers=@ANSWERS@
(IFS=$'\\x1f'; printf '%s\\x1e' "${0##*/}$IFS$*") >>@RECORD@
"""


class Machine:
    """A copy of the launchers, and a PATH on which other programs are recorders.

    Attributes:
      scripts: where the copies lie.
      env: of the commands that `run` runs.
    """

    def __init__(self, root: Path):
        self.root = root
        self.scripts = root / 'checkout' / 'scripts'
        self.scripts.mkdir(parents=True)
        for path in (
            *SCRIPTS.glob('launch_*.sh'),
            SCRIPTS / 'tpu_worker.sh',
            SCRIPTS / 'jobset.yaml',
        ):
            shutil.copy(path, self.scripts)
        self._bin = root / 'bin'
        self._bin.mkdir()
        self._record = root / 'record'
        self._answers = root / 'answers'
        self._answers.mkdir()
        self.env = {**os.environ, 'PATH': f'{self._bin}:{os.environ["PATH"]}'}
        self.env['CFG_JAX_RESTART_PAUSE'] = '0'

    def play(self, name: str, body: str = '') -> None:
        """Puts a recorder on PATH that runs `body` after it has recorded its arguments."""
        text = _RECORDER.replace('@ANSWERS@', shlex.quote(str(self._answers)))
        path = self._bin / name
        path.write_text(text.replace('@RECORD@', shlex.quote(str(self._record))) + body + '\n')
        path.chmod(0o755)

    def answer(self, name: str, *lines: str) -> None:
        """What `pop NAME` gives, in turn."""
        (self._answers / name).write_text('\n'.join(lines) + '\n')

    def only(self, *programs: str) -> None:
        """Leaves nothing on PATH but recorders and these programs."""
        for program in programs:
            (self._bin / program).symlink_to(shutil.which(program))
        self.env['PATH'] = str(self._bin)

    def run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ['bash', *map(str, command)],
            cwd=cwd or self.root,
            env=self.env,
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        )

    def calls(self, *names: str) -> list[list[str]]:
        """The recorded calls [program, argument, ...], of these programs only if any are given."""
        if not self._record.exists():
            return []
        calls = [call.split('\x1f') for call in self._record.read_text().split('\x1e')[:-1]]
        return [call for call in calls if not names or call[0] in names]

    def forget(self) -> None:
        self._record.unlink(missing_ok=True)


def error_of(result: subprocess.CompletedProcess[str]) -> str:
    """The error of a command, which must end with one line of it and status 2."""
    assert result.returncode == 2
    assert result.stderr.startswith('error: ') and result.stderr.count('\n') == 1
    return result.stderr


def printed_calls(text: str, names: Sequence[str]) -> list[list[str]]:
    """The commands of a dry run, as `Machine.calls` gives those of a real one."""
    return [shlex.split(line) for line in text.splitlines() if line.split(' ')[0] in names]
