"""The page's server: four addresses, JSON in and out, nothing else of this machine.

GET / is the page, GET /page.css and /page.js its parts, GET /model what it offers, POST /pictures
draws a wish and answers line by line while it draws. A page of another origin gets nothing: Host
and Origin must be this server's, and a body JSON.
"""

import asyncio
import contextlib
import importlib.resources
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cfg_jax.errors import UserError
from cfg_jax.explorer.studio import Studio
from cfg_jax.explorer.turns import Superseded, Turns
from cfg_jax.explorer.wishes import parse

_LARGEST_BODY = 4096
_PARTS = {
    '/': ('page.html', 'text/html'),
    '/page.css': ('page.css', 'text/css'),
    '/page.js': ('page.js', 'text/javascript'),
}
_HEADERS = {
    'Content-Security-Policy': "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
    'Cache-Control': 'no-store',
}
_END = object()


def make_app(studio: Studio, hosts: frozenset[str]) -> ASGIApp:
    """The application.

    Args:
      studio: what draws.
      hosts: 'NAME:PORT' by which the server may be called.
    """
    turns = Turns()

    async def model(request: Request) -> Response:
        return JSONResponse(studio.description())

    async def pictures(request: Request) -> Response:
        try:
            wish = parse(await _body(request), studio.num_classes)
            studio.prepare(wish)
        except UserError as error:
            return _refusal(400, str(error))
        except ClientDisconnect:
            return _refusal(400, 'the request broke off')
        cancelled = threading.Event()
        lines = _lines(studio.draw(wish, cancelled), turns, cancelled)
        return StreamingResponse(lines, media_type='application/x-ndjson')

    routes = [Route(path, _part(*part)) for path, part in _PARTS.items()]
    routes += [Route('/model', model), Route('/pictures', pictures, methods=['POST'])]
    handlers = {404: _not_found, 405: _not_found}
    return _Guarded(Starlette(routes=routes, exception_handlers=handlers), hosts)


def _part(name: str, media_type: str) -> Any:
    content = (importlib.resources.files('cfg_jax.explorer') / name).read_text()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return answer


async def _body(request: Request) -> bytes:
    if request.headers.get('content-type', '').partition(';')[0].strip() != 'application/json':
        raise UserError('the request is not of the type application/json')
    body = b''
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_BODY:
            raise UserError(f'the request is longer than {_LARGEST_BODY} bytes')
    return body


async def _lines(
    events: Iterator[dict[str, Any]], turns: Turns, cancelled: threading.Event
) -> AsyncIterator[str]:
    """Each event as a line of JSON; the reader's leaving ends the drawing."""
    try:
        async with turns.turn():
            while True:
                # Shielded: an event that is being made must end before the next wish begins.
                making = asyncio.ensure_future(asyncio.to_thread(next, events, _END))
                try:
                    event = await asyncio.shield(making)
                except asyncio.CancelledError:
                    cancelled.set()
                    with contextlib.suppress(Exception):
                        await making
                    raise
                if event is _END:
                    return
                yield json.dumps(event) + '\n'
    except Superseded:
        yield json.dumps({'error': 'a newer request took the place of this one'}) + '\n'
    except UserError as error:
        yield json.dumps({'error': str(error)}) + '\n'
    finally:
        cancelled.set()


async def _not_found(request: Request, error: Exception) -> Response:
    return _refusal(404, 'there is nothing here; the page is at /')


def _refusal(status: int, sentence: str) -> Response:
    return JSONResponse({'error': sentence}, status)


class _Guarded:
    """Refuses what another origin sends, and adds headers to every answer."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]):
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Any) -> None:
            if message['type'] == 'http.response.start':
                added = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
                message = message | {'headers': [*message.get('headers', ()), *added]}
            await send(message)

        request = Request(scope)
        host, origin = request.headers.get('host', ''), request.headers.get('origin')
        app = self._app
        if host not in self._hosts or origin not in (None, f'http://{host}'):
            app = _refusal(403, 'only the page of this server may ask')
        await app(scope, receive, with_headers)
