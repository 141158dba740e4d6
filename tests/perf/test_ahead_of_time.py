"""What is compiled ahead of time is what would run: shown with the devices that are here."""

import jax
import numpy as np
from support import make_tiny_config

from cfg_jax.distributed import devices
from cfg_jax.inference import Model
from cfg_jax.models import networks
from cfg_jax.perf.lowering import lower_trajectory
from cfg_jax.training import step as train_step


def this_machine():
    """Described as another one would be."""
    return devices.here()._replace(devices=tuple(jax.devices()))


def test_the_trajectory(toy_networks):
    config = make_tiny_config()
    network = networks.make_network(config)
    params = {'main': network.init(jax.random.key(1), *map(zeros, networks.inputs(config)))}
    model = Model(config, params)
    labels, w = np.array([3, 7], np.int32), np.array([2.0, 0.5], np.float32)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), model.params)
    for guided in (True, False):
        compiled = lower_trajectory(model, shapes, 2, guided, this_machine()).compile()
        numbers = np.arange(2, dtype=np.uint32)
        weights = (w,) if guided else ()
        x, nfe = compiled(model.params, np.uint32(5), numbers, labels, None, *weights)
        expected = model.generate(5, numbers, labels, w if guided else 0.0)
        np.testing.assert_array_equal(x, expected.x)
        np.testing.assert_array_equal(nfe, expected.nfe)


def test_the_training_step(toy_networks):
    config = make_tiny_config(train__grad_accum=2)
    rng = np.random.default_rng(0)
    size, side = config.train.batch_size, config.data.image_size
    batch = {
        'image': rng.uniform(-1, 1, (1, size, side, side, 1)).astype(np.float32),
        'condition': rng.integers(10, size=(1, size), dtype=np.int32),
    }
    found = []
    for machine in (None, this_machine()):
        step = devices.map_step(train_step.make_train_step(config, machine), machine)
        state, _ = step(train_step.create_state(config), batch)
        found.append(state.params)
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_processes_rows():
    """Of a machine of two processes with four devices each, whatever is here."""
    machine = devices.Machine('tpu', 4, 2)
    mapped = jax.vmap(lambda _: devices.global_rows(3, machine), axis_name=devices.AXIS)
    # Row i of process p is row p + 2 i of the global batch, of its device d its row 4 i + d.
    expected = [[p + 2 * (4 * i + d) for i in range(3)] for p in range(2) for d in range(4)]
    np.testing.assert_array_equal(mapped(np.arange(8)), expected)


def zeros(shape):
    return np.zeros(shape.shape, shape.dtype)
