"""Grids of samples: the same images of the model, panel by panel."""

import numpy as np
import pytest
from PIL import Image
from support import experiment, run_here

from cfg_jax.inference import Generated, Model

figures_samples = experiment('figures_samples')


class Recorder(Model):
    """A model that draws flat images and remembers what it was asked for."""

    def __init__(self, config):
        super().__init__(config)
        self.asked = []

    def generate(self, seed, indices, condition, w):
        self.asked.append((seed, list(indices), list(condition), w))
        side, count = self.config.data.image_size, len(condition)
        return Generated(np.full((count, side, side, 1), w / 4.0, np.float32), np.full(count, 4))


@pytest.mark.parametrize(
    ('number', 'weights', 'kinds'),
    [
        (1, (0.0, 0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 4.0), 1),
        (3, (0.0, 3.0), 1),
        (6, (0.0, 1.0, 3.0), 2),
        (7, (0.0, 1.0, 4.0), 2),
        (8, (0.0, 3.0), 1),
    ],
)
def test_every_panel_has_the_same_noise_and_classes(tiny_config, tmp_path, number, weights, kinds):
    model = Recorder(tiny_config)
    path = tmp_path / 'figure.png'
    figures_samples.draw(path, number, model, 7, 5)
    assert tuple(w for *_, w in model.asked) == kinds * weights
    assert {seed for seed, *_ in model.asked} == {5}
    count = len(weights)
    for kind in range(kinds):
        panels = model.asked[kind * count : (kind + 1) * count]
        assert all(panel[1:3] == panels[0][1:3] for panel in panels)
        one_class = number == 1 or kind == 1
        assert (set(panels[0][2]) == {7}) == one_class
    assert np.asarray(Image.open(path).convert('L')).std() > 5


def test_command(trained_workdir, tmp_path, capsys):
    command = ['experiments/figures_samples.py', f'--workdir={trained_workdir}']
    status, lines, errors = run_here(capsys, *command, '--figures=8', f'--out={tmp_path}')
    assert (status, errors) == (0, [])
    assert (tmp_path / 'figure8.png').exists()
    assert str(tmp_path / 'figure8.png') in lines[-1]
    status, _, errors = run_here(capsys, *command, '--figures=2')
    assert status == 2
    assert '1, 3, 6, 7, 8' in errors[0]
    status, _, errors = run_here(capsys, *command, '--label=10', '--figures=1')
    assert status == 2
    assert '--label=10' in errors[0]
    assert '0..9' in errors[0]
