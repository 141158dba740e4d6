"""Listens on one address until Ctrl-C."""

import socket

import uvicorn

from cfg_jax.errors import UserError
from cfg_jax.explorer.app import make_app
from cfg_jax.explorer.studio import Studio


def serve(studio: Studio, host: str, port: int) -> None:
    """Prints the address and serves until Ctrl-C.

    Args:
      studio: what draws.
      host: an address of this machine.
      port: 0 takes any that is free.

    Raises:
      UserError: the port is taken.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UserError(f'port {port} is not free ({error.strerror}); give another --port') from error
    port = listener.getsockname()[1]
    hosts = frozenset({f'{host}:{port}', f'localhost:{port}'})
    config = uvicorn.Config(
        make_app(studio, hosts), log_level='warning', lifespan='off', timeout_graceful_shutdown=2
    )
    print(f'open http://{host}:{port} (this machine only; Ctrl-C ends)', flush=True)
    with listener:
        uvicorn.Server(config).run(sockets=[listener])
