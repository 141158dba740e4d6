"""The model behind the page: what it offers, draws and refuses."""

import base64
import io

import numpy as np
import pytest
import served
from PIL import Image
from support import user_error

from cfg_jax.data import images
from cfg_jax.explorer import studio as studio_lib
from cfg_jax.explorer.studio import Studio
from cfg_jax.explorer.wishes import Wish


@pytest.fixture(scope='module')
def model():
    with served.untrained_model() as model:
        yield model


@pytest.fixture
def studio(model):
    return Studio(model, 'tiny')


def events(studio, **changes):
    wish = Wish(**served.WISH | changes)
    return list(studio.draw(studio.prepare(wish), wish))


def decoded(event):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(event['png']))))


def tiled(samples):
    """Up to four pictures as the page shows them: enlarged eight times."""
    enlarged = samples.repeat(8, axis=1).repeat(8, axis=2)
    return images.grid(enlarged, 2)[..., 0].astype(int)


def test_it_offers_what_the_model_can_do(studio):
    offer = studio.description
    assert (offer['name'], offer['size'], offer['num_steps']) == ('tiny', 8, 4)
    assert offer['classes'] == [str(i) for i in range(10)]
    rules = {entry['name']: entry for entry in offer['rules']}
    assert rules['interval']['options'] == 'lowest=0.0, highest=inf'
    # They need a second network.
    assert rules.keys().isdisjoint({'autoguidance', 'classifier_mean', 'classifier_eps'})
    assert {'ancestral', 'ddim', 'heun'} <= {entry['name'] for entry in offer['samplers']}
    assert offer['w'] == [0.0, 1.0]


def test_it_offers_no_more_steps_than_it_draws(model):
    assert Studio(model.with_settings(num_steps=1024), 'tiny').description['num_steps'] == 1000


def test_it_draws_what_the_model_samples(studio, model):
    """Three pictures in a square of four, the last place white."""
    found = events(studio, count=3)
    assert found[0] == {'compiling': True}
    assert found[-1].keys() == {'seconds', 'compiled'}
    assert found[-1]['compiled']
    last = found[-2]
    assert (last['step'], last['of']) == (4, 4)
    sample = model.sample([3] * 3, w=1.5, seed=5, sampler='ddim')
    assert np.abs(decoded(last) - tiled(sample)).max() <= 1
    again = events(studio, count=3, w=-2.0, seed=6, labels=(4, 9))
    assert 'compiling' not in again[0]
    assert not again[-1]['compiled']
    sample = model.sample([4, 9, 4], w=-2.0, seed=6, sampler='ddim')
    assert np.abs(decoded(again[-2]) - tiled(sample)).max() <= 1


def test_few_frames_of_many_quick_steps(studio, monkeypatch):
    monkeypatch.setattr(studio_lib, '_SECONDS_BETWEEN_FRAMES', 1e9)
    shown = [event['step'] for event in events(studio, count=3) if 'step' in event]
    assert shown == [1, 4]
    monkeypatch.setattr(studio_lib, '_SECONDS_BETWEEN_FRAMES', 0.0)
    shown = [event['step'] for event in events(studio, count=3) if 'step' in event]
    assert shown == [1, 2, 3, 4]


def test_few_settings_are_kept(studio):
    """The oldest go, or the memory would fill with compiled programs."""
    for steps in range(2, 22):
        studio.prepare(Wish(**served.WISH | {'num_steps': steps}))
    assert len(studio._watchers) == 8
    newest = Wish(**served.WISH | {'num_steps': 21})
    assert studio.prepare(newest) is studio.prepare(newest)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'guidance': 'intervall'}, "did you mean 'interval'?"),
        ({'guidance': 'interval:highest=x'}, "highest='x' is not a number"),
        ({'guidance': 'interval:highest=nan'}, 'lowest < highest'),
        ({'guidance': 'interval:file=/etc/passwd'}, 'has no option'),
        ({'guidance': 'os:system'}, "there is no guidance rule 'os'"),
        ({'guidance': '../../etc/passwd'}, 'there is no guidance rule'),
        ({'guidance': 'autoguidance'}, 'needs a guide network'),
        ({'guidance': 'cfg_plus_plus', 'sampler': 'ancestral'}, 'use --sampler=ddim'),
        ({'guidance': 'classifier_free+negative'}, 'not a modifier'),
        ({'guidance': 'two_conditions'}, 'a condition of two parts'),
        ({'sampler': 'dim'}, "did you mean 'ddim'?"),
        ({'sampler': 'euler:churn=-1'}, 'churn is at least 0'),
    ],
)
def test_what_this_model_cannot_draw(studio, changes, words):
    assert words in user_error(events, studio, **changes)
