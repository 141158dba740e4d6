"""Two network namespaces and a virtual link between them, as two machines with a cable."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ADDRESSES = ('10.231.77.1', '10.231.77.2')
_ETC = Path('/etc/netns')


class Hosts:
    """The two hosts 0 and 1; `run` gives the words before a command that make it run on one."""

    def __init__(self):
        self._names = [f'cfg-jax-{os.getpid()}-{number}' for number in range(2)]

    def run(self, host: int) -> list[str]:
        return ['ip', 'netns', 'exec', self._names[host]]

    def plug_in(self) -> None:
        self._set_link('up')

    def unplug(self) -> None:
        """Nothing arrives any more, and nobody is told: packets are lost, connections stay."""
        self._set_link('down')

    def _set_link(self, state: str) -> None:
        _ip('-n', self._names[1], 'link', 'set', 'cable', state)

    @contextlib.contextmanager
    def built(self) -> Iterator['Hosts']:
        try:
            for name in self._names:
                _ip('netns', 'add', name)
                _ip('-n', name, 'link', 'set', 'lo', 'up')
            there = ['peer', 'name', 'cable', 'netns', self._names[1]]
            _ip('-n', self._names[0], 'link', 'add', 'cable', 'type', 'veth', *there)
            for name, address in zip(self._names, ADDRESSES, strict=True):
                _ip('-n', name, 'address', 'add', f'{address}/30', 'dev', 'cable')
                _ip('-n', name, 'link', 'set', 'cable', 'up')
                # gloo, the CPU's NCCL, listens where the name of the host leads; here `ip netns
                # exec` puts this file in the place of /etc/hosts.
                etc = _ETC / name
                etc.mkdir(parents=True)
                (etc / 'hosts').write_text(f'{address} {socket.gethostname()}\n')
            yield self
        finally:
            for name in self._names:
                shutil.rmtree(_ETC / name, ignore_errors=True)
                subprocess.run(['ip', 'netns', 'delete', name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(['ip', *arguments], capture_output=True, check=True, text=True)


@pytest.fixture(scope='module')
def hosts() -> Iterator[Hosts]:
    """Two hosts; skips where the system does not permit network namespaces."""
    with contextlib.ExitStack() as stack:
        try:
            built = stack.enter_context(Hosts().built())
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f'network namespaces are not permitted here ({error})')
        yield built
