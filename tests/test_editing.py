"""Editing with a trained model: from Python and from the command line."""

import numpy as np
import pytest
from PIL import Image
from support import make_tiny_config, run_here, toy_instead_of_networks, user_error

import cfg_jax
from cfg_jax import editing
from cfg_jax.data.images import from_uint8, to_uint8
from cfg_jax.training import loop

SIDE = 8


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('trained') / 'run'
    with toy_instead_of_networks():
        loop.train(make_tiny_config(), workdir)
    return workdir


@pytest.fixture(scope='module')
def model(workdir):
    with toy_instead_of_networks():
        return cfg_jax.load(workdir)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 1), dtype=np.uint8)


def half():
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:, 4:] = True
    return mask


def test_every_grey_level_survives_the_way_to_floats_and_back():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(from_uint8(levels)), levels)


def test_strength_zero_returns_the_image(model, image):
    for mask in (None, half()):
        found = editing.edit(model, [3, 4], image, strength=0, mask=mask, w=2.0)
        np.testing.assert_array_equal(found, np.stack([image, image]))


def test_known_pixels_are_kept_exactly(model, image):
    mask = half()
    found = editing.edit(model, [3, 8], image, mask=mask, w=1.0, sampler='ddim', resample=2)
    np.testing.assert_array_equal(found[:, ~mask], np.stack([image, image])[:, ~mask])
    assert np.any(found[:, mask] != image[mask])
    images = np.stack([image, 255 - image])
    masks = np.stack([mask, ~mask])
    found = editing.edit(model, [3, 8], images, mask=masks, strength=0.5)
    for one, its_image, its_mask in zip(found, images, masks, strict=True):
        np.testing.assert_array_equal(one[~its_mask], its_image[~its_mask])


def test_strength_one_is_sampling(model, image):
    found = editing.edit(model, [3, 8], image, strength=1.0, w=1.0, seed=4)
    plain = model.sample([3, 8], w=1.0, seed=4)
    assert np.abs(found.astype(int) - plain).max() <= 1


def test_an_image_is_the_same_alone_and_among_others(model, image):
    together = editing.edit(model, [3, 8, 5], image, strength=0.75, w=[0.0, 1.0, 2.0])
    alone = editing.edit(model, [8], image, strength=0.75, w=[1.0], indices=[1])
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 1
    weaker = editing.edit(model, [8], image, strength=0.25, w=[1.0], indices=[1])
    assert np.abs(weaker.astype(int) - image).mean() < np.abs(alone.astype(int) - image).mean()


def test_mistakes_are_one_sentence(model, image):
    def message(*args, **kwargs):
        return user_error(editing.edit, model, *args, **kwargs)

    assert 'uint8' in message([3], image / 255.0)
    assert '(8, 8, 1)' in message([3], image[:4])
    assert '2 edited images' in message([3, 4], np.stack([image] * 3))
    assert '(8, 8)' in message([3], image, mask=np.ones((4, 8), bool))
    assert 'bool' in message([3], image, mask=np.ones((8, 8)))
    assert 'strength is in [0, 1]' in message([3], image, strength=1.1)
    for resample in (0, 1.5, '2'):
        words = f'resample is at least 1, a whole number; got {resample!r}'
        assert words in message([3], image, mask=half(), resample=resample)
    assert 'nothing is known' in message([3], image, resample=3)
    assert 'ancestral, ddim' in message([3], image, mask=half(), sampler='dpmpp_2m')


def test_pictures_that_are_not_there(model, tmp_path):
    for read in (editing.read_image, editing.read_mask):
        for path in (tmp_path / 'none.png', tmp_path):
            assert user_error(read, path, model.config.data) == f'there is no picture {path}'


def save(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.usefixtures('toy_networks')
def test_the_command(workdir, tmp_path, capsys, image):
    init = save(tmp_path / 'init.png', image[..., 0])
    mask = save(tmp_path / 'mask.png', np.where(half(), 255, 0).astype(np.uint8))
    out = tmp_path / 'out.png'
    arguments = [f'--model={workdir}', '--labels=3', f'--init={init}', f'--out={out}']

    def pixels():
        picture = np.asarray(Image.open(out))
        step = picture.shape[0] // SIDE
        return picture[::step, ::step]

    def run(*more):
        return run_here(capsys, 'scripts/sample.py', *arguments, *more)

    assert run('--strength=0')[0] == 0
    np.testing.assert_array_equal(pixels(), image[..., 0])
    assert run(f'--mask={mask}', '--w=1', '--resample=2')[0] == 0
    np.testing.assert_array_equal(pixels()[:, :4], image[:, :4, 0])
    small = save(tmp_path / 'small.png', image[:4, :, 0])
    (tmp_path / 'text.png').write_text('no picture')
    for more, words in (
        ([f'--init={small}'], "small.png has 8x4 pixels, the model's images 8x8"),
        ([f'--mask={small}'], 'small.png has 8x4 pixels'),
        ([f'--init={tmp_path / "text.png"}'], 'text.png cannot be decoded'),
        ([f'--init={tmp_path / "none.png"}'], 'there is no picture'),
        (['--strength=2'], 'strength is in [0, 1]'),
        (['--init=', '--strength=0.5'], 'give it as --init'),
        (['--init=', '--resample=2'], 'give it as --init'),
        (['--sampler=unipc', f'--mask={mask}'], 'UniPC extrapolates'),
    ):
        status, _, errors = run(*more)
        assert status == 2
        assert len(errors) == 1
        assert words in errors[0], errors
