"""Pictures while they form: the last is what `sample` draws, and each setting compiles once."""

import jax.numpy as jnp
import numpy as np
import pytest
from served import untrained_model
from support import user_error

from cfg_jax.watching import Watcher


@pytest.fixture(scope='module')
def model():
    with untrained_model() as model:
        yield model


def pictures(watcher, w, seed=3, labels=(3, 7), indices=(4, 9)):
    condition = watcher.model.conditioning.from_user(labels)
    return [picture() for picture in watcher.pictures(seed, indices, condition, w)]


@pytest.mark.parametrize('w', [0.0, 2.0])
@pytest.mark.parametrize('sampler', ['ancestral', 'ddim', 'heun'])
def test_the_last_picture_is_the_sample(model, sampler, w):
    seen = pictures(Watcher(model.with_settings(sampler=sampler)), w)
    assert len(seen) == model.sampler.num_steps
    sample = model.sample([3, 7], w, seed=3, indices=[4, 9], sampler=sampler)
    assert seen[-1].dtype == np.uint8
    assert np.abs(seen[-1].astype(int) - sample).max() <= 1
    assert np.abs(seen[0].astype(int) - sample).max() > 8


def test_the_first_picture_is_what_the_noise_promises(model):
    """x~ = (z - sigma eps) / alpha of the start, with the guided eps of eq. (6)."""
    watcher = Watcher(model.with_settings(sampler='ddim'))
    first = pictures(watcher, 2.0)[0]
    given = model.conditioning.from_user([3, 7])
    numbers = jnp.uint32(3), jnp.uint32([4, 9])
    _, z, _ = model.start(model.params, *numbers, given, None)
    logsnr = model.sampler.grid.levels(model.sampler.num_steps)[0]
    eps = 3.0 * model.eps(z, logsnr, given)
    eps = eps - 2.0 * model.eps(z, logsnr, model.conditioning.null(given))
    alpha, sigma = np.sqrt(1 / (1 + np.exp(-logsnr))), np.sqrt(1 / (1 + np.exp(logsnr)))
    x = (np.asarray(z) - sigma * np.asarray(eps)) / alpha
    np.testing.assert_allclose(first, np.clip(127.5 * x + 127.5, 0, 255), rtol=0, atol=2)


def test_a_setting_is_compiled_once(model, monkeypatch):
    """Neither seed, labels, numbers nor a weight trace the network again; w = 0 is another one."""
    watcher = Watcher(model.with_settings(sampler='ddim'))
    traced = []
    start = watcher.model.start

    def counted(*arguments):
        traced.append(len(arguments))
        return start(*arguments)

    monkeypatch.setattr(watcher.model, 'start', counted)
    pictures(watcher, 2.0)
    assert len(traced) == 2  # the start, and the step
    for w, seed, labels, indices in ((-1.0, 3, (3, 7), (4, 9)), (4.0, 2**32 - 1, (0, 0), (1, 2))):
        pictures(watcher, w, seed, labels, indices)
    assert len(traced) == 2
    pictures(watcher, 0.0)
    pictures(watcher, 0.0, seed=1)
    assert len(traced) == 4


def test_wrong_arguments(model):
    watcher = Watcher(model)
    assert '2 images' in user_error(pictures, watcher, 1.0, labels=(3, 4, 5))
    assert 'seeds' in user_error(pictures, watcher, 1.0, seed=-1)
    assert 'finite' in user_error(pictures, watcher, float('nan'))


def test_latents_are_decoded_only_where_they_are_looked_at(model, monkeypatch):
    """Each picture is that of its own step, in whatever order one looks."""
    seen = pictures(Watcher(model.with_settings(sampler='ddim')), 2.0)
    watcher = Watcher(model.with_settings(sampler='ddim'))
    decoded = []
    monkeypatch.setattr(watcher.model, 'decoded', lambda params, x: decoded.append(x.shape) or -x)
    given = model.conditioning.from_user([3, 7])
    steps = list(watcher.pictures(3, [4, 9], given, 2.0))
    assert decoded == []
    for step in (3, 0):
        negative = 255 - steps[step]().astype(int)
        np.testing.assert_allclose(negative, seen[step], rtol=0, atol=1)
    assert decoded == [(2, 8, 8, 1)]  # traced once
