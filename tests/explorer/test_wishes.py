"""Requests, checked before anything of them reaches the model."""

import json

import pytest
from served import MALFORMED, WISH, changed
from support import user_error

from cfg_jax.explorer.wishes import Wish, parse


# The length is the server's to check.
@pytest.mark.parametrize('name', [name for name in MALFORMED if name != 'long'])
def test_a_malformed_request_is_one_sentence(name):
    body, words = MALFORMED[name]
    message = user_error(parse, body, 10)
    assert words in message
    assert len(message) < 200


def test_a_wish_is_read_as_it_stands():
    assert parse(changed(), 10) == Wish(**WISH)
    labels = tuple([9] * 16)
    limits = {'labels': labels, 'count': 16, 'seed': 2**32 - 1, 'w': -100, 'num_steps': 1000}
    found = parse(json.dumps(WISH | limits).encode(), 10)
    assert found == Wish(**WISH | limits)
    assert isinstance(found.w, float)


def test_classes_come_in_turn():
    wish = parse(changed(labels=[7, 2, 5], count=8), 10)
    assert wish.label_of_each == [7, 2, 5, 7, 2, 5, 7, 2]
    assert parse(changed(labels=[4], count=3), 10).label_of_each == [4, 4, 4]
