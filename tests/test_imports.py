"""What importing the library and asking for help cost: no JAX, no device, no environment."""

import json
import os
import subprocess
import sys

import pytest
from support import ROOT

# torch_peer.py belongs to bench_peers.py and needs PyTorch.
SCRIPTS = sorted({path.name for path in (ROOT / 'scripts').glob('*.py')} - {'torch_peer.py'})
SLOW = ('jax', 'jaxlib', 'flax', 'optax', 'orbax', 'tensorflow_datasets', 'grain', 'scipy')


def run(*arguments, **environment):
    """(status, stdout, stderr, CPU seconds) of Python; other processes do not count in the last."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stdout, stderr = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    process.stderr.close()
    return process.returncode, stdout, stderr, usage.ru_utime + usage.ru_stime


def imported(importtime):
    """Top-level modules out of what `-X importtime` reports."""
    names = [line.rpartition('|')[2].strip() for line in importtime.splitlines() if '|' in line]
    return {name.partition('.')[0] for name in names}


@pytest.mark.parametrize('name', SCRIPTS)
def test_help_takes_less_than_half_a_second_and_no_jax(name):
    status, stdout, stderr, seconds = run('-X', 'importtime', f'scripts/{name}', '--help')
    assert status == 0, stderr
    assert f'usage: {name}' in stdout
    assert imported(stderr).isdisjoint(SLOW)
    assert 'ml_collections' in imported(stderr)  # the report was read
    assert seconds < 0.5


STATE = """
import json, os, sys
before = dict(os.environ)
{statement}
jax = sys.modules.get('jax')
print(json.dumps({{
    'environment': before == dict(os.environ),
    'jax': jax is not None,
    'devices': bool(jax and jax._src.xla_bridge.backends_are_initialized()),
}}))
"""


def state_after(statement):
    """What a statement has done to a fresh process, and its CPU seconds."""
    status, stdout, stderr, seconds = run('-c', STATE.format(statement=statement))
    assert status == 0, stderr
    return json.loads(stdout.splitlines()[-1]), seconds


def test_importing_the_library_is_quick_and_changes_nothing():
    state, seconds = state_after('import cfg_jax')
    assert state == {'environment': True, 'jax': False, 'devices': False}
    assert seconds < 0.5


@pytest.mark.parametrize(
    'statement',
    [
        'from cfg_jax import guidance, samplers, conditioning; list(guidance.RULES)',
        'from cfg_jax import config, cli',
        'from cfg_jax import metrics',
        'from cfg_jax.config import base_config; base_config()',
    ],
)
def test_names_are_read_without_jax(statement):
    state, _ = state_after(statement)
    assert state == {'environment': True, 'jax': False, 'devices': False}


@pytest.mark.parametrize(
    'statement',
    [
        'import cfg_jax; cfg_jax.load; cfg_jax.Model',
        'from cfg_jax import diffusion, losses, inference, models, training, evaluation, data',
        'from cfg_jax import samplers; from cfg_jax.guidance import guide; samplers.ancestral',
    ],
)
def test_using_the_library_starts_no_device(statement):
    state, _ = state_after(statement)
    assert state == {'environment': True, 'jax': True, 'devices': False}


def test_kernels_for_tpus_are_imported_where_they_are_used():
    state_after(
        'import cfg_jax.models.unet, sys; assert "jax.experimental.pallas" not in sys.modules'
    )


def test_devices_are_seen_by_this_test():
    """What the tests above would see if they failed."""
    state, _ = state_after('import os, jax; jax.devices(); os.environ["XLA_FLAGS"] = "--a"')
    assert state == {'environment': False, 'jax': True, 'devices': True}
