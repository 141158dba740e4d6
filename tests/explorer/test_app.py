"""The server over real connections: clear answers to whatever comes, and it stays alive."""

import asyncio
import contextlib
import json
import socket
import time

import pytest
import served
from served import MALFORMED, answer, asked, changed, drawn
from starlette.requests import ClientDisconnect
from support import logged

from cfg_jax.explorer import app as app_lib, server


@pytest.fixture(scope='module')
def studio():
    return served.SlowStudio()


@pytest.fixture(scope='module')
def port(studio):
    with served.running(studio) as port:
        yield port


@pytest.fixture(autouse=True)
def alive(port):
    """After each test, whatever it has done."""
    yield
    assert answer(port, 'GET', '/model') == (200, [{'name': 'slow'}])
    status, events = drawn(port, changed())
    assert (status, events[-1]) == (200, {'seconds': 0.1})


def sentence(found):
    """(status, sentence) of an answer that is an error alone."""
    status, [event] = found
    assert list(event) == ['error']
    assert '\n' not in event['error']
    return status, event['error']


def test_a_drawing_is_told_step_by_step(port):
    status, events = drawn(port, changed(num_steps=3))
    assert status == 200
    assert [event.get('step') for event in events] == [1, 2, 3, None]


def test_the_page_and_its_parts(port):
    for path, kind in (('/', 'html'), ('/page.css', 'css'), ('/page.js', 'javascript')):
        with asked(port, 'GET', path) as response:
            assert response.status == 200
            assert response.headers['Content-Type'].startswith(f'text/{kind}')
            policy = response.headers['Content-Security-Policy']
            assert policy.startswith("default-src 'none'; script-src 'self'")
            assert 'unsafe' not in policy
            assert len(response.read()) > 1000


@pytest.mark.parametrize('name', MALFORMED)
def test_malformed_wishes(port, name):
    body, words = MALFORMED[name]
    status, said = sentence(drawn(port, body))
    assert status == 400
    assert words in said


@pytest.mark.parametrize(
    'kind', ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data', '']
)
def test_a_body_of_another_type(port, kind):
    status, said = sentence(answer(port, 'POST', '/pictures', changed(), Content_Type=kind))
    assert (status, 'application/json' in said) == (400, True)


@pytest.mark.parametrize(
    'path',
    [
        '/../../../../etc/passwd',
        '/page.css/../../../../etc/passwd',
        '/..%2f..%2f..%2fetc%2fpasswd',
        '/%2e%2e/%2e%2e/etc/passwd',
        '//etc/passwd',
        '/page.css%00.html',
        '/page.py',
        '/app.py',
        '/model/',
        '/' + 'x' * 5000,
    ],
)
def test_no_other_file_is_found(port, path):
    status, said = sentence(answer(port, 'GET', path))
    assert (status, said) == (404, 'there is nothing here; the page is at /')


@pytest.mark.parametrize(
    ('method', 'path'),
    [('GET', '/pictures'), ('PUT', '/pictures'), ('DELETE', '/model'), ('POST', '/'), ('X', '/')],
)
def test_wrong_methods(port, method, path):
    status, said = sentence(answer(port, method, path))
    assert (status, 'POST' in said) == (405, True)


@pytest.mark.parametrize(
    'headers',
    [
        {'Host': 'evil.example'},
        {'Host': 'evil.example:{port}'},
        {'Host': '127.0.0.1:1'},
        {'Host': ''},
        {'Origin': 'http://evil.example'},
        {'Origin': 'null'},
        {'Origin': 'https://127.0.0.1:{port}'},
        {'Host': 'localhost:{port}', 'Origin': 'http://127.0.0.1:{port}'},
    ],
)
def test_other_hosts_and_origins_get_nothing(port, headers):
    headers = {name: value.format(port=port) for name, value in headers.items()}
    for found in (answer(port, 'GET', '/model', **headers), drawn(port, changed(), **headers)):
        status, said = sentence(found)
        assert status == 403
        assert said.startswith(f'only the page of this server may ask, at 127.0.0.1:{port}')
        assert 'the same port at both ends' in said


def test_its_own_page_may_ask_under_both_names(port):
    for name in ('127.0.0.1', 'localhost'):
        host = f'{name}:{port}'
        status, _ = drawn(port, changed(), Host=host, Origin=f'http://{host}')
        assert status == 200


