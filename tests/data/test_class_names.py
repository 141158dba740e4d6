"""Classes by name: what people read, and what they may type."""

import pytest
from support import user_error

from cfg_jax.data import class_names, sources

# Facts of ImageNet that are known without the file: published samplers use them by number.
KNOWN = {
    'tench': 0,
    'goldfish': 1,
    'golden retriever': 207,
    'malamute': 249,
    'baseball': 429,
    'cheeseburger': 933,
    'toilet tissue': 999,
}
ODD = ('n02012849', 'cat', 'n03126707', 'tail-less_dog')


@pytest.fixture(scope='module')
def imagenet():
    """The ids in the order of TFDS, whose builder knows them without any data."""
    return sources.label_names('imagenet2012')


def test_imagenet_has_the_names_that_people_know(imagenet):
    readable = class_names.readable(imagenet)
    assert len(set(readable)) == len(imagenet) == 1000
    assert {name: readable.index(name) for name in KNOWN} == KNOWN
    assert not [name for name in readable if name in imagenet]


@pytest.mark.parametrize('wanted', ['Golden Retriever', ' golden_retriever', 'n02099601'])
def test_a_class_is_found_by_name_and_by_id(imagenet, wanted):
    assert class_names.number_of(wanted, imagenet) == 207


def test_any_word_of_wordnet_will_do(imagenet):
    for word in ('Arctic fox', 'white fox', 'Alopex lagopus'):
        assert class_names.number_of(word, imagenet) == 279


def test_every_readable_name_finds_its_class(imagenet):
    readable = class_names.readable(imagenet)
    assert [class_names.number_of(name, imagenet) for name in readable[::50]] == list(
        range(0, 1000, 50)
    )
    shared = [number for number, name in enumerate(readable) if '(n' in name]
    assert len(shared) == 6  # cranes, cardigans and maillots: bird, machine, dog, wool, and twice
    for number in shared:
        assert class_names.number_of(readable[number], imagenet) == number


def test_where_classes_are_numbers_it_is_said_where_names_come_from():
    message = user_error(class_names.number_of, 'goldfish', list('0123456789'))
    assert message.startswith("'goldfish' is no class: here they are numbers, 0..9.")
    assert 'exported' in message


def test_names_of_other_data_sets_are_their_own():
    assert class_names.readable(['cats', 'Dogs']) == ['cats', 'Dogs']
    assert class_names.readable(ODD) == ['crane (n02012849)', 'cat', 'crane (n03126707)', ODD[3]]
    assert class_names.number_of('Tail less dog', ODD) == 3
    assert class_names.readable(ODD[:2])[0] == 'crane'


@pytest.mark.parametrize(
    ('wanted', 'words'),
    [
        ('tail-les dog', "did you mean 'tail less dog'?"),
        ('aeroplane', "classes 0..3 ('crane (n02012849)' to 'tail-less_dog')"),
        ('Crane', 'give 0 (n02012849) or 2 (n03126707)'),
    ],
)
def test_what_is_said_of_other_names(wanted, words):
    message = user_error(class_names.number_of, wanted, ODD)
    assert words in message
    assert repr(wanted) in message


def test_ids_that_are_names_of_other_classes_are_told():
    """As of folders '0' to '11', whose classes are sorted as text."""
    names = sorted(str(number) for number in range(12))
    assert names[:5] == ['0', '1', '10', '11', '2']
    first, second = class_names.other_readings([0, 2, 2, 10, 11, 99], names)[:2]
    assert "2 is taken for the number of a class, which is called '10'" in first
    assert "the class called '2' has the number 4" in first
    assert second.startswith('10 ')
    for plain in ([str(number) for number in range(12)], ['cat', 'dog'], ['n01440764']):
        assert class_names.other_readings(range(12), plain) == []
