"""Averages chosen after training: the profiles in closed form, and against averages kept in it."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from scipy.integrate import quad
from support import (
    assert_trees_equal,
    checkpoint_steps,
    logged,
    make_tiny_config,
    run_here,
    toy_instead_of_networks,
    user_error,
)

from cfg_jax import files, loading
from cfg_jax.metrics.features import classifier
from cfg_jax.training import loop, posthoc_ema
from cfg_jax.training.step import AveragedState, TrainState

LENGTHS = (0.04, 0.07, 0.15)
STEPS, EVERY = 64, 4


def profile(sigma_rel, step):
    """Weights of the parameters after steps 1..step, from the definition."""
    power = posthoc_ema.exponent(sigma_rel) + 1
    n = np.arange(1.0, step + 1)
    return (n**power - (n - 1) ** power) / step**power


@pytest.mark.parametrize('sigma_rel', [0.01, 0.05, 0.1, 0.28])
def test_the_exponent_gives_the_deviation(sigma_rel):
    g = posthoc_ema.exponent(sigma_rel)
    mean, square = (quad(lambda x, k=k: (g + 1) * x ** (g + k), 0, 1)[0] for k in (1, 2))
    assert g > 0
    assert np.sqrt(square - mean**2) == pytest.approx(sigma_rel, rel=1e-6)


def test_published_exponents():
    """EDM2's, appendix C: sigma_rel 0.05 and 0.10 are gamma 16.97 and 6.94."""
    assert posthoc_ema.exponent(0.05) == pytest.approx(16.97, abs=0.005)
    assert posthoc_ema.exponent(0.10) == pytest.approx(6.94, abs=0.005)


@pytest.mark.parametrize('sigma_rel', [0.0, -0.1, 0.29, 1.0])
def test_lengths_that_there_are_not(sigma_rel):
    assert 'at most 0.28' in user_error(posthoc_ema.exponent, sigma_rel)


def test_the_updates_give_the_profiles():
    params = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    averages = posthoc_ema.start({'a': jnp.full(5, 1e6)})  # the start is forgotten
    for step in range(1, 41):
        averages = posthoc_ema.update(
            averages, {'a': jnp.asarray(params[step - 1])}, jnp.int32(step)
        )
    for average, sigma_rel in zip(averages, posthoc_ema.KEPT, strict=True):
        np.testing.assert_allclose(average['a'], profile(sigma_rel, 40) @ params, rtol=0, atol=2e-6)


@pytest.mark.parametrize(('s', 't'), [(1.0, 1.0), (0.4, 1.0), (1.0, 0.3), (0.7, 2.5)])
def test_inner_products_are_those_of_the_profiles(s, t):
    a, b = 6.94, 16.97

    def both(n):
        return (a + 1) * n**a / s ** (a + 1) * (b + 1) * n**b / t ** (b + 1)

    assert posthoc_ema.inner(s, a, t, b) == pytest.approx(quad(both, 0, min(s, t))[0], rel=1e-6)


def test_a_kept_length_is_itself():
    steps = [10, 20, 30]
    for i, sigma_rel in enumerate(posthoc_ema.KEPT):
        found = posthoc_ema.combine(steps, 30, sigma_rel)
        expected = np.zeros((3, 2))
        expected[-1, i] = 1.0
        np.testing.assert_allclose(found.weights, expected, atol=1e-6)
        assert found.error < 1e-4


@pytest.mark.parametrize('sigma_rel', LENGTHS)
def test_more_averages_meet_a_profile_better(sigma_rel):
    errors = []
    for every in (100, 50, 25):
        steps = list(range(every, 801, every))
        found = posthoc_ema.combine(steps, 800, sigma_rel)
        given = [[profile(kept, at) for kept in posthoc_ema.KEPT] for at in steps]
        total = sum(
            w * np.pad(p, (0, 800 - len(p)))
            for pair, weights in zip(given, found.weights, strict=True)
            for p, w in zip(pair, weights, strict=True)
        )
        goal = profile(sigma_rel, 800)
        measured = np.linalg.norm(total - goal) / np.linalg.norm(goal)
        assert found.weights.sum() == pytest.approx(1.0, abs=1e-9)
        assert measured == pytest.approx(found.error, rel=0.1)  # sums for integrals
        errors.append(found.error)
    assert errors[2] < errors[1] / 2 < errors[0] / 4


