"""Listens on the loopback address until Ctrl-C."""

import os
import socket
from types import FrameType

import uvicorn

from cfg_jax.errors import UserError
from cfg_jax.explorer.app import make_app
from cfg_jax.explorer.studio import Studio

HOST = '127.0.0.1'  # nobody but this machine reaches it


def listen(port: int) -> socket.socket:
    """A socket of this machine alone, which holds connections until `serve` answers them.

    Args:
      port: 0 takes any that is free.

    Raises:
      UserError: the port is taken, or not for everybody.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UserError(f'port {port}: {error.strerror}; give another --port') from error
    return listener


def serve(studio: Studio, listener: socket.socket) -> None:
    """Prints the address and answers until Ctrl-C."""
    port = listener.getsockname()[1]
    print(f'open http://{HOST}:{port} (for this machine only; Ctrl-C ends)', flush=True)
    make_server(studio, port).run(sockets=[listener])


def make_server(studio: Studio, port: int) -> uvicorn.Server:
    """What answers at a port, whose socket is given to its `run`."""
    names = {HOST, 'localhost'}
    # Browsers leave the port of http out.
    hosts = frozenset({f'{name}:{port}' for name in names} | (names if port == 80 else set()))
    return _Server(
        uvicorn.Config(make_app(studio, hosts), log_level='error', lifespan='off', ws='none')
    )


class _Server(uvicorn.Server):
    """Ends at once: nothing is kept here, and a step that compiles cannot be interrupted."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        os._exit(0)