def test_bytes_that_are_no_http(port):
    for garbage in (b'\x16\x03\x01\x02\x00\x01', b'GET\r\n\r\n', b'\n' * 100_000):
        with socket.create_connection((server.HOST, port), timeout=30) as connection:
            connection.sendall(garbage)


def test_a_body_that_never_ends(port):
    """4096 bytes are read of what promises more."""
    kind = {'Content_Type': 'application/json', 'Content_Length': '1000000000'}
    with asked(port, 'POST', '/pictures', b'[' * 100_000, **kind) as response:
        assert response.status == 400
        assert '4096 bytes' in json.loads(response.read())['error']


def test_an_unknown_rule(port):
    status, said = sentence(drawn(port, changed(guidance='unknown')))
    assert (status, said) == (400, "there is no guidance rule 'unknown'")


def test_a_failure_in_the_middle_is_told(port):
    with logged() as lines:
        status, events = drawn(port, changed(labels=[1]))
    assert status == 200
    assert [list(event) for event in events] == [['step', 'of', 'png'], ['error']]
    assert events[1]['error'] == 'this cannot be drawn (ValueError: no such layer)'
    assert any('a drawing failed' in line for line in lines)


def test_a_defect_is_told(port):
    status, said = sentence(drawn(port, changed(guidance='broken')))
    assert (status, 'terminal' in said) == (500, True)


def test_who_leaves_ends_the_drawing(port, studio):
    """The next one begins at once, where the whole would have taken five seconds."""
    for seed in range(100, 105):
        kind = {'Content_Type': 'application/json'}
        body = changed(num_steps=1000, seed=seed)
        with asked(port, 'POST', '/pictures', body, **kind) as response:
            assert json.loads(response.readline())['step'] == 1
    start = time.monotonic()
    status, events = drawn(port, changed(seed=1))
    assert time.monotonic() - start < 2
    assert (status, events[-1]) == (200, {'seconds': 0.1})
    reached = [studio.steps[seed] for seed in range(100, 105)]
    assert max(reached) < 500
    time.sleep(0.05)
    assert [studio.steps[seed] for seed in range(100, 105)] == reached


@pytest.mark.parametrize('end', ['fails', 'lasts'])
def test_a_line_that_nobody_takes_ends_the_turn(end, monkeypatch):
    """The server's send fails in the middle, or waits for ever; and whoever holds the error that
    comes of it holds the generator too."""
    monkeypatch.setattr(app_lib, '_SECONDS_TO_READ', 0.2)
    app = app_lib.make_app(served.SlowStudio(), frozenset({'here'}))
    headers = [(b'host', b'here'), (b'content-type', b'application/json')]
    scope = {
        'type': 'http',
        'method': 'POST',
        'path': '/pictures',
        'headers': headers,
        'query_string': b'',
        'asgi': {'spec_version': '2.4'},
    }

    async def receive():
        return {'type': 'http.request', 'body': changed(), 'more_body': False}

    async def lost(message):
        if message['type'] == 'http.response.body':
            if end == 'fails':
                raise OSError('gone')
            await asyncio.sleep(60)

    arrived = []

    async def kept(message):
        arrived.append(message)

    async def both():
        with pytest.raises(ClientDisconnect) as caught:
            await app(dict(scope), receive, lost)
        await asyncio.wait_for(app(dict(scope), receive, kept), 10)
        assert caught.value is not None

    asyncio.run(both())
    assert b'seconds' in arrived[-2]['body']


def test_the_newest_takes_the_place_in_waiting(port):
    kind = {'Content_Type': 'application/json'}

    def wish(seed, num_steps=1000):
        return asked(port, 'POST', '/pictures', changed(num_steps=num_steps, seed=seed), **kind)

    with contextlib.ExitStack() as leaving:
        assert json.loads(leaving.enter_context(wish(1)).readline())['step'] == 1
        with wish(2) as second, wish(3, num_steps=3) as third:
            assert 'newer' in json.loads(second.read())['error']
            leaving.close()
            assert json.loads(third.readline())['step'] == 1


def test_it_listens_on_the_loopback_address_alone(port):
    assert server.HOST == '127.0.0.1'
    with server.listen(0) as listener:
        assert listener.getsockname()[0] == '127.0.0.1'
    # On Linux all of 127.0.0.0/8 is this machine: a server of every address would answer.
    with pytest.raises(OSError, match='refused'):
        socket.create_connection(('127.0.0.2', port), timeout=5)
