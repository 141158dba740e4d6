"""Animations: images that form, and the same noise while w grows."""

import numpy as np
import pytest
from PIL import Image
from support import run_here, user_error

import cfg_jax
from cfg_jax import animation
from cfg_jax.data import images
from cfg_jax.keys import image_keys, per_image_noise, stream
from cfg_jax.pretrained import presets
from cfg_jax.pretrained.presets import Preset
from cfg_jax.samplers.ancestral import Ancestral


@pytest.fixture(scope='module')
def model(trained_workdir):
    return cfg_jax.load(trained_workdir)


def test_a_trajectory_goes_from_the_noise_to_the_image(model):
    """Level 0 is N(0, I) of the image's own key, whatever w; the last is what `sample` returns."""
    labels, w, numbers = [3, 7], [0.5, 2.0], [5, 9]
    z = model.trajectory(labels, w, seed=1, indices=numbers)
    assert z.shape == (model.sampler.num_steps + 1, 2, 8, 8, 1)
    noise = per_image_noise(stream(image_keys(1, np.array(numbers)), 1), (8, 8, 1))
    np.testing.assert_array_equal(z[0], images.to_uint8(noise))
    drawn = model.sample(labels, w, seed=1, indices=numbers)
    assert np.abs(z[-1].astype(int) - drawn).max() <= 1
    assert np.abs(z[1].astype(int) - drawn).max() > 8


def test_levels_that_are_asked_for(model):
    some = model.trajectory([3, 7], 1.0, levels=[0, 2, model.sampler.num_steps])
    every = model.trajectory([3, 7], 1.0)
    assert np.abs(some.astype(int) - every[[0, 2, -1]]).max() <= 1


def test_lengths_that_disagree(model):
    assert 'w' in user_error(model.trajectory, [3, 7], [0.5, 1.0, 2.0])
    assert 'levels are 0 to' in user_error(model.trajectory, [3], levels=[-1])


@pytest.mark.parametrize(('count', 'columns', 'side'), [(100, 1, 8), (64, 64, 64), (1, 1, 512)])
def test_a_picture_within_the_limit_of_webp_is_written(tmp_path, count, columns, side):
    animation.check_size(count, columns, side)
    frames = [(np.full((count, side, side, 3), level, np.uint8), 'x') for level in (0, 255)]
    animation.save(tmp_path / 'x.webp', frames, columns)
    with Image.open(tmp_path / 'x.webp') as file:
        assert file.n_frames == 2


def test_a_picture_beyond_the_limit_of_webp_is_refused_before_it_is_drawn():
    assert '16,383' in user_error(animation.check_size, 33, 33, 512)
    assert '--columns' in user_error(animation.check_size, 300, 1, 64)


class Recorder:
    """A model that keeps what it is asked for."""

    def __init__(self, levels=0):
        self.asked, self.sampler = [], Ancestral(levels)

    def sample(self, condition, w, seed, indices=None):
        self.asked.append((list(w), seed))
        return np.zeros((len(condition), 8, 8, 1), np.uint8)

    def trajectory(self, condition, w, seed, indices=None, levels=None):
        return np.asarray(levels, np.uint8).reshape(-1, 1, 1, 1, 1)


def test_w_grows_from_one_end_to_the_other():
    recorder = Recorder()
    frames = animation.growing_weight(recorder, [3, 3], -1.0, 3.0, seed=4)
    asked = np.array([w for w, _ in recorder.asked])
    np.testing.assert_allclose(asked[:, 0], asked[:, 1])
    np.testing.assert_allclose(np.diff(asked[:, 0]), 4.0 / (len(frames) - 1))
    assert (asked[0, 0], asked[-1, 0]) == (-1.0, 3.0)
    assert {seed for _, seed in recorder.asked} == {4}
    assert [frames[0][1], frames[-1][1]] == ['w = -1.00', 'w = 3.00']