def test_a_shorter_profile_than_all_averages_is_not_met():
    assert posthoc_ema.combine([100, 200], 200, 0.005).error > 0.5


def with_averages(**changes):
    return make_tiny_config(
        train__steps=STEPS,
        train__averages_every=EVERY,
        train__checkpoint_every=16,
        train__log_every=STEPS,
        train__sample_every=10 * STEPS,
        **changes,
    )


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A training with averages, and the averages of three other lengths kept while it ran."""
    workdir = tmp_path_factory.mktemp('trained') / 'run'
    kept = dict.fromkeys(LENGTHS)
    map_step = loop.devices.map_step

    def recording(step):
        mapped = map_step(step)

        def run(state, batch):
            state, metrics = mapped(state, batch)
            record(int(state.step), jax.device_get(state.params))
            return state, metrics

        return run

    def record(step, params):
        params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
        for length, average in kept.items():
            share = 1 - (1 - 1 / step) ** (posthoc_ema.exponent(length) + 1)
            kept[length] = (
                params
                if average is None
                else jax.tree.map(lambda a, p, s=share: a + s * (p - a), average, params)
            )

    with toy_instead_of_networks(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.devices, 'map_step', recording)
        state = loop.train(with_averages(), workdir)
    return workdir, state, kept


def relative(found, expected):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    squares = [(np.sum((a - b) ** 2), np.sum(b**2)) for a, b in pairs]
    return np.sqrt(sum(s for s, _ in squares) / sum(t for _, t in squares))


@pytest.mark.parametrize('length', LENGTHS)
def test_reconstructed_is_the_average_kept_during_training(trained, length):
    workdir, state, kept = trained
    found, step, _ = posthoc_ema.reconstruct(workdir, length)
    assert step == STEPS
    assert jax.tree.structure(found) == jax.tree.structure(kept[length])
    assert relative(found, kept[length]) < 1e-4
    # The averages differ from each other and from the last parameters by far more.
    others = [kept[other] for other in LENGTHS if other != length]
    for other in (*others, jax.device_get(state.params)):
        assert relative(found, other) > 1e-3


def test_an_earlier_step(trained):
    workdir, _, _ = trained
    found, step, _ = posthoc_ema.reconstruct(workdir, 0.10, 32)
    assert step == 32
    tensors = safetensors.numpy.load_file(workdir / 'averages' / 'step_00000032.safetensors')
    for name, array in tensors.items():
        if name.startswith('0.1/'):
            leaf = found
            for key in name.split('/')[1:]:
                leaf = leaf[key]
            np.testing.assert_allclose(leaf, array, rtol=0, atol=1e-5)
    assert 'averages of step 33; it has: 4, 8, ' in user_error(
        posthoc_ema.reconstruct, workdir, 0.10, 33
    )


def hashes(workdir):
    return {p.name: files.sha256_of_file(p) for p in (workdir / 'averages').iterdir()}


@pytest.mark.usefixtures('toy_networks')
def test_resuming_is_exact(trained, tmp_path):
    workdir, state, _ = trained
    copy = shutil.copytree(workdir, tmp_path / 'run')
    last = checkpoint_steps(copy)[-1]
    assert last == STEPS
    shutil.rmtree(copy / 'checkpoints' / str(last))
    for path in (copy / 'averages').glob('step_000000[56]*'):  # killed between step and file
        path.unlink()
    again = loop.train(with_averages(), copy)
    assert isinstance(again, AveragedState)
    assert_trees_equal(again, state)
    assert hashes(copy) == hashes(workdir)


@pytest.mark.usefixtures('toy_networks')
def test_without_the_field_nothing_is_kept(tmp_path):
    config = make_tiny_config(train__steps=2, train__checkpoint_every=2)
    state = loop.train(config, tmp_path / 'run')
    assert type(state) is TrainState
    assert not (tmp_path / 'run' / 'averages').exists()
    message = user_error(posthoc_ema.reconstruct, tmp_path / 'run', 0.1)
    assert '--config.train.averages_every=N' in message
    config.train.averages_every = 1
    assert 'train.averages_every' in user_error(loop.train, config, tmp_path / 'run')


@pytest.mark.usefixtures('toy_networks')
def test_a_full_disk_costs_a_warning(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(posthoc_ema, 'write', full)
    config = make_tiny_config(train__steps=2, train__averages_every=1)
    with logged() as lines:
        loop.train(config, tmp_path / 'run')
    assert len([line for line in lines if 'averages of step' in line]) == 2


@pytest.mark.usefixtures('toy_networks')
def test_commands(trained, tmp_path, capsys):
    workdir = shutil.copytree(trained[0], tmp_path / 'run')
    status, lines, _ = run_here(capsys, 'scripts/ema.py', workdir, '--sigma_rel=0.07,0.15')
    assert status == 0
    out = workdir / 'ema' / f'sigma_rel_0.07-step{STEPS}.safetensors'
    assert f'written to {out}' in lines
    direct, exported = loading.load(workdir, ema=0.07), loading.load(out)
    assert_trees_equal(jax.device_get(direct.params), jax.device_get(exported.params))
    assert direct.provenance()['weights_sha256'] == exported.provenance()['weights_sha256']
    for model in (direct, exported):
        assert model.provenance()['weights'] == 'ema of sigma_rel 0.07'
    half = tmp_path / 'half.safetensors'
    arguments = f'--model={out}', f'--out={half}', '--dtype=bfloat16'
    assert run_here(capsys, 'scripts/export.py', *arguments)[0] == 0
    assert loading.load(half).provenance()['weights'] == 'ema of sigma_rel 0.07'
    card = (tmp_path / 'MODEL_CARD.md').read_text()
    assert 'average of the parameters that was made after training: ema of sigma_rel 0.07.' in card
    np.testing.assert_array_equal(direct.sample([3], w=1.0), exported.sample([3], w=1.0))
    for arguments, words in (
        (['--sigma_rel=0.5'], 'at most 0.28'),
        (['--sigma_rel=0.1', '--step=3'], 'no averages of step 3'),
    ):
        status, _, errors = run_here(capsys, 'scripts/ema.py', workdir, *arguments)
        assert status == 2
        assert words in errors[-1]
    (workdir / 'averages' / 'step_00000008.safetensors').write_bytes(b'cut')
    status, _, errors = run_here(capsys, 'scripts/ema.py', workdir, '--sigma_rel=0.1')
    assert status == 2
    assert 'step_00000008.safetensors is damaged' in errors[-1]
    assert 'leave the EMA out' in user_error(loading.load, out, ema=0.1)


@pytest.mark.usefixtures('toy_networks')
def test_a_sweep_over_lengths(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(classifier, '_EPOCHS', 2)
    workdir = shutil.copytree(trained[0], tmp_path / 'run')
    arguments = [f'--model={workdir}', '--name=x', '--w=1', '--num_samples=20']
    status, lines, errors = run_here(
        capsys, 'scripts/sweep.py', *arguments, '--ema=0.05,0.15', '--bootstrap=0'
    )
    assert status == 0, errors
    table = [line.split(' | ')[:2] for line in lines if line.startswith('| 0.')]
    assert table == [['| 0.05', '1'], ['| 0.15', '1']]
    names = sorted(path.name for path in (workdir / 'sweep').iterdir())
    assert names == ['x-ema0.05', 'x-ema0.15']
