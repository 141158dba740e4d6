"""Machines that are not here: their names, their devices, and the digits compiled for two."""

import importlib.metadata
import json
import subprocess
import sys

import pytest
from support import DIGITS, ROOT, user_error

from cfg_jax import config_files
from cfg_jax.models import attention
from cfg_jax.perf import accelerators, ahead_of_time, cost, gpu_descriptions, topologies, xla

TPU = pytest.mark.skipif(not topologies.installed(gpu=False), reason="needs libtpu: '.[aot]'")
GPU = pytest.mark.skipif(
    not topologies.installed(gpu=True), reason="needs jax-cuda13-plugin: '.[aot]'"
)


@pytest.mark.parametrize('name', ['v9:2x2', 'h100', 'h100:', 'v5p-9', 'cpu:2', 'h100:2x'])
def test_what_is_no_machine(name):
    message = user_error(topologies.target, name)
    assert f'no topology {name!r}' in message
    assert 'such as v5p:2x2x1 or h100:8' in message


def test_without_the_compilers(monkeypatch):
    monkeypatch.setattr(topologies, 'installed', lambda gpu: False)
    assert 'libtpu' in user_error(topologies.target, 'v5e-8')
    assert "pip install -e '.[aot]'" in user_error(topologies.target, 'h100:8')


@pytest.mark.parametrize('kind', gpu_descriptions.GPUS)
def test_descriptions_agree_with_the_table(kind):
    """The same chip: its name, memory and its memory's rate."""
    gpu, chip = gpu_descriptions.GPUS[kind], accelerators.ACCELERATORS[kind]
    assert accelerators.of_device(gpu.name) is chip
    assert 0.95 < gpu.memory_bytes / 1e9 / chip.memory_gib < 1.08  # GB there, GiB of the board
    assert gpu.bandwidth == pytest.approx(chip.bandwidth, rel=0.01)
    # Of dense bfloat16 on tensor cores: 8 (Ampere) or 16 (Hopper) times float32, at full clock.
    times = {8: 16, 9: 16}[gpu.capability[0]]
    peak = 2 * times * gpu.cores * gpu.float32_lanes * gpu.clock / 1e3
    assert peak == pytest.approx(chip.peak_tflops, rel=0.15)


@TPU
@pytest.mark.parametrize(
    ('name', 'chips', 'local', 'links', 'kind'),
    [
        ('v4-8', 4, 4, 2, 'tpu-v4'),
        ('v4-32', 16, 4, 3, 'tpu-v4'),
        ('v5e-8', 8, 8, 2, 'tpu-v5e'),
        ('v5p:2x2x1', 4, 4, 2, 'tpu-v5p'),
        ('v6e-8', 8, 8, 2, 'tpu-v6e'),
    ],
)
def test_slices_of_tpus(name, chips, local, links, kind):
    target = topologies.target(name)
    assert (target.chips, target.machine.local_devices, target.links) == (chips, local, links)
    assert target.chip is accelerators.ACCELERATORS[kind]
    assert accelerators.of_device(target.device.device_kind) is target.chip
    assert target.usable_bytes < 1.01 * target.chip.memory_gib * 2**30
    assert attention.flash_kernel(target.device) == 'pallas'


@GPU
def test_hosts_of_gpus():
    target = topologies.target('h100:2x8')
    assert (target.chips, target.machine.processes, target.machine.local_devices) == (16, 2, 8)
    assert attention.flash_kernel(target.device) == 'cudnn'
    assert target.usable_bytes == int(xla.gpu_memory_share() * 84_942_979_072)
    assert 'at most 8' in user_error(topologies.target, 'h100:16')


@TPU
def test_operations_of_an_image_are_the_same_on_one_host_and_on_four(monkeypatch):
    """The step is traced for the devices of one process."""

    def compiled(lower, flops, images, target):
        return {'gflop_per_image': flops / images / 1e9}

    monkeypatch.setattr(ahead_of_time, '_compiled', compiled)
    config = config_files.load_config(DIGITS)
    one, four = (ahead_of_time.training(config, topologies.target(n)) for n in ('v4-8', 'v4-32'))
    assert one['gflop_per_image'] == four['gflop_per_image'] > 0


@TPU
@GPU
def test_the_digits_compile(tmp_path):
    """The pmapped step at 16 images a chip, for a slice of TPUs and a node of GPUs.

    The gradients of all parameters are summed over chips, the state is donated, and the operations
    of three forward passes are there.
    """
    # In a process of its own: the compilers read their flags once.
    command = [sys.executable, ROOT / 'scripts/compile_for.py', f'--config={DIGITS}']
    command += ['--topology=v5e-8,h100:8', '--programs=training', '--images_at_once=16']
    command += ['--remat=none', f'--out={tmp_path}']
    environment = {'PATH': '', 'HOME': str(tmp_path), 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    described = cost.describe(config_files.load_config(DIGITS))
    parameters = described['parameters']
    for file in ('digits_v5e-8.json', 'digits_h100-8.json'):
        content = json.loads((tmp_path / file).read_text())
        assert content['versions']['jax'] == importlib.metadata.version('jax')
        (program,) = content['programs'].values()
        assert program['compiles'] and program['fits']
        assert program['chips'] == 8
        memory = program['memory']
        assert memory['arguments'] > 4 * 4 * parameters  # with EMA and two moments, all donated
        assert memory['aliased'] > 4 * 4 * parameters
        reduced = program['traffic']['collectives']['all-reduce']
        # Two biases that are added to each other have one gradient, which is summed once.
        assert reduced['bytes'] == pytest.approx(4 * parameters, rel=0.01)
        counted = described['training_gflop_per_image']
        assert program['gflop_per_image'] == pytest.approx(counted, rel=0.05)
        assert program['attention'] == "XLA's"  # heads of float32
        line = program['roofline']
        assert 0 < line['operations_ms'] < line['estimated_ms']
    # And is not compiled again.
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.returncode == 0
    assert 'compiling' not in again.stderr
