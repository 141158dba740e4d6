"""The page's application: five addresses, JSON in and out, nothing else of this machine.

GET / is the page, GET /page.css and /page.js its parts, GET /model what it offers, POST /pictures
draws a wish and answers line by line while it draws. A page of another origin gets nothing: Host
and Origin must be this server's, and a body JSON.
"""

import asyncio
import concurrent.futures
import contextlib
import importlib.resources
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

from absl import logging
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
_SECONDS_TO_READ = 20.0  # what others wait for
_PARTS = {
    '/': ('text/html', 'explorer/page.html'),
    '/page.css': ('text/css', 'report/colours.css', 'explorer/page.css'),
    '/page.js': ('text/javascript', 'explorer/page.js'),
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
      studio: what draws; it is called from one thread only.
      hosts: 'NAME:PORT' by which the server may be called.
    """
    drawings = _Drawings(studio)

    async def model(request: Request) -> Response:
        return JSONResponse(studio.description)

    async def pictures(request: Request) -> Response:
        try:
            lines = await drawings.start(await _body(request))
        except UserError as error:
            return _refusal(400, str(error))
        except ClientDisconnect:
            return _refusal(400, 'the request broke off')
        return _Lines(lines)

    routes = [Route(path, _part(*part)) for path, part in _PARTS.items()]
    routes += [Route('/model', model), Route('/pictures', pictures, methods=['POST'])]
    handlers: dict[Any, Any] = {404: _not_found, 405: _wrong_method, Exception: _broken}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return _Guarded(app, hosts)


class _Drawings:
    """Wishes on their way through the studio."""

    def __init__(self, studio: Studio):
        self._studio, self._turns = studio, Turns()
        # Of one thread: a step whose reader has left ends before the first of the next wish.
        self._thread = concurrent.futures.ThreadPoolExecutor(1, 'studio')

    async def start(self, body: bytes) -> AsyncGenerator[str, None]:
        """The lines of JSON that answer a request.

        Raises:
          UserError: it cannot be drawn.
        """
        wish = parse(body, self._studio.num_classes)
        watcher = await self._call(self._studio.prepare, wish)
        return self._lines(self._studio.draw(watcher, wish))

    async def _lines(self, events: Iterator[dict[str, Any]]) -> AsyncGenerator[str, None]:
        """Each event as a line; nothing more is drawn once nobody asks for the next one."""
        try:
            async with self._turns.turn():
                while (event := await self._call(next, events, _END)) is not _END:
                    yield json.dumps(event) + '\n'
        except Superseded:
            yield json.dumps({'error': 'a newer request took the place of this one'}) + '\n'
        except UserError as error:
            yield json.dumps({'error': str(error)}) + '\n'
        except Exception as error:
            logging.exception('a drawing failed: %s', error)
            reason = (str(error).splitlines() or [''])[0]
            sentence = f'this cannot be drawn ({type(error).__name__}: {reason[:200]})'
            yield json.dumps({'error': sentence}) + '\n'

    async def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


class _Lines(StreamingResponse):
    """Closes its generator, which ends its turn, where the reader leaves or no longer reads."""

    def __init__(self, lines: AsyncGenerator[str, None]):
        super().__init__(lines, media_type='application/x-ndjson')
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def promptly(message: Any) -> None:
            async with asyncio.timeout(_SECONDS_TO_READ):
                await send(message)

        async with contextlib.aclosing(self._lines):
            await super().__call__(scope, receive, promptly)


def _part(media_type: str, *names: str) -> Any:
    library = importlib.resources.files('cfg_jax')
    content = '\n'.join((library / name).read_text(encoding='utf-8') for name in names)

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


async def _not_found(request: Request, error: Exception) -> Response:
    return _refusal(404, 'there is nothing here; the page is at /')


async def _wrong_method(request: Request, error: Exception) -> Response:
    return _refusal(405, 'pictures are asked for with POST, everything else with GET')


async def _broken(request: Request, error: Exception) -> Response:
    return _refusal(500, 'this server has a defect; its terminal says more')


def _refusal(status: int, sentence: str) -> Response:
    return JSONResponse({'error': sentence}, status)


class _Guarded:
    """Refuses what another origin sends, and adds headers to every answer."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]):
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Any) -> None:
            if message['type'] == 'http.response.start':
                added = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
                message = message | {'headers': [*message.get('headers', ()), *added]}
            await send(message)

        request = Request(scope)
        host, origin = request.headers.get('host', ''), request.headers.get('origin')
        app = self._app
        if host not in self._hosts or origin not in (None, f'http://{host}'):
            app = _refusal(
                403,
                f'only the page of this server may ask, at {" or ".join(sorted(self._hosts))}; a'
                ' tunnel to it has the same port at both ends',
            )
        await app(scope, receive, with_headers)
