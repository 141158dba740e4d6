"""What training tells of its steps: means, spikes, what was skipped and why it stopped."""

import numpy as np
import pytest
from support import logged, make_tiny_config, user_error

from cfg_jax.distributed import devices
from cfg_jax.training import (
    logging,
    step as train_step,
    writers,
)


@pytest.fixture(autouse=True)
def no_devices(monkeypatch):
    """Metrics are dictionaries of NumPy arrays here."""
    monkeypatch.setattr(devices, 'first_replica', lambda metrics: metrics)


def row(grad_norm=1.0, loss=0.5, bad_bin=None, applied=True):
    bins = np.full(train_step.LOGSNR_BINS, 2 * loss)
    if bad_bin is not None:
        bins[:] = 1.0
        bins[bad_bin] = np.nan
    return {
        'loss': np.float32(loss),
        'grad_norm': np.float32(grad_norm),
        'param_norm': np.float32(1.0),
        'update_norm': np.float32(0.1),
        'learning_rate': np.float32(1e-3),
        'applied': np.bool_(applied),
        'bin_loss': bins,
        'bin_count': np.full(train_step.LOGSNR_BINS, 2.0),
    }


def make_log(tmp_path, **changes):
    writer = writers.MetricWriter(tmp_path)
    config = make_tiny_config(**changes)
    return logging.TrainLog(config, writer, 0, lambda step: f'of batch {step}')


def flush(log, step):
    log.flush(step, {'input_seconds': 0.25}, lambda: 'the checkpoint of step 3 is kept')


def test_the_first_step_which_compiles_is_no_measure_of_the_rate(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(logging.time, 'monotonic', lambda: now[0])
    log = make_log(tmp_path, train__batch_size=16, train__steps=9)
    for seconds in (60.0, 2.0, 2.0):
        now[0] += seconds
        log.add(row())
    with logged() as lines:
        flush(log, 3)
    now[0] += 4.0
    log.add(row())
    flush(log, 4)
    assert [row['images_per_second'] for row in writers.read_metrics(tmp_path)] == [8.0, 4.0]
    assert lines[0].endswith('8 images/s  00:12 left')


def test_of_a_single_step_the_rate_has_it(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(logging.time, 'monotonic', lambda: now[0])
    log = make_log(tmp_path, train__batch_size=16)
    now[0] = 32.0
    log.add(row())
    flush(log, 1)
    [found] = writers.read_metrics(tmp_path)
    assert found['images_per_second'] == 0.5


def test_means_over_the_steps_since_the_last_time(tmp_path):
    log = make_log(tmp_path)
    for loss in (1.0, 2.0, 6.0):
        log.add(row(loss=loss))
    with logged() as lines:
        flush(log, 3)
    log.add(row(loss=7.0))
    flush(log, 4)
    first, second = writers.read_metrics(tmp_path)
    assert (first['step'], first['loss'], second['loss']) == (3, 3.0, 7.0)
    assert first['input_seconds'] == 0.25
    bins = [value for name, value in first.items() if name.startswith('loss_logsnr_')]
    assert bins == [3.0] * train_step.LOGSNR_BINS
    assert lines[0].startswith('step 3/6  loss 3.0000  ')


def test_without_a_step_since_the_last_time_nothing_is_written(tmp_path):
    """As after a checkpoint that could not be saved, when the input ends."""
    log = make_log(tmp_path)
    log.add(row())
    flush(log, 1)
    with logged() as lines:
        flush(log, 1)
    assert not lines
    assert len(writers.read_metrics(tmp_path)) == 1


def test_spikes_are_counted_against_the_recent_median(tmp_path):
    log = make_log(tmp_path)
    norms = [1.0] * 30 + [4.9, 5.1, 40.0, 1.0]
    for norm in norms:
        log.add(row(grad_norm=norm))
    flush(log, len(norms))
    log.add(row(grad_norm=100.0))
    flush(log, len(norms) + 1)
    assert [found['grad_norm_spikes'] for found in writers.read_metrics(tmp_path)] == [2, 1]


def test_few_steps_have_no_spikes(tmp_path):
    """The first steps of a training differ by orders of magnitude."""
    log = make_log(tmp_path)
    for norm in (1.0, 50.0):
        log.add(row(grad_norm=norm))
    flush(log, 2)
    assert writers.read_metrics(tmp_path)[0]['grad_norm_spikes'] == 0


def test_skipped_updates_are_told_and_left_out_of_the_means(tmp_path):
    log = make_log(tmp_path, train__max_skipped=1)
    log.add(row(loss=1.0))
    log.add(row(loss=np.nan, bad_bin=2, applied=False))
    with logged() as lines:
        flush(log, 2)
    (found,) = writers.read_metrics(tmp_path)
    assert (found['loss'], found['updates_skipped']) == (1.0, 1)
    low, high = train_step.logsnr_bin_edges(make_tiny_config())[2:4]
    assert lines[0].startswith('warning: step 2 is skipped')
    assert f'log-SNR bins {low:+.1f}_{high:+.1f}; examples of batch 2' in lines[0]


def test_a_run_that_is_started_again_counts_skipped_updates_from_zero(tmp_path):
    for _ in range(3):
        log = make_log(tmp_path, train__max_skipped=1)
        log.add(row(loss=np.nan, applied=False))
        flush(log, 1)
    assert writers.read_metrics(tmp_path)[-1]['updates_skipped'] == 1


def test_too_many_skipped_updates_stop_the_run(tmp_path):
    log = make_log(tmp_path, train__max_skipped=1)
    for applied in (False, True, False):
        log.add(row(grad_norm=np.inf, applied=applied))
    message = user_error(flush, log, 3)
    assert 'stopped at step 3' in message
    assert 'in the gradient alone' in message
    assert 'the checkpoint of step 3 is kept' in message
    assert 'train.max_skipped=1' in message
