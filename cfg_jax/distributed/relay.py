"""Forwards connections to another address, and keeps the near end open when the far end is gone.

    python relay.py HOST:PORT    # prints the port of this machine that stands for it

JAX's client of the coordinator ends its process with a C++ stack and status 134 in the moment when
its connection closes, and takes no other order. Behind this relay it waits, and `lifeline` has the
time to end the process with one line. It is a process of its own, because threads of Python could
wait for a main thread that waits for them. It ends with the process that started it.
"""

import contextlib
import os
import signal
import socket
import sys
import threading

_CONNECT_SECONDS = 5.0


def main(address: str) -> None:
    """Stands for HOST:PORT on a port of 127.0.0.1, until standard input ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the process that started this one
    server = socket.create_server(('127.0.0.1', 0))
    print(server.getsockname()[1], flush=True)
    host, _, port = address.rpartition(':')
    relay = Relay((host.strip('[]'), int(port)))
    threading.Thread(target=relay.serve, args=(server,), daemon=True).start()
    sys.stdin.buffer.read()  # until the other end of the pipe is closed
    os._exit(0)


class Relay:
    """The connections to one address, (host, port)."""

    def __init__(self, address: tuple[str, int]):
        self._address = address
        self._reached = False

    def serve(self, server: socket.socket) -> None:
        """Takes what connects to `server`, for ever."""
        while True:
            near, _ = server.accept()
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(self._address, timeout=_CONNECT_SECONDS)
        except OSError:
            if self._reached:
                threading.Event().wait()  # with `near` open: it was there, and is gone
            near.close()  # not there yet: the client will try again
            return
        self._reached = True
        far.settimeout(None)
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self._forward, args=(far, near), daemon=True).start()
        self._forward(near, far)
        with contextlib.suppress(OSError):
            far.shutdown(socket.SHUT_RDWR)
        near.close()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        """Until either end is gone; neither is closed."""
        with contextlib.suppress(OSError):
            while content := source.recv(65536):
                sink.sendall(content)


if __name__ == '__main__':
    main(sys.argv[1])
