"""`launch_jobset.sh` against a recorder in kubectl's place.

Its calls were also made by kubectl 1.32.4 to a stub of an API server with JobSet's schema of 0.12.0
and of 0.9.0 (2026-11-26); flags are those of `kubectl COMMAND --help` of that version.
"""

import pytest
from recorder import Machine, error_of

KUBECTL = """
case "$*" in
  "auth whoami "*) pop user ;;
  *" persistentvolumeclaim "*) pop claims ;;
  "get nodes "*) pop nodes ;;
  "explain "*) exit "$(pop old)" ;;
  *--dry-run=server*) exit "$(pop refused)" ;;
esac
"""
AT = ['--context=there', '--namespace=mine']


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    machine.play('kubectl', KUBECTL)
    machine.answer('old', '0')
    machine.answer('refused', '0')
    return machine


@pytest.fixture
def manifest(machine):
    """The manifest as a user edits it."""
    path = machine.root / 'my jobset.yaml'
    text = (machine.scripts / 'jobset.yaml').read_text().replace('REGISTRY/', 'ghcr.io/me/')
    path.write_text(text)
    return path


def launch(machine, *arguments):
    return machine.run(machine.scripts / 'launch_jobset.sh', *arguments)


def said(result):
    """[word, first words of the rest] of each line of a check."""
    return [(line[:7].strip(), line[9:]) for line in result.stdout.splitlines()]


def test_a_cluster_that_lacks_nothing(machine, manifest):
    machine.answer('user', 'me@here')
    machine.answer('claims', 'Bound ReadWriteMany', 'Pending ')
    machine.answer('nodes', '8 8 4 8 8')
    result = launch(machine, f'--file={manifest}', '--check', *AT)
    assert result.returncode == 0, result.stdout
    expected = [
        ('look', 'image ghcr.io/me/cfg_jax:latest: '),
        ('ok', '4 pods'),
        ('look', 'data set /data/tfds: on the volume at /data'),
        ('look', 'work directory /runs/table1/p_uncond_0.1: on the volume at /runs'),
        ('ok', 'login of kubectl: me@here'),
        ('ok', 'volume claim runs, ReadWriteMany'),
        ('look', 'volume claim data waits'),
        ('ok', '4 nodes with 8 nvidia.com/gpu'),
        ('look', 'quota: '),
        ('ok', 'JobSet 0.10 or later'),
        ('ok', 'the cluster takes '),
    ]
    for (word, text), (expected_word, start) in zip(said(result), expected, strict=True):
        assert word == expected_word
        assert text.startswith(start)
    claim = '--output=jsonpath={.status.phase} {.status.accessModes[*]}'
    field = 'jobsets.spec.failurePolicy.rules.onJobFailureMessagePatterns'
    assert machine.calls() == [
        ['kubectl', *call, *AT]
        for call in (
            ['auth', 'whoami', '--output=jsonpath={.status.userInfo.username}'],
            ['get', 'persistentvolumeclaim', 'runs', claim],
            ['get', 'persistentvolumeclaim', 'data', claim],
            ['get', 'nodes', r'--output=jsonpath={.items[*].status.allocatable.nvidia\.com/gpu}'],
            ['explain', field, '--api-version=jobset.x-k8s.io/v1alpha2'],
            ['apply', '--dry-run=server', f'--filename={manifest}'],
        )
    ]


def test_what_is_missing_is_named(machine, manifest):
    machine.answer('user', 'me@here')
    machine.answer('claims', '')
    machine.answer('nodes', '8')
    machine.answer('refused', '1')
    text = manifest.read_text().replace('/data/tfds', '/elsewhere').replace('parallelism: 4', '')
    command = '--inception=/w --config.train.start_from=/s --root=gs://b'
    manifest.write_text(text.replace('--workdir=/runs/table1', command))
    result = launch(machine, f'--file={manifest}', '--check')
    assert result.returncode == 2
    assert 'nothing was started' in result.stderr
    assert [text.split()[:3] for word, text in said(result) if word == 'missing'] == [
        ['a', 'number', 'of'],
        ['data', 'set', '/elsewhere:'],
        ['weights', '/w:', 'no'],
        ['weights', '/s:', 'no'],
        ['volume', 'claim', 'runs;'],
        ['volume', 'claim', 'data;'],
        ['a', 'manifest', 'that'],
    ]
    looks = [text for word, text in said(result) if word == 'look']
    assert any(text.startswith('work directory gs://b/p_uncond_0.1: ') for text in looks)
    assert any(text.startswith('nodes with 8 nvidia.com/gpu: 1 of 4; ') for text in looks)


def test_an_old_jobset_is_not_asked_further(machine, manifest):
    machine.answer('user', 'me@here')
    machine.answer('old', '1')
    result = launch(machine, f'--file={manifest}', '--check')
    assert ('missing', 'JobSet 0.10 or later; see') in [(w, t[:25]) for w, t in said(result)]
    assert not [call for call in machine.calls() if 'apply' in call]


def test_without_a_login_and_unedited(machine):
    result = launch(machine, '--check')
    assert result.returncode == 2
    missing = [text.split()[0] for word, text in said(result) if word == 'missing']
    assert missing == ['image', 'login']
    assert len(machine.calls()) == 1


def test_the_dry_run_prints_what_is_called(machine, manifest):
    arguments = [f'--file={manifest}', *AT]
    dry = launch(machine, *arguments, '--dry-run')
    assert dry.stdout == f"kubectl apply '--filename={manifest}' {' '.join(AT)}\n"
    assert machine.calls() == []
    assert launch(machine, *arguments).returncode == 0
    assert machine.calls() == [['kubectl', 'apply', f'--filename={manifest}', *AT]]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'edit its lines marked EDIT'),
        (['--file=no.yaml'], '--file=no.yaml: no such file'),
        (['--fil=a'], 'unknown argument --fil=a'),
    ],
)
def test_mistakes_end_in_one_line(machine, arguments, message):
    assert message in error_of(launch(machine, *arguments))
    assert machine.calls() == []


@pytest.mark.parametrize('path', ['runs/in64', '/elsewhere/in64'])
def test_a_work_directory_that_goes_with_the_pod_is_refused(machine, manifest, path):
    text = manifest.read_text()
    manifest.write_text(text.replace('/runs/table1/p_uncond_0.1', path))
    message = error_of(launch(machine, f'--file={manifest}'))
    assert f'the work directory {path} is lost with the pod' in message
    assert machine.calls() == []
    manifest.write_text(text.replace('/runs/table1/p_uncond_0.1', 'gs://b/in64'))
    assert launch(machine, f'--file={manifest}').returncode == 0


def test_without_kubectl(tmp_path):
    machine = Machine(tmp_path)
    machine.only('bash', 'dirname')
    assert error_of(launch(machine, '--check')).startswith('error: kubectl is not on PATH')
