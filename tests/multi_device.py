"""Trains and generates on however many devices XLA_FLAGS asks for; `test_devices` compares.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 python tests/multi_device.py 4 OUT.npz

Every step is awaited: on few cores, steps queued on fake devices starve each other's collectives.
"""

import dataclasses
import sys

import jax
import numpy as np
from support import make_tiny_config

from cfg_jax import inference
from cfg_jax.data import pipeline
from cfg_jax.distributed import devices
from cfg_jax.metrics.features import Features, extraction
from cfg_jax.perf import benchmark
from cfg_jax.samplers import Sampler
from cfg_jax.training import step as train_step

STEPS = 20
BATCHES = (7, 64)
W = 2.0


def assert_synced(tree):
    """Every device holds the same values; `out_axes=None` does not check that by itself."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(copies) == jax.device_count(), path
        for copy in copies:
            assert copy.shape == leaf.shape, path
            np.testing.assert_array_equal(copy, copies[0], err_msg=jax.tree_util.keystr(path))


def train(config, params):
    """Losses [STEPS], gradient norms [STEPS] and the final parameters."""
    batches = pipeline.TrainingBatches(config.data, batch_size=config.train.batch_size, seed=0)
    step = devices.map_step(train_step.make_train_step(config))
    state = train_step.TrainState(
        step=np.int32(0),
        params=params,
        ema_params=params,
        opt_state=train_step.make_optimizer(config).init(params),
    )
    state = jax.tree.map(np.array, state)  # copies: the buffers will be donated
    state = jax.device_put(state, devices.replicated())
    losses, norms = [], []
    for _ in range(STEPS):
        state, metrics = step(state, devices.split_batch(next(batches)))
        jax.block_until_ready(state)
        row = devices.first_replica(metrics)
        losses.append(row['loss'])
        norms.append(row['grad_norm'])
    batches.close()
    assert_synced(state)
    assert int(state.step) == STEPS
    return np.array(losses), np.array(norms), jax.device_get(state.params)


@dataclasses.dataclass(frozen=True)
class Untouched(Sampler):
    """A sampler that returns its start."""

    def step(self, predict, z, level, state):
        return z, state


def generate(config, params):
    """Start noise, labels and finished images of the first 7 and the first 64 images."""
    finished = inference.Model(config, {'main': params})
    untouched = inference.Model(config, {'main': params}, sampler=Untouched(num_steps=2))
    results = {}
    for count in BATCHES:
        indices = np.arange(count)
        labels = finished.draw_conditions(5, indices, 'uniform')
        results[f'labels_{count}'] = labels
        results[f'start_{count}'] = np.asarray(untouched.generate(5, indices, labels, W).x)
        results[f'images_{count}'] = np.asarray(finished.generate(5, indices, labels, W).x)
    return results


class Pixels:
    """An extractor that gives each image back; five at a time."""

    params, chunk = np.float32(3.0), 5

    def apply(self, params, images):
        return Features(params * images.reshape(len(images), -1))


def extract():
    """Features of 23 images: neither devices nor chunks divide their number."""
    images = np.random.default_rng(0).integers(0, 256, (23, 2, 2, 3), dtype=np.uint8)
    parts = extraction.extract_all(Pixels(), [images[:12], images[12:]], 12)
    return {'pixels': images, 'features': extraction.concatenate(parts).pooled}


def rows_of_two_processes():
    """`devices.global_rows` as two processes of two devices would see it: [4, 3]."""
    real = jax.local_device_count, jax.process_count
    jax.local_device_count, jax.process_count = lambda: 2, lambda: 2
    rows = jax.pmap(lambda _: devices.global_rows(3), axis_name=devices.AXIS)(np.zeros(4))
    jax.local_device_count, jax.process_count = real
    return np.asarray(rows)


def main(num_devices, out):
    assert jax.device_count() == num_devices
    config = make_tiny_config()
    start = benchmark.random_params(config)
    losses, norms, end = train(config, start)
    results = {'losses': losses, 'norms': norms}
    for name, params in (('start_params', start), ('params', end)):
        results[name] = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
    results |= generate(config, start)
    results |= extract()
    if num_devices == 4:
        results['rows'] = rows_of_two_processes()
    np.savez(out, **results)


if __name__ == '__main__':
    main(int(sys.argv[1]), sys.argv[2])
