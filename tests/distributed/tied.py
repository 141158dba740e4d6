"""One process of test_lifeline.py, tied to the others of its run; it does what its lines say.

python tied.py PROCESS COUNT LOST_AFTER HOST FILE    # what process 0 says to all is in FILE
"""

import sys
import time
from pathlib import Path

from cfg_jax.distributed import lifeline


def main(process, count, lost_after, host, file):
    def published():
        while not file.exists() or not file.read_text().endswith('\n'):
            time.sleep(0.01)
        return file.read_text().strip()

    lifeline._GRACE_SECONDS = 0.1
    lifeline.start(
        process, count, lost_after, host, lambda text: file.write_text(f'{text}\n'), published
    )
    print('tied', flush=True)
    for line in sys.stdin:
        if line == 'mistake\n':
            lifeline.end(2, 'error: no such file')
        elif line == 'defect\n':
            lifeline.end_after(ZeroDivisionError('division by zero'))
        elif line in ('stopped alone\n', 'stopped together\n'):
            stopped(line == 'stopped together\n')


def stopped(together):
    """Ends as a command that was asked to stop."""
    from cfg_jax import cli
    from cfg_jax.errors import Interrupted

    def interrupted(argv):
        error = Interrupted('stopped')
        error.together = together
        raise error

    cli.run(interrupted)


if __name__ == '__main__':
    number, of, seconds, address, path = sys.argv[1:]
    main(int(number), int(of), float(seconds), address, Path(path))
