"""The loop: what it writes, resuming, stopping at a loss that is not finite. One device."""

import itertools
import json
import math
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from support import (
    CLASSIFIER,
    assert_trees_equal,
    checkpoint_arrays,
    checkpoint_hash,
    checkpoint_steps,
    logged,
    make_tiny_config,
    user_error,
)
from toy_runs import copy_at_step_3, metric_rows

from cfg_jax import config as config_lib, locks
from cfg_jax.data import pipeline
from cfg_jax.training import (
    checkpoints,
    loop,
    step as train_step,
    workdirs,
    writers,
)


def first_example(batch):
    """The number, in the data set, of the first example of batch number `batch`, by its pixels."""
    config = make_tiny_config()
    batches = pipeline.TrainingBatches(config.data, batch_size=16, seed=0)
    batches.set_state({'next_batch': batch - 1})
    image = next(batches)['image'][0]
    batches.close()
    (everything,) = pipeline.one_epoch(config.data, 'train', 2000)
    (number,) = np.flatnonzero((everything['image'] == image).all(axis=(1, 2, 3)))
    return number


def nan_at(monkeypatch, bad_batch):
    """Makes one pixel of batch number `bad_batch` (from 1) not a number."""
    take = pipeline.TrainingBatches.__next__

    def take_and_spoil(self):
        batch = take(self)
        if self.get_state()['next_batch'] == bad_batch:
            batch['image'] = batch['image'].copy()
            batch['image'][0, 0, 0, 0] = np.nan
        return batch

    monkeypatch.setattr(pipeline.TrainingBatches, '__next__', take_and_spoil)


def test_writes_config_metrics_checkpoints_and_samples(trained_workdir):
    config = make_tiny_config()
    written = json.loads((trained_workdir / 'config.json').read_text())
    assert config_lib.from_json(written).to_dict() == config.to_dict()
    assert checkpoint_steps(trained_workdir) == [3, 6]
    picture = Image.open(trained_workdir / 'samples' / 'step_00000006.png')
    assert picture.mode == 'L'
    # Ten classes by three w, 8x8 with a white line between them, enlarged to at least 256.
    assert picture.size == (10 * 26, 10 * 89)
    assert np.asarray(picture).std() > 1.0
    assert [file.name for file in (trained_workdir / 'samples').iterdir()] == ['step_00000006.png']


def test_metrics_have_the_promised_keys(trained_workdir):
    rows = metric_rows(trained_workdir)
    assert [row['step'] for row in rows] == [2, 3, 4, 6]  # every log_every, and every checkpoint
    keys = {'loss', 'grad_norm', 'param_norm', 'update_norm', 'learning_rate'}
    keys |= {'images_per_second', 'images_seen', 'input_seconds'}
    keys |= {'updates_skipped', 'grad_norm_spikes'}
    config = make_tiny_config()
    edges = train_step.logsnr_bin_edges(config)
    bins = {f'loss_logsnr_{low:+.1f}_{high:+.1f}' for low, high in itertools.pairwise(edges)}
    assert len(bins) == train_step.LOGSNR_BINS
    for row in rows:
        assert keys <= row.keys()
        assert row.keys() - keys - {'step'} <= bins
        assert len(row.keys() & bins) >= 6
        assert all(math.isfinite(value) for value in row.values())
        assert row['images_seen'] == row['step'] * config.train.batch_size
        assert row['images_per_second'] > 0
    rates = [2e-3 * share for share in ((1 / 4 + 2 / 4) / 2, 3 / 4, 1.0, 1.0)]
    np.testing.assert_allclose([row['learning_rate'] for row in rows], rates, rtol=1e-6)


def test_learns(trained_workdir):
    rows = metric_rows(trained_workdir)
    # The network starts at eps = 0, whose loss is E eps^2 = 1.
    assert rows[0]['loss'] == pytest.approx(1.0, abs=0.25)
    assert rows[-1]['loss'] < rows[0]['loss']


def test_checkpoint_holds_the_whole_state(trained_workdir):
    state = train_step.create_state(make_tiny_config())
    with checkpoints.Checkpoints(trained_workdir) as saved:
        restored, data_state = saved.restore(6, state)
    assert data_state == {'next_batch': 6, 'examples': 1797, 'devices': 1, 'processes': 1}
    assert int(restored.step) == 6
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert len(checkpoint_arrays(trained_workdir, 6)) == len(jax.tree.leaves(state))


