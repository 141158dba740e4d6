"""The levels of samplers: equally spaced in u, ends included."""

import jax
import numpy as np
import pytest
from gaussian import levels64

from cfg_jax.diffusion import CosineSchedule, LinearBetaSchedule
from cfg_jax.samplers import GRIDS
from cfg_jax.samplers.grids import FlowGrid, Grid, RespacedGrid


def test_levels_are_equally_spaced_on_the_schedule():
    for num_steps in (2, 3, 128, 1024):
        levels = Grid().levels(num_steps)
        assert levels.shape == (num_steps,)
        assert (float(levels[0]), float(levels[-1])) == (-20.0, 20.0)
        # Rounding u_t by 6e-8 moves logsnr by up to |dlogsnr/du| 6e-8, steep beside the ends.
        expected = levels64(num_steps)[0]
        slope = np.pi * np.cosh(expected / 2)
        np.testing.assert_array_less(
            np.abs(levels - expected), 4e-6 + 1e-7 * slope * (np.abs(expected) < 20)
        )
        assert np.all(np.diff(levels) > 0)
    grid = Grid(CosineSchedule(-9.0, 4.0))
    assert (float(grid.levels(5)[0])) == pytest.approx(-9.0, abs=2e-6)
    assert (float(grid.levels(5)[-1])) == pytest.approx(4.0, abs=2e-6)


def test_levels_of_a_table_are_entries_of_it():
    """Of 1,000 discrete steps, 10 levels are every 111th, from the noisiest to the cleanest."""
    schedule = LinearBetaSchedule()
    levels = Grid(schedule).levels(10)
    np.testing.assert_allclose(levels, schedule.table()[::-111], rtol=0, atol=1e-4)


@pytest.mark.parametrize('num_steps', [1, 0, -3])
def test_fewer_than_two_levels_are_refused(num_steps):
    with pytest.raises(ValueError, match='at least 2'):
        Grid().levels(num_steps)


@pytest.mark.parametrize('name', GRIDS)
def test_every_grid_works_inside_a_compiled_function(name):
    grid = GRIDS.make(name, schedule=CosineSchedule(-9.0, 9.0))
    expected = grid.levels(7)
    assert expected.dtype == np.float32
    assert np.all(np.diff(expected) > 0)
    np.testing.assert_allclose(jax.jit(lambda: grid.levels(7))(), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize('num_steps', [2, 100, 250, 1000])
def test_levels_of_flows_increase_from_where_the_schedule_begins(num_steps):
    """Also where that is below t = 1, as on discrete steps: t = 0.9937 of log-SNR -10.1."""
    schedule = LinearBetaSchedule()
    levels = np.asarray(FlowGrid(schedule).levels(num_steps), np.float64)
    t = 1.0 / (1.0 + np.exp(levels / 2))
    np.testing.assert_allclose(levels[0], schedule.table()[-1], rtol=1e-6)
    np.testing.assert_allclose(np.diff(t), (0.04 - t[0]) / (num_steps - 1), rtol=0, atol=2e-6)


def test_a_flow_that_begins_below_its_end_is_refused():
    with pytest.raises(ValueError, match=r'above last=0\.04'):
        FlowGrid(CosineSchedule(7.0, 9.0)).levels(4)


@pytest.mark.parametrize('num_steps', [2, 21, 27, 250])
def test_respaced_steps_are_summed_as_published(num_steps):
    """Where i 999 / (T - 1) ends in .5, as 499.5 of T = 21 and 27, the sum's rounding decides."""
    step, steps = 0.0, []
    for _ in range(num_steps):
        steps.append(round(step))
        step += 999 / (num_steps - 1)
    table = LinearBetaSchedule().table()
    found = RespacedGrid(LinearBetaSchedule()).levels(num_steps)
    np.testing.assert_allclose(found, table[steps[::-1]], rtol=0, atol=1e-4)
