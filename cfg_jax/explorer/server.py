"""Listens on the loopback address until Ctrl-C."""

import contextlib
import socket

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
    with contextlib.suppress(KeyboardInterrupt):
        make_server(studio, port).run(sockets=[listener])


def make_server(studio: Studio, port: int) -> uvicorn.Server:
    """What answers at a port, whose socket is given to its `run`."""
    hosts = frozenset({f'{HOST}:{port}', f'localhost:{port}'})
    return uvicorn.Server(
        uvicorn.Config(
            make_app(studio, hosts),
            log_level='error',
            lifespan='off',
            ws='none',
            timeout_graceful_shutdown=2,
        )
    )