def test_two_halves_are_the_whole_bit_for_bit(toy_run, toy_networks, tmp_path):
    workdir = tmp_path / 'run'
    half = loop.train(make_tiny_config(train__steps=3), workdir)
    assert checkpoint_steps(workdir) == [3]
    assert int(half.step) == 3
    with logged() as reports:
        whole = loop.train(make_tiny_config(), workdir)
    assert reports[0].startswith('resuming from step 3')
    assert checkpoint_hash(workdir, 3) == checkpoint_hash(toy_run, 3)
    ours, theirs = checkpoint_arrays(workdir, 6), checkpoint_arrays(toy_run, 6)
    assert_trees_equal(ours, theirs)
    earlier = checkpoint_arrays(workdir, 3)
    moved = [name for name in ours if not np.array_equal(ours[name], earlier[name])]
    assert len(moved) > 0.9 * len(ours)
    with checkpoints.Checkpoints(workdir) as saved:
        assert_trees_equal(saved.restore(6, whole)[0], whole)
    rows = metric_rows(workdir)
    assert [row['step'] for row in rows] == [2, 3, 4, 6]
    straight = metric_rows(toy_run)
    assert [row['loss'] for row in rows] == [row['loss'] for row in straight]
    names = [f.read_bytes() for f in (workdir / 'samples').glob('*6.png')]
    assert names == [f.read_bytes() for f in (toy_run / 'samples').glob('*6.png')]


def test_a_finished_run_is_left_alone(toy_run, toy_networks, tmp_path):
    workdir = shutil.copytree(toy_run, tmp_path / 'run')
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob('*') if path.is_file()}
    with logged() as reports:
        state = loop.train(make_tiny_config(), workdir)
    assert int(state.step) == 6
    assert reports == [f'{workdir} is already trained to step 6']
    after = {path: path.stat().st_mtime_ns for path in workdir.rglob('*') if path.is_file()}
    assert after == before


def test_many_may_ask_for_a_finished_run(toy_run, toy_networks, tmp_path, monkeypatch):
    """As jobs that measure it side by side, with samplers of their own."""
    workdir, held = shutil.copytree(toy_run, tmp_path / 'run'), note_locks(monkeypatch)
    assert int(loop.train(make_tiny_config(sampler__num_steps=9), workdir).step) == 6
    assert held == []
    assert workdirs.read_config(workdir).sampler.num_steps == make_tiny_config().sampler.num_steps
    assert 'p_uncond' in user_error(loop.train, make_tiny_config(p_uncond=0.5), workdir)


def test_a_finished_run_that_is_trained_on_meanwhile_is_the_others(toy_run, toy_networks, tmp_path):
    """What that one is saving would be taken for remains of a killed one."""
    workdir = shutil.copytree(toy_run, tmp_path / 'run')
    saving = workdir / 'checkpoints' / '7.orbax-checkpoint-tmp'
    saving.mkdir()
    with locks.hold(workdir / '.training', 'being trained'):
        assert 'being trained' in user_error(loop.train, make_tiny_config(), workdir)
        assert saving.is_dir()


def note_locks(monkeypatch):
    """The locks that are held from now on."""
    held, hold = [], locks.hold

    def noted(*args):
        held.append(args)
        return hold(*args)

    monkeypatch.setattr(locks, 'hold', noted)
    return held


