"""The end of one process of a run ends all: soon, with one line, and a status launchers understand.

Left alone, JAX notices a dead process after 100 s, or not at all inside of a collective, and ends
the others with a C++ stack and status 134. Here every process holds a connection to process 0, on
which nothing is said but farewells; the kernels watch it. A process that is killed closes it. A
machine or a cable that is gone answers no probe, and the connection ends `lost_after` seconds
later. A process that ends by its own decision says with which status and why, so that a mistake
found by one ends all with status 2. Threads only wait here, so that a main thread which is busy
for minutes is no reason to end.
"""

import atexit
import contextlib
import json
import multiprocessing
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

from absl import logging

LOST_AFTER = 20.0
_PROBES = 4  # within `lost_after`
_GRACE_SECONDS = 5.0  # for a process to end by itself after the same mistake
_CONNECT_SECONDS = 10.0
_LOST = 1  # the exit status, as of `errors.Disconnected`
_FOR_ALL = (2, 75, 130)  # statuses of a mistake, of a preemption and of Ctrl-C, which are all's


class _Lifeline:
    """The connections of this process; the farewells that come, and its own."""

    def __init__(self, process: int, count: int, lost_after: float):
        self._process, self._count, self._lost_after = process, count, lost_after
        self._lock = threading.Lock()
        self._connections: dict[int, socket.socket] = {}
        self._left: set[int] = set()  # processes that said farewell
        self._leaving = False

    def listen(self, token: str) -> int:
        """Process 0: takes the connections of the others from now on; returns the port."""
        everywhere = ('::', 0) if socket.has_dualstack_ipv6() else ('', 0)
        family = socket.AF_INET6 if everywhere[0] else socket.AF_INET
        server = socket.create_server(
            everywhere, family=family, dualstack_ipv6=family == socket.AF_INET6
        )
        self._start(self._accept, server, token)
        return server.getsockname()[1]

    def connect(self, host: str, port: int, token: str) -> None:
        """The others: holds the connection to process 0 from now on."""
        connection = socket.create_connection((host, port), timeout=_CONNECT_SECONDS)
        _send(connection, {'token': token, 'process': self._process})
        self._keep(0, connection, connection.makefile('r'))

    def leave(self, status: int, line: str) -> None:
        """Says farewell to all."""
        with self._lock:
            self._leaving = True
        self._tell({'process': self._process, 'status': status, 'line': line})

    def _accept(self, server: socket.socket, token: str) -> None:
        while True:
            connection, _ = server.accept()
            self._start(self._welcome, connection, token)

    def _welcome(self, connection: socket.socket, token: str) -> None:
        """Keeps a connection that begins as one of this run; strangers are none."""
        try:
            connection.settimeout(_CONNECT_SECONDS)
            lines = connection.makefile('r')
            hello = json.loads(lines.readline(1000))
            if not secrets.compare_digest(hello['token'], token):
                raise ValueError('another run')
            self._keep(int(hello['process']), connection, lines)
        except (OSError, ValueError, TypeError, LookupError):
            connection.close()

    def _keep(self, process: int, connection: socket.socket, lines: TextIO) -> None:
        connection.settimeout(None)
        _probe(connection, self._lost_after)
        with self._lock:
            self._connections[process] = connection
        self._start(self._hear, process, lines)

    def _hear(self, process: int, lines: TextIO) -> None:
        reason = 'its connection closed'
        try:
            for line in lines:
                self._farewell(**json.loads(line))
        except TimeoutError:
            reason = f'no sign of it for {self._lost_after:g} s'
        except OSError:
            pass  # a reset: it was killed
        self._farewell(process, _LOST, reason, lost=True)

    def _farewell(self, process: int, status: int, line: str, lost: bool = False) -> None:
        with self._lock:
            if self._leaving or process in self._left:
                return
            self._left.add(process)
            self._leaving = status != 0  # what ends from here on ends because of this
        if status == 0:
            return
        self._tell({'process': process, 'status': status, 'line': line, 'lost': lost})
        name = f'process {process} of {self._count}'
        if lost:
            again = 'start all of them again: the same command continues'
            _end(_LOST, f'error: lost {name} ({line}); {again}')
        time.sleep(_GRACE_SECONDS)
        told = status if status in _FOR_ALL else _LOST
        _end(told, f'{name} ended with status {status}: {line}')

    def _tell(self, message: dict[str, Any]) -> None:
        with self._lock:
            connections = [c for p, c in self._connections.items() if p != message['process']]
        for connection in connections:
            with contextlib.suppress(OSError):
                _send(connection, message)

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(target=work, args=arguments, name='lifeline', daemon=True).start()


_ours: _Lifeline | None = None


def start(
    process: int,
    count: int,
    lost_after: float,
    host: str,
    publish: Callable[[str], None],
    published: Callable[[], str],
) -> None:
    """Ties this process to the others of its run.

    Args:
      process, count: this one, and how many.
      lost_after: seconds without a sign of life.
      host: where process 0 can be reached.
      publish, published: process 0 says something to all before it ends; the others get it.
    """
    global _ours
    ours = _Lifeline(process, count, lost_after)
    if process == 0:
        token = secrets.token_hex(16)
        publish(f'{ours.listen(token)} {token}')
    else:
        port, _, token = published().partition(' ')
        try:
            ours.connect(host, int(port), token)
        except OSError as error:
            logging.warning(
                f'no connection to process 0 at {host}:{port} ({error.strerror or error}): if it'
                ' is lost, this process notices late or never; let processes of a run reach each'
                ' other on every port'
            )
            return
    _ours = ours
    # JAX's own farewell, for which all processes wait, is registered before: it comes after this.
    atexit.register(ours.leave, 0, '')


def end(status: int, line: str) -> None:
    """Ends this process at once, and so all, if it is one of many: a farewell, no return.

    Alone it returns. A process that ended in the usual way would wait for the others, which wait
    for it in the next step.
    """
    if _ours is not None:
        _ours.leave(status, line)
        _exit(status)


def end_after(error: BaseException) -> None:
    """`end` after an error that is nobody's mistake; alone it returns.

    A lost process first shows as an error of the step: then its farewell is on its way.
    """
    if _ours is not None:
        if type(error).__module__.startswith('jax'):
            time.sleep(_ours._lost_after + 2 * _GRACE_SECONDS)
        traceback.print_exception(error)
        end(_LOST, f'{type(error).__name__}: {first_line(error)[:200]}')


def first_line(error: BaseException) -> str:
    """Of an error's message; the name of its class where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _probe(connection: socket.socket, seconds: float) -> None:
    """Lets the kernel end a connection whose other end has not answered for so long."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    between = max(1, round(seconds / _PROBES))
    values = {
        'TCP_KEEPIDLE': between,
        'TCP_KEEPINTVL': between,
        'TCP_KEEPCNT': _PROBES - 1,
        'TCP_USER_TIMEOUT': round(1000 * seconds),
    }
    for name, value in values.items():
        if hasattr(socket, name):  # not every system has them all
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall((json.dumps(message) + '\n').encode())


def _end(status: int, line: str) -> NoReturn:
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)
    _exit(status)


def _exit(status: int) -> NoReturn:
    """Without what Python and JAX do at the end, which would wait for processes that are gone."""
    for child in multiprocessing.active_children():
        child.kill()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
