"""The explorer's server on a free port, what draws for it, and malformed requests."""

import contextlib
import http.client
import json
import threading
import time

import jax
import jax.numpy as jnp
from support import make_tiny_config, toy_instead_of_networks

from cfg_jax.errors import UserError
from cfg_jax.explorer import server
from cfg_jax.inference import Model
from cfg_jax.models import networks

WISH = {
    'labels': (3,),
    'count': 2,
    'seed': 5,
    'w': 1.5,
    'guidance': '',
    'sampler': 'ddim',
    'num_steps': 4,
}


def changed(**changes):
    """The body of a request."""
    return json.dumps(WISH | changes).encode()


# id: body, words of the answer.
MALFORMED = {
    'nothing': (b'', 'not JSON'),
    'no_json': (b'{label: 3}', 'not JSON'),
    'not_utf8': (b'"\xff\xfe\xfd"', 'not JSON'),
    'deep': (b'[' * 4000, 'not JSON'),
    'long': (json.dumps({'labels': 'x' * 9000}).encode(), '4096 bytes'),
    'a_list': (json.dumps([WISH]).encode(), 'not a JSON object'),
    'a_number': (b'7', 'not a JSON object'),
    'null': (b'null', 'not a JSON object'),
    'missing': (b'{"labels": [3]}', 'lacks count, guidance'),
    'extra': (changed(model='/etc/passwd'), 'fields other than'),
    'labels_of_text': (changed(labels='3'), 'labels is a list of 1 to 2 classes'),
    'one_number': (changed(labels=3), 'labels is a list'),
    'no_labels': (changed(labels=[]), 'labels is a list of 1 to 2'),
    'more_labels_than_pictures': (changed(labels=[1, 2, 3]), 'labels is a list of 1 to 2'),
    'label_of_text': (changed(labels=['3']), 'a label is a whole number from 0 to 9'),
    'label_of_float': (changed(labels=[3.0]), 'a label is a whole number'),
    'label_of_bool': (changed(labels=[True]), 'a label is a whole number'),
    'label_of_list': (changed(labels=[[3]]), 'a label is a whole number'),
    'label_outside': (changed(labels=[3, 10]), 'from 0 to 9'),
    'negative_label': (changed(labels=[-1]), 'from 0 to 9'),
    'no_pictures': (changed(count=0), 'from 1 to 16'),
    'many_pictures': (changed(count=10**6), 'from 1 to 16'),
    'large_seed': (changed(seed=2**32), 'from 0 to 4294967295'),
    'huge_seed': (changed(seed=10**3000), 'from 0 to 4294967295'),
    'nan': (changed(w=float('nan')), 'w is a number from -100 to 100'),
    'infinity': (changed(w=float('-inf')), 'w is a number'),
    'huge_w': (b'{"w": 1e999,' + changed()[1:].replace(b'"w": 1.5, ', b''), 'w is a number'),
    'w_of_bool': (changed(w=False), 'w is a number'),
    'w_of_list': (changed(w=[1.0]), 'w is a number'),
    'one_step': (changed(num_steps=1), 'from 2 to 1000'),
    'many_steps': (changed(num_steps=10**9), 'from 2 to 1000'),
    'rule_of_number': (changed(guidance=3), 'guidance is a text'),
    'rule_of_lines': (changed(guidance='interval\n'), 'guidance is a text'),
    'rule_of_a_surrogate': (changed(guidance='\ud800'), 'guidance is a text'),
    'long_sampler': (changed(sampler='x' * 201), 'at most 200'),
}


class SlowStudio:
    """Draws nothing, a step each few milliseconds, and counts the steps.

    Class 1 fails at the second step.
    """

    num_classes = 10
    description = {'name': 'slow'}  # noqa: RUF012

    def __init__(self):
        self.steps = {}

    def prepare(self, wish):
        if wish.guidance == 'unknown':
            raise UserError("there is no guidance rule 'unknown'")
        if wish.guidance == 'broken':
            raise ZeroDivisionError
        return self

    def draw(self, watcher, wish):
        assert watcher is self
        for step in range(1, wish.num_steps + 1):
            if (wish.labels, step) == ((1,), 2):
                raise ValueError('no such layer\nand more')
            time.sleep(0.005)
            self.steps[wish.seed] = step
            yield {'step': step, 'of': wish.num_steps, 'png': ''}
        yield {'seconds': 0.1}


@contextlib.contextmanager
def running(studio):
    """The port of a server with this studio, which ends with the block."""
    with server.listen(0) as listener:
        port = listener.getsockname()[1]
        running = server.make_server(studio, port)
        thread = threading.Thread(target=running.run, kwargs={'sockets': [listener]})
        thread.start()
        try:
            yield port
        finally:
            running.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@contextlib.contextmanager
def asked(port, method, path, body=None, **headers):
    """The response to a request, still open; header names with _ for -."""
    connection = http.client.HTTPConnection(server.HOST, port, timeout=30)
    headers = {name.replace('_', '-'): value for name, value in headers.items()}
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_host='Host' in headers)
        if body is not None:
            headers = {'Content-Length': str(len(body))} | headers
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        yield connection.getresponse()


def answer(port, method, path, body=None, **headers):
    """(status, the objects of the answer)."""
    with asked(port, method, path, body, **headers) as response:
        return response.status, [json.loads(line) for line in response.read().splitlines()]


def drawn(port, body, **headers):
    """The same of a wish."""
    return answer(port, 'POST', '/pictures', body, Content_Type='application/json', **headers)


@contextlib.contextmanager
def untrained_model():
    """A toy with random parameters; it lives inside the block."""
    with toy_instead_of_networks():
        config = make_tiny_config()
        inputs = [jnp.zeros(each.shape, each.dtype) for each in networks.inputs(config)]
        params = networks.make_network(config).init(jax.random.key(1), *inputs)
        yield Model(config, {'main': params})