@pytest.mark.parametrize('levels', [4, 40, 41, 255])
def test_long_trajectories_are_thinned(levels):
    frames = animation.denoising(Recorder(levels), [0], 1.0)
    shown = [int(z.item()) for z, _ in frames]
    assert (shown[0], shown[-1]) == (0, levels)
    assert len(shown) == min(levels + 1, 41)
    assert frames[-1][1] == f'level {levels} of {levels}'


def test_the_file_holds_the_frames(tmp_path):
    rng = np.random.default_rng(0)
    frames = [(rng.integers(0, 256, (3, 8, 8, 1), np.uint8), f'w = {i}') for i in range(4)]
    animation.save(tmp_path / 'x.webp', frames, columns=2)
    with Image.open(tmp_path / 'x.webp') as file:
        assert file.n_frames == 4
        assert file.info['loop'] == 0
        for number, (pictures, _) in enumerate(frames):
            file.seek(number)
            frame = np.asarray(file.convert('RGB'))
            grid = images.grid(pictures, 2)[..., 0]
            factor = frame.shape[1] // grid.shape[1]
            shown = frame[: grid.shape[0] * factor : factor, ::factor]
            np.testing.assert_array_equal(shown, grid[..., None].repeat(3, -1))
            caption = frame[grid.shape[0] * factor :]
            assert caption.min() < 100 < caption.mean()
    assert '.webp' in user_error(animation.save, tmp_path / 'x.gif', frames, 2)


def test_the_command_animates_and_names(trained_workdir, tmp_path, capsys):
    base = ['scripts/sample.py', f'--model={trained_workdir}', '--labels=3,8']
    out = tmp_path / 'x.webp'
    status, lines, errors = run_here(capsys, *base, '--w=1', '--animate=denoising', f'--out={out}')
    assert (status, errors) == (0, [])
    assert lines == [f'5 frames of 2 images written to {out}']
    assert Image.open(out).n_frames == 5
    named = tmp_path / 'named.png'
    status, _, errors = run_here(capsys, *base, '--w=0,1', '--names', f'--out={named}')
    assert (status, errors) == (0, [])
    assert Image.open(named).size[0] > 200
    for wrong, word in (
        (['--animate=w', '--w=1'], '--w=0,4'),
        (['--animate=w', '--names'], '--names'),
        (['--animate=denoising', f'--out={tmp_path}/x.png'], '.webp'),
    ):
        status, _, errors = run_here(capsys, *base, *wrong)
        assert status == 2
        assert len(errors) == 1
        assert word in errors[0]


@pytest.fixture
def animated(trained_workdir, tmp_path, capsys):
    """animated(*options) -> the last line and the bytes of an animation of denoising."""

    def run(*options):
        out = tmp_path / 'x.webp'
        base = f'--model={trained_workdir}', '--animate=denoising', f'--out={out}'
        status, lines, errors = run_here(capsys, 'scripts/sample.py', *base, *options)
        assert (status, errors[:-1]) == (0, [])  # a preset logs what was published
        return lines[-1].partition(' written')[0], out.read_bytes()

    return run


def test_an_animation_has_the_presets_weight(animated, monkeypatch):
    strong = Preset('strong', 'FID 1', fits={}, settings={'sweep.w': (3.0,)})
    monkeypatch.setitem(presets.PRESETS, 'strong', strong)
    _, found = animated('--labels=3,8', '--preset=strong')
    assert found == animated('--labels=3,8', '--w=3')[1]
    assert found != animated('--labels=3,8')[1]


def test_one_label_at_several_weights_forms_from_one_noise(animated, tmp_path):
    """As in the picture without --animate: one image for each weight."""
    line, _ = animated('--labels=8', '--w=0,3')
    assert line == '5 frames of 2 images'
    with Image.open(tmp_path / 'x.webp') as file:
        first = np.asarray(file.convert('RGB'))
    side = 8 * (first.shape[1] // 17)
    np.testing.assert_array_equal(first[:side, :side], first[:side, -side:])
