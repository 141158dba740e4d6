"""What is added to XLA_FLAGS, and when it is not."""

import os
import subprocess
import sys

import pytest
from support import ROOT

from cfg_jax.perf import xla

DEVICES = '--xla_force_host_platform_device_count'
OPTION = '--xla_cpu_experimental_ynn_fusion_type='
GPU_OPTION = '--xla_gpu_all_reduce_combine_threshold_bytes='
MERGER = '--xla_gpu_dot_merger_threshold_mb='
FLAG = f'{OPTION} {GPU_OPTION}1048576 {MERGER}4'


def test_added_to_what_the_user_has():
    environment = {'XLA_FLAGS': '--xla_force_host_platform_device_count=4'}
    xla.set_flags(environment, '0.10.2')
    xla.set_flags(environment, '0.12.0.1')
    assert environment['XLA_FLAGS'] == f'--xla_force_host_platform_device_count=4 {FLAG}'


def test_the_users_choice_and_other_versions_stay():
    chosen = {'XLA_FLAGS': f'{GPU_OPTION}9 {OPTION}LIBRARY_FUSION_TYPE_DOT {MERGER}7'}
    before = dict(chosen)
    xla.set_flags(chosen, '0.10.2')
    assert chosen['XLA_FLAGS'] == before['XLA_FLAGS']
    untouched = {}
    xla.set_flags(untouched, '0.9.1')
    xla.set_flags(untouched, '0.13.0')
    assert 'XLA_FLAGS' not in untouched


def test_a_gpus_memory():
    """Nine tenths, unless the user says otherwise, under either of JAX's names."""
    environment = {}
    xla.set_flags(environment, '0.10.2')
    assert environment['XLA_CLIENT_MEM_FRACTION'] == '0.9'
    assert xla.gpu_memory_share(environment) == 0.9
    for name in ('XLA_CLIENT_MEM_FRACTION', 'XLA_PYTHON_CLIENT_MEM_FRACTION'):
        chosen = {name: '0.5'}
        xla.set_flags(chosen, '0.10.2')
        assert chosen == {name: '0.5', 'XLA_FLAGS': FLAG}  # both names at once are JAX's error
        assert xla.gpu_memory_share(chosen) == 0.5


@pytest.mark.parametrize(('cores', 'devices'), [(1, None), (2, 2), (3, 3), (64, 4)])
def test_cores_become_devices(monkeypatch, cores, devices):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(cores)), raising=False)
    environment = {'XLA_FLAGS': OPTION}
    xla.cores_as_devices(environment)
    added = '' if devices is None else f' {DEVICES}={devices}'
    assert environment == {'XLA_FLAGS': f'{OPTION}{added}'}


@pytest.mark.parametrize(
    'chosen', [{'XLA_FLAGS': f'{DEVICES}=1'}, {'XLA_FLAGS': '', 'JAX_NUM_CPU_DEVICES': '3'}]
)
def test_unless_the_user_says_how_many(monkeypatch, chosen):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0, 1}, raising=False)
    before = dict(chosen)
    xla.cores_as_devices(chosen)
    assert chosen == before


def run(code, **environment):
    """What `python -c CODE` prints in a process with this environment."""
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=ROOT,
        env={'PATH': '', 'HOME': '', 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


CONVOLVE = """
import jax, jax.numpy as jnp
x, w = jnp.ones((32, 8, 8, 64)), jnp.ones((3, 3, 64, 64))
f = jax.jit(lambda x, w: jax.lax.conv_general_dilated(
    jnp.sin(x), w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')))
print('ynn_fusion' in f.lower(x, w).compile().as_text())
"""


def test_convolutions_stay_with_xla():
    """The flag reaches XLA in a new process: an unknown one would end it."""
    environment = {}
    xla.set_flags(environment)
    assert run(CONVOLVE, **environment) == 'False'
    if environment:
        assert run(CONVOLVE) == 'True'


def test_commands_set_it_and_imports_do_not():
    see = "import os; print(os.environ.get('XLA_FLAGS'))"
    importing = 'import cfg_jax, cfg_jax.cli, cfg_jax.inference, cfg_jax.training.loop'
    assert run(f'{importing}; {see}') == 'None'
    command = f'from cfg_jax import cli\ncli.run(lambda argv: exec({see!r}))'
    environment = {}
    xla.set_flags(environment)
    assert run(command) == str(environment.get('XLA_FLAGS'))


@pytest.mark.parametrize('samples', [False, True])
def test_commands_that_sample_use_all_cores(samples):
    see = 'import jax; print(jax.device_count())'
    command = f'from cfg_jax import cli\ncli.run(lambda argv: exec({see!r}), samples={samples})'
    added = {}
    xla.cores_as_devices(added)
    cores = int(added['XLA_FLAGS'].rpartition('=')[2]) if added else 1
    assert run(command) == str(cores if samples else 1)