def test_a_finished_run_whose_last_checkpoint_is_damaged_is_claimed(
    toy_run, toy_networks, tmp_path, monkeypatch
):
    workdir, held = shutil.copytree(toy_run, tmp_path / 'run'), note_locks(monkeypatch)
    largest = max((workdir / 'checkpoints' / '6').rglob('*'), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    assert int(loop.train(make_tiny_config(), workdir).step) == 6
    assert len(held) == 1
    assert checkpoint_steps(workdir)[-1] == 6


def test_nan_names_the_step_and_keeps_the_last_good_checkpoint(
    toy_run, toy_networks, tmp_path, monkeypatch
):
    workdir = copy_at_step_3(toy_run, tmp_path / 'run')
    with monkeypatch.context() as patch:
        nan_at(patch, 5)
        message = user_error(loop.train, make_tiny_config(), workdir)
    assert 'stopped at step 5' in message
    assert 'checkpoint of step 3 is kept' in message
    assert 'log-SNR bins' in message
    # Pixel 0 of the batch's first example is the one that was spoilt; its number comes first.
    assert f'examples {first_example(5)},' in message
    assert checkpoint_steps(workdir) == [3]
    assert checkpoint_hash(workdir, 3) == checkpoint_hash(toy_run, 3)
    rows = writers.read_metrics(workdir)
    assert [row['step'] for row in rows] == [2, 3, 4]
    # With the cause gone, the same command goes on as if nothing had happened.
    loop.train(make_tiny_config(), workdir)
    assert checkpoint_hash(workdir, 6) == checkpoint_hash(toy_run, 6)


def test_a_bad_batch_is_skipped_and_changes_nothing(toy_networks, tmp_path, monkeypatch):
    """Parameters after it are those of before; the run goes on from there and counts it."""
    config = make_tiny_config(
        train__max_skipped=1, train__checkpoint_every=1, train__keep_checkpoints=6
    )
    with monkeypatch.context() as patch, logged() as lines:
        nan_at(patch, 5)
        loop.train(config, tmp_path / 'run')
    assert [line for line in lines if line.startswith('warning: step 5 is skipped')]
    before, after = (checkpoint_arrays(tmp_path / 'run', step) for step in (4, 5))
    for name, array in before.items():
        if name == "['step']":
            assert int(after[name]) == int(array) + 1
        else:
            np.testing.assert_array_equal(after[name], array, err_msg=name)
    later = checkpoint_arrays(tmp_path / 'run', 6)
    assert any(not np.array_equal(later[name], before[name]) for name in before if 'params' in name)
    rows = {row['step']: row for row in writers.read_metrics(tmp_path / 'run')}
    assert rows[4]['updates_skipped'] == 0
    assert rows[6]['updates_skipped'] == 1
    assert all(math.isfinite(value) for row in rows.values() for value in row.values())


def test_divergence_before_the_first_checkpoint(toy_networks, tmp_path, monkeypatch):
    nan_at(monkeypatch, 2)
    config = make_tiny_config(train__checkpoint_every=100)
    message = user_error(loop.train, config, tmp_path / 'run')
    assert 'stopped at step 2' in message
    assert 'there was no checkpoint yet' in message
    assert 'train.learning_rate' in message
    assert checkpoint_steps(tmp_path / 'run') == []


def test_mistakes_leave_no_work_directory(tmp_path):
    workdir = tmp_path / 'run'
    user_error(loop.train, make_tiny_config(data__name='no_such_set'), workdir)
    user_error(loop.train, make_tiny_config(train__grad_accum=3), workdir)
    assert not workdir.exists()


def test_other_seed_is_another_run(toy_run, toy_networks, tmp_path):
    loop.train(make_tiny_config(seed=1, train__steps=3), tmp_path / 'run')
    ours, theirs = checkpoint_arrays(tmp_path / 'run', 3), checkpoint_arrays(toy_run, 3)
    same = [name for name in ours if np.array_equal(ours[name], theirs[name])]
    assert all('step' in name or 'count' in name for name in same)


@pytest.fixture(scope='module')
def classifier_run(tmp_path_factory):
    """The noisy classifier of digits, small, in the same loop."""
    workdir = tmp_path_factory.mktemp('classifier') / 'run'
    config = make_tiny_config(
        CLASSIFIER,
        model__channel_mult=(1, 2),
        model__attention_resolutions=(4,),
        train__steps=60,
        train__checkpoint_every=60,
    )
    with logged() as lines:
        loop.train(config, workdir)
    return workdir, lines


def test_a_classifier_trains_in_the_same_loop(classifier_run):
    workdir, lines = classifier_run
    assert checkpoint_steps(workdir) == [60]
    assert not (workdir / 'samples').exists()
    assert any('accuracy' in line for line in lines)
    rows = metric_rows(workdir)
    loss, accuracy = ([row[name] for row in rows] for name in ('loss', 'accuracy'))
    assert abs(loss[0] - math.log(10)) < 1  # it starts by guessing
    assert np.mean(loss[-5:]) < np.mean(loss[:5]) - 0.3
    assert np.mean(accuracy[-5:]) > 0.3


def test_a_classifier_sees_more_in_less_noise(classifier_run):
    """Bins of log-SNR: nothing to see in the first, a third of training in the last."""
    rows = metric_rows(classifier_run[0])[-10:]
    by_bin = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith('accuracy_logsnr_'):
                low = float(name.removeprefix('accuracy_logsnr_')[: len('+00.0')].rstrip('_'))
                by_bin.setdefault(low, []).append(value)
    lows = sorted(by_bin)
    assert len(lows) == train_step.LOGSNR_BINS
    assert np.mean(by_bin[lows[0]]) < 0.3  # a tenth, by chance
    assert np.mean(by_bin[lows[-1]]) > np.mean(by_bin[lows[0]]) + 0.15
