"""What is added to XLA_FLAGS, and when it is not."""

import subprocess
import sys

import fast_xla
import pytest
from support import ROOT

from cfg_jax.perf import xla

DEVICES = '--xla_force_host_platform_device_count'
OPTION = '--xla_cpu_experimental_ynn_fusion_type='
GPU_OPTION = '--xla_gpu_all_reduce_combine_threshold_bytes='
MERGER = '--xla_gpu_dot_merger_threshold_mb='
FLAG = f'{OPTION} {GPU_OPTION}1048576 {MERGER}4'


def test_added_to_what_the_user_has():
    environment = {'XLA_FLAGS': '--xla_cpu_enable_fast_math=false'}
    xla.set_flags(environment, '0.10.2')
    xla.set_flags(environment, '0.12.0.1')
    assert environment['XLA_FLAGS'] == f'--xla_cpu_enable_fast_math=false {FLAG}'


@pytest.mark.parametrize(
    ('chosen', 'ours'),
    [
        ({'XLA_FLAGS': f'{DEVICES}=4'}, False),
        ({'JAX_NUM_CPU_DEVICES': '2'}, False),
        ({'XLA_FLAGS': f'{DEVICES}=1'}, True),
    ],
)
def test_several_devices_of_a_host_keep_jaxlibs_convolutions(chosen, ours):
    xla.set_flags(chosen, '0.10.2')
    assert (OPTION in chosen['XLA_FLAGS']) == ours
    assert GPU_OPTION in chosen['XLA_FLAGS']


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


TWO_DEVICES = """
import numpy as np
import jax, jax.numpy as jnp
from cfg_jax.config_files import load_config
from cfg_jax.distributed import devices
from cfg_jax.models import networks
config = load_config('configs/digits.py')
config.model.update(width=16, norm_groups=4, head_channels=16, num_res_blocks=1)
network = networks.make_denoiser(config)
inputs = [jnp.zeros(each.shape, each.dtype) for each in networks.inputs(config)]
shapes = jax.eval_shape(networks.make_network(config).init, jax.random.key(0), *inputs)
draw = np.random.default_rng(1).standard_normal
params = jax.tree.map(lambda a: 0.2 * draw(a.shape, np.float32), shapes)
z = draw((200, 8, 8, 1), np.float32)

def follow(params, z):
    def body(z, logsnr):
        labels = jnp.arange(2 * len(z)) % 10
        eps = network.eps(params, jnp.concatenate([z, z]), logsnr, labels)
        return 0.7 * z + 0.3 * eps[:len(z)], None
    return jax.lax.scan(body, z, jnp.linspace(-8.0, 5.0, 24))[0]

split = jax.device_put(z, devices.batch_sharding())
found = devices.map_rows(follow, 1, 1)(jax.device_put(params, devices.replicated()), split)
each = [np.asarray(jax.jit(follow)(params, part)) for part in np.split(z, 2)]
print(jax.device_count(), np.abs(np.asarray(found) - np.concatenate(each)).max())
"""


def test_two_devices_of_one_host_compute_what_one_does():
    """jaxlib 0.10.2: with XLA's own convolutions the first images of both differ by 0.7."""
    environment = {'XLA_FLAGS': f'{fast_xla.FLAGS} {DEVICES}=2'}
    xla.set_flags(environment)
    count, difference = run(TWO_DEVICES, **environment).split()
    assert (count, float(difference)) == ('2', 0.0)


def test_commands_use_one_device_of_a_host():
    see = 'import jax; print(jax.device_count())'
    assert run(f'from cfg_jax import cli\ncli.run(lambda argv: exec({see!r}))') == '1'
