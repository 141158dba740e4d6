"""What is added to XLA_FLAGS, and when it is not."""

import subprocess
import sys

from support import ROOT, script_environment

from cfg_jax.perf import xla

OPTION = '--xla_cpu_experimental_ynn_fusion_type='
FLAG = f'{OPTION}LIBRARY_FUSION_TYPE_DOT'


def test_added_to_what_the_user_has():
    environment = {'XLA_FLAGS': '--xla_force_host_platform_device_count=4'}
    xla.set_defaults(environment, '0.10.2')
    xla.set_defaults(environment, '0.11.2')
    assert environment['XLA_FLAGS'] == f'--xla_force_host_platform_device_count=4 {FLAG}'


def test_the_users_choice_and_other_versions_stay():
    chosen = {'XLA_FLAGS': OPTION}
    xla.set_defaults(chosen, '0.10.2')
    assert chosen['XLA_FLAGS'] == OPTION
    untouched = {}
    xla.set_defaults(untouched, '0.9.1')
    xla.set_defaults(untouched, '0.12.0')
    assert untouched == {}


def test_convolutions_stay_with_xla():
    """The flag reaches XLA in a new process: an unknown one would end it."""
    code = (
        'import cfg_jax, jax, jax.numpy as jnp\n'
        'x, w = jnp.ones((8, 8, 8, 16)), jnp.ones((3, 3, 16, 16))\n'
        "f = jax.jit(lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), 'SAME',"
        " dimension_numbers=('NHWC', 'HWIO', 'NHWC')))\n"
        "print('ynn' in f.lower(x, w).compile().as_text())"
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=ROOT,
        env=script_environment(JAX_PLATFORMS='cpu', XLA_FLAGS=''),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == 'False', done.stderr
