import socket
import time
from collections import Counter

import numpy as np
import pytest
from pictures import png
from sklearn.datasets import load_digits
from support import logged, make_tiny_config, user_error

from cfg_jax.data import (
    pipeline,
    sources,
)
from cfg_jax.errors import UserError

NUM_DIGITS = 1797


def take(count, config, **kwargs):
    """The first `count` batches of a stream."""
    batches = pipeline.TrainingBatches(config.data, **({'batch_size': 16, 'seed': 0} | kwargs))
    try:
        return [next(batches) for _ in range(count)]
    finally:
        batches.close()


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        np.testing.assert_array_equal(batch['image'], other['image'])
        np.testing.assert_array_equal(batch['condition'], other['condition'])


def content(batches):
    """How often each (label, image) occurs."""
    return Counter(
        (int(label), image.tobytes())
        for batch in batches
        for image, label in zip(batch['image'], batch['condition'], strict=True)
    )


def test_digits_are_prepared_offline_on_first_use(tiny_config, tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise AssertionError('the digits asked for a network')

    monkeypatch.setattr(socket.socket, 'connect', no_network)
    tiny_config.data.data_dir = str(tmp_path)
    batches = list(pipeline.one_epoch(tiny_config.data, 'train', 500))
    assert (tmp_path / 'digits').is_dir()
    ours = content(
        {'image': np.rint((b['image'] + 1) * 127.5).astype(np.uint8), 'condition': b['condition']}
        for b in batches
    )
    digits = load_digits()
    pixels = np.rint(digits.images * 255 / 16).astype(np.uint8)
    assert sum(ours.values()) == NUM_DIGITS
    assert ours == content([{'image': pixels, 'condition': digits.target}])


def test_batch_form(tiny_config):
    (batch,) = take(1, tiny_config)
    assert batch['image'].shape == (16, 8, 8, 1)
    assert batch['image'].dtype == np.float32
    assert batch['condition'].shape == (16,)
    assert batch['condition'].dtype == np.int32
    assert batch['image'].min() == -1.0
    assert 0.5 < batch['image'].max() <= 1.0


def test_batches_follow_from_the_seed(tiny_config):
    assert_same(take(3, tiny_config), take(3, tiny_config))
    other = take(3, tiny_config, seed=1)
    assert not np.array_equal(other[0]['image'], take(1, tiny_config)[0]['image'])


def test_resumes_at_the_next_batch(tiny_config):
    tiny_config.data.flip = True
    straight = take(8, tiny_config)
    first = pipeline.TrainingBatches(tiny_config.data, batch_size=16, seed=0)
    assert_same([next(first) for _ in range(5)], straight[:5])
    state = first.get_state()
    first.close()
    second = pipeline.TrainingBatches(tiny_config.data, batch_size=16, seed=0)
    next(second)
    second.set_state(state)
    assert second.get_state() == state
    assert_same([next(second) for _ in range(3)], straight[5:])
    second.close()


def test_another_number_of_images_is_told(tiny_config):
    """Every later batch holds other ones than it would have."""
    batches = pipeline.TrainingBatches(tiny_config.data, batch_size=16, seed=0)
    with logged() as lines:
        batches.set_state(batches.get_state())
        batches.set_state({'next_batch': 3})  # of an earlier edition
        assert not lines
        batches.set_state({'next_batch': 3, 'examples': 1700})
    assert 'the data has 1,797 images and had 1,700' in lines[0]
    batches.close()


def test_worker_processes_change_nothing(tiny_config):
    tiny_config.data.flip = True
    straight = take(5, tiny_config)
    tiny_config.data.num_workers = 2
    assert_same(take(3, tiny_config), straight[:3])
    batches = pipeline.TrainingBatches(tiny_config.data, batch_size=16, seed=0)
    batches.set_state({'next_batch': 3})
    assert_same([next(batches) for _ in range(2)], straight[3:])
    batches.close()


def test_processes_share_the_batch_by_interleaved_rows(tiny_config):
    tiny_config.data.flip = True
    whole = take(3, tiny_config)
    parts = [take(3, tiny_config, process_index=p, process_count=2) for p in range(2)]
    for step, batch in enumerate(whole):
        for p in range(2):
            assert parts[p][step]['condition'].shape == (8,)
            for key in batch:
                np.testing.assert_array_equal(parts[p][step][key], batch[key][p::2])


def test_batch_must_divide_over_processes(tiny_config):
    message = user_error(take, 1, tiny_config, batch_size=10, process_count=4)
    assert 'train.batch_size=10' in message
    assert '4 processes' in message


@pytest.fixture(scope='module')
def two_epochs():
    """Six batches, three to an epoch."""
    return take(6, make_tiny_config(), batch_size=NUM_DIGITS // 3)


def test_every_epoch_holds_every_example_once(tiny_config, two_epochs):
    first, second = two_epochs[:3], two_epochs[3:]
    everything = content(pipeline.one_epoch(tiny_config.data, 'train', 500))
    assert content(first) == everything
    assert content(second) == everything
    assert not np.array_equal(first[0]['image'], second[0]['image'])


def test_half_of_the_images_are_flipped_anew_each_epoch(tiny_config, two_epochs):
    tiny_config.data.flip = True
    flipped = take(6, tiny_config, batch_size=NUM_DIGITS // 3)
    epochs = []
    for epoch in (slice(0, 3), slice(3, 6)):
        before = np.concatenate([batch['image'] for batch in two_epochs[epoch]])
        after = np.concatenate([batch['image'] for batch in flipped[epoch]])
        kept = (before == after).all(axis=(1, 2, 3))
        mirrored = (before[:, :, ::-1] == after).all(axis=(1, 2, 3))
        assert (kept | mirrored).all()
        # Five standard deviations of 1,797 fair coins; no digit is its own mirror image.
        assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / np.sqrt(NUM_DIGITS)
        epochs.append({image.tobytes() for image in before[mirrored]})
    both = len(epochs[0] & epochs[1]) / NUM_DIGITS
    assert abs(both - 0.25) < 5 * np.sqrt(0.25 * 0.75 / NUM_DIGITS)


def test_random_crops_are_the_same_in_each_run(tiny_config, two_epochs):
    tiny_config.data.random_crop = 0.6
    cropped = take(2, tiny_config, batch_size=100)
    assert_same(take(2, tiny_config, batch_size=100), cropped)
    plain = take(2, make_tiny_config(), batch_size=100)
    for before, after in zip(plain, cropped, strict=True):
        np.testing.assert_array_equal(before['condition'], after['condition'])
        assert before['image'].shape == after['image'].shape
    whole = [
        (b['image'] == a['image']).all(axis=(1, 2, 3)).mean()
        for b, a in zip(plain, cropped, strict=True)
    ]
    # S = round(8 u) with u uniform in [0.6, 1] is all 8 pixels where u > 7.5 / 8.
    assert abs(np.mean(whole) - (1 - 7.5 / 8) / 0.4) < 5 * 0.5 / np.sqrt(200)
    # No augmentation where images are measured.
    assert content(pipeline.one_epoch(tiny_config.data, 'train', 500)) == content(two_epochs[:3])


def test_one_epoch_is_in_order_and_ends_with_a_small_batch(tiny_config):
    tiny_config.data.flip = True  # must not matter
    batches = list(pipeline.one_epoch(tiny_config.data, 'train', 500))
    assert [len(batch['condition']) for batch in batches] == [500, 500, 500, 297]
    source = sources.data_source(tiny_config.data, 'train')
    stored = [int(source[i]['label']) for i in range(NUM_DIGITS)]
    assert np.concatenate([batch['condition'] for batch in batches]).tolist() == stored
    tiny_config.data.flip = False
    assert_same(batches, list(pipeline.one_epoch(tiny_config.data, 'train', 500)))


def test_one_epoch_of_a_slice(tiny_config):
    whole = next(pipeline.one_epoch(tiny_config.data, 'train', 20))
    part = list(pipeline.one_epoch(tiny_config.data, 'train[:20]', 20))
    assert_same(part, [whole])


@pytest.mark.parametrize(('label', 'num_workers'), [(-1, 0), (10, 0), (-1, 1)])
def test_label_out_of_range(tiny_config, monkeypatch, label, num_workers):
    examples = [{'image': png(np.zeros((8, 8, 1), np.uint8)), 'label': label}] * 4
    monkeypatch.setattr(sources, 'data_source', lambda *args: examples)
    tiny_config.data.num_workers = num_workers
    with pytest.raises(UserError, match=rf"'digits' holds the label {label}, outside 0\.\.9"):
        take(1, tiny_config, batch_size=2)


def test_a_few_batches_are_made_ahead(tiny_config, monkeypatch):
    """Grain's default of 500 elements would be 500 batches, in every process."""
    taken = []

    class Counted:
        def __len__(self):
            return 100_000

        def __getitem__(self, number):
            taken.append(number)
            return {'image': png(np.zeros((8, 8, 1), np.uint8)), 'label': 0}

    monkeypatch.setattr(sources, 'data_source', lambda *args: Counted())
    batches = pipeline.TrainingBatches(tiny_config.data, batch_size=10, seed=0)
    next(batches)
    last = -1
    while len(taken) > last:  # until nothing more is read
        last = len(taken)
        time.sleep(0.5)
    batches.close()
    assert 10 < last <= 100
