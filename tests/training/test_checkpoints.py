import errno
import resource
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import assert_trees_equal, checkpoint_steps, logged, user_error

from cfg_jax import files
from cfg_jax.training import checkpoints


def make_state(seed=0):
    """A pytree with the shape of a train state: nested, of several types, scalars included."""
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {'params': {'dense': {'kernel': jax.random.normal(keys[0], (3, 5))}}}
    return {
        'step': jnp.int32(seed),
        'params': params,
        'ema_params': jax.tree.map(lambda a: a + 1.0, params),
        'half': jax.random.normal(keys[1], (7,), jnp.bfloat16),
    }


def save(workdir, states, **options):
    """Saves {step: state} in order."""
    with checkpoints.Checkpoints(workdir, **options) as saved:
        for step, state in states.items():
            saved.save(step, state, {'next_batch': 10 * step})
        saved.wait()


def test_restores_what_was_saved(tmp_path):
    states = {3: make_state(3), 6: make_state(6)}
    save(tmp_path, states)
    with checkpoints.Checkpoints(tmp_path) as saved:
        assert saved.latest_step() == 6
        for step, state in states.items():
            restored, data_state = saved.restore(step, make_state())
            assert_trees_equal(restored, state)
            assert data_state == {'next_batch': 10 * step}


def test_no_checkpoint_yet(tmp_path):
    with checkpoints.Checkpoints(tmp_path) as saved:
        assert saved.latest_step() is None
    assert (tmp_path / 'checkpoints').is_dir()


def test_keeps_the_newest(tmp_path):
    save(tmp_path, {step: make_state(step) for step in range(1, 6)}, keep=2)
    assert checkpoint_steps(tmp_path) == [4, 5]


def test_keeps_the_newest_and_every_period(tmp_path):
    save(tmp_path, {step: make_state(step) for step in range(1, 8)}, keep=2, keep_period=3)
    assert checkpoint_steps(tmp_path) == [3, 6, 7]


def test_arrays_may_be_donated_once_save_returns(tmp_path):
    """Saving goes on in the background while the next step reuses the buffers."""
    state = {'a': jax.random.normal(jax.random.key(0), (2_000_000,))}
    expected = np.array(state['a'])
    overwrite = jax.jit(lambda tree: jax.tree.map(jnp.negative, tree), donate_argnums=0)
    with checkpoints.Checkpoints(tmp_path) as saved:
        saved.save(1, state, {'next_batch': 1})
        jax.block_until_ready(overwrite(state))
        saved.wait()
        restored, _ = saved.restore(1, {'a': jnp.zeros(2_000_000)})
    np.testing.assert_array_equal(restored['a'], expected)


def test_an_unfinished_checkpoint_does_not_count(tmp_path):
    """What a process killed while saving leaves behind: a directory under a temporary name."""
    save(tmp_path, {1: make_state(1), 2: make_state(2)})
    folder = tmp_path / 'checkpoints'
    shutil.copytree(folder / '2', folder / '3.orbax-checkpoint-tmp')
    with checkpoints.Checkpoints(tmp_path) as saved:
        assert saved.latest_step() == 2
    _, step = checkpoints.restore_ema(tmp_path, make_state()['ema_params'])
    assert step == 2


def test_restore_ema_reads_the_ema_of_the_newest(tmp_path):
    states = {9: make_state(9), 10: make_state(10)}
    save(tmp_path, states)
    shapes = jax.eval_shape(make_state)['ema_params']
    ema_params, step = checkpoints.restore_ema(tmp_path, shapes)
    assert step == 10
    assert_trees_equal(ema_params, states[10]['ema_params'])


def test_restore_ema_reads_nothing_else(tmp_path, monkeypatch):
    """It works for a state whose other parts are unknown, and restores no bytes of them."""
    ema_params = make_state()['ema_params']
    save(tmp_path, {1: {'ema_params': ema_params, 'unknown': {'large': jnp.ones((500, 500))}}})
    read = []
    make_array = jax.make_array_from_single_device_arrays

    def count(shape, *args, **kwargs):
        read.append(tuple(shape))
        return make_array(shape, *args, **kwargs)

    monkeypatch.setattr(jax, 'make_array_from_single_device_arrays', count)
    restored, _ = checkpoints.restore_ema(tmp_path, ema_params)
    assert_trees_equal(restored, ema_params)
    assert (3, 5) in read
    assert (500, 500) not in read


@pytest.mark.parametrize('folder', ['', 'checkpoints'])
def test_restore_ema_without_a_checkpoint(tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    message = user_error(checkpoints.restore_ema, tmp_path, make_state()['ema_params'])
    assert f'{tmp_path} holds no complete checkpoint' in message


def test_restore_ema_of_another_network(tmp_path):
    save(tmp_path, {1: make_state(1)})
    other = {'params': {'dense': {'kernel': jnp.zeros((4, 5))}}}
    message = user_error(checkpoints.restore_ema, tmp_path, other)
    assert 'ema_params.params.dense.kernel has shape (4, 5) by the config, shape (3, 5)' in message
    more = make_state()['ema_params'] | {'head': jnp.zeros(2)}
    assert 'ema_params.head' in user_error(checkpoints.restore_ema, tmp_path, more)


def test_restoring_another_network_sets_nothing_aside(tmp_path):
    save(tmp_path, {1: make_state(1)})
    other = make_state() | {'half': jnp.zeros(8, jnp.bfloat16)}
    with checkpoints.Checkpoints(tmp_path) as saved:
        message = user_error(saved.restore_newest, other)
    assert 'half has shape (8,) by the config, shape (7,) in the checkpoint' in message
    assert checkpoint_steps(tmp_path) == [1]


def test_restore_ema_of_an_earlier_step(tmp_path):
    states = {3: make_state(3), 6: make_state(6)}
    save(tmp_path, states)
    ema_params, step = checkpoints.restore_ema(tmp_path, make_state()['ema_params'], 3)
    assert step == 3
    assert_trees_equal(ema_params, states[3]['ema_params'])
    message = user_error(checkpoints.restore_ema, tmp_path, make_state()['ema_params'], 4)
    assert 'no checkpoint of step 4; it has: 3, 6' in message


def files_of(workdir, step, part):
    return [
        path for path in (workdir / 'checkpoints' / str(step) / part).rglob('*') if path.is_file()
    ]


def truncate(workdir):
    largest = max(files_of(workdir, 6, 'state/d'), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def flip_a_bit(workdir):
    largest = max(files_of(workdir, 6, 'state/d'), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def remove_data(workdir):
    for path in files_of(workdir, 6, 'data'):
        path.unlink()


def remove_largest(workdir):
    max(files_of(workdir, 6, 'state/d'), key=lambda path: path.stat().st_size).unlink()


def empty(workdir):
    shutil.rmtree(workdir / 'checkpoints' / '6')
    (workdir / 'checkpoints' / '6').mkdir()


def foreign(workdir):
    empty(workdir)
    (workdir / 'checkpoints' / '6' / 'thesis.tex').write_text('mine')


def file_instead(workdir):
    shutil.rmtree(workdir / 'checkpoints' / '6')
    (workdir / 'checkpoints' / '6').write_bytes(b'\x00' * 100)


def with_data(content):
    def write(workdir):
        (path,) = [path for path in files_of(workdir, 6, 'data') if path.name == 'metadata']
        path.write_bytes(content)

    return write


@pytest.mark.parametrize(
    'damage',
    [
        truncate,
        flip_a_bit,
        remove_data,
        remove_largest,
        empty,
        foreign,
        file_instead,
        *map(with_data, (b'', b'[1]', b'{}', b'\xff\xfe', b'{"next_batch": "6"}', b'{"next_b')),
    ],
)
def test_damage_is_set_aside(tmp_path, damage):
    states = {3: make_state(3), 6: make_state(6)}
    save(tmp_path, states)
    damage(tmp_path)
    found = [path.name for path in (tmp_path / 'checkpoints' / '6').rglob('*')]
    with logged() as lines, checkpoints.Checkpoints(tmp_path) as saved:
        step, state, data_state = saved.restore_newest(make_state())
        assert (step, data_state) == (3, {'next_batch': 30})
        assert_trees_equal(state, states[3])
        assert saved.latest_step() == 3
        (line,) = lines
        assert line.startswith('warning: the checkpoint of step 6 cannot be read (')
        aside = tmp_path / 'damaged_checkpoints' / '6'
        assert str(aside) in line
        assert '\n' not in line
        assert [path.name for path in aside.rglob('*')] == found  # nothing is thrown away
        # The step can be saved again, and a second damage goes beside the first.
        assert saved.save(6, states[6], {'next_batch': 60}) is None
        assert saved.wait() is None
    truncate(tmp_path)
    with checkpoints.Checkpoints(tmp_path) as saved:
        assert saved.restore_newest(make_state())[0] == 3
    assert (tmp_path / 'damaged_checkpoints' / '6_1').is_dir()


def test_other_names_are_left_alone(tmp_path):
    save(tmp_path, {3: make_state(3)})
    (tmp_path / 'checkpoints' / 'notes').mkdir()
    with checkpoints.Checkpoints(tmp_path) as saved:
        assert saved.restore_newest(make_state())[0] == 3
    assert (tmp_path / 'checkpoints' / 'notes').is_dir()


def test_nothing_left_to_restore(tmp_path):
    with checkpoints.Checkpoints(tmp_path) as saved:
        assert saved.restore_newest(make_state()) is None
    save(tmp_path, {6: make_state(6)})
    truncate(tmp_path)
    with checkpoints.Checkpoints(tmp_path) as saved:
        message = user_error(saved.restore_newest, make_state())
    assert 'run again to start from scratch' in message


def test_what_another_command_has_set_aside_meanwhile_is_left_there(tmp_path, monkeypatch):
    """Two that open a trained model hold no lock."""
    save(tmp_path, {6: make_state(6)})
    aside = tmp_path / 'damaged_checkpoints' / '6'
    with checkpoints.Checkpoints(tmp_path) as saved:

        def restore(step, like):
            aside.parent.mkdir()
            (tmp_path / 'checkpoints' / '6').rename(aside)
            raise files.Damaged('half of it')

        monkeypatch.setattr(saved, 'restore', restore)
        with logged() as lines:
            message = user_error(saved.restore_newest, make_state())
    assert 'run again to start from scratch' in message
    assert not lines
    assert [path.name for path in aside.parent.iterdir()] == ['6']


def test_lost_storage_is_no_damage(tmp_path, monkeypatch):
    save(tmp_path, {6: make_state(6)})
    with checkpoints.Checkpoints(tmp_path) as saved:

        def lost(step, like):
            raise OSError(errno.EIO, 'Input/output error')

        monkeypatch.setattr(saved, 'restore', lost)
        with pytest.raises(OSError, match='Input/output'):
            saved.restore_newest(make_state())
    assert checkpoint_steps(tmp_path) == [6]


def test_a_full_disk_is_told_and_the_last_good_checkpoint_kept(tmp_path):
    """A limit on the size of files stands for the disk's end."""
    big = make_state() | {'big': jnp.asarray(np.random.default_rng(0).normal(size=(300, 300)))}
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with checkpoints.Checkpoints(tmp_path) as saved:
            assert saved.save(3, big, {'next_batch': 3}) is None
            assert saved.wait() is None
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, unlimited[1]))
            saved.save(6, big, {'next_batch': 6})
            problem = saved.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
            assert problem.startswith('the checkpoint of step 6 could not be saved (')
            assert '\n' not in problem
            assert saved.latest_step() == 3
            # No half checkpoint fills the disk for good, and there is room again.
            assert sorted(p.name for p in (tmp_path / 'checkpoints').iterdir()) == ['3']
            assert saved.save(9, big, {'next_batch': 9}) is None
            assert saved.wait() is None
            assert saved.latest_step() == 9
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize(
    'error',
    [
        jax.errors.JaxRuntimeError('DEADLINE_EXCEEDED: Barrier timed out. Id: Thread::1.'),
        TimeoutError('ChainedFuture completed 2/4 futures but timed out after 15.00 seconds'),
    ],
)
def test_processes_that_wait_in_vain_for_one_with_a_full_disk_train_on(tmp_path, error):
    """What Orbax raises then, on the others, and by chance on that one too."""

    with checkpoints.Checkpoints(tmp_path) as saved:
        with pytest.MonkeyPatch.context() as patch:
            assert saved.save(3, make_state(), {'next_batch': 3}) is None
            wait = saved._manager.wait_until_finished

            def fail():
                wait()
                raise error

            patch.setattr(saved._manager, 'wait_until_finished', fail)
            problem = saved.wait()
        assert 'step 3 could not be saved (the processes waited in vain for each other' in problem
        assert saved.save(6, make_state(), {'next_batch': 6}) is None
        assert saved.wait() is None
        assert saved.latest_step() == 6


def test_ema_of_a_damaged_checkpoint(tmp_path):
    save(tmp_path, {6: make_state(6)})
    truncate(tmp_path)
    message = user_error(checkpoints.restore_ema, tmp_path, make_state()['ema_params'])
    assert 'run the training command again' in message


def test_ema_of_a_damaged_checkpoint_is_one_line(tmp_path, capfd):
    save(tmp_path, {6: make_state(6)})
    truncate(tmp_path)
    capfd.readouterr()
    user_error(checkpoints.restore_ema, tmp_path, make_state()['ema_params'])
    assert capfd.readouterr() == ('', '')


def test_a_file_in_the_place_of_all_checkpoints(tmp_path):
    (tmp_path / 'checkpoints').write_text('mine')
    assert 'must be a directory' in user_error(checkpoints.Checkpoints, tmp_path)
    message = user_error(checkpoints.restore_ema, tmp_path, make_state()['ema_params'])
    assert 'no complete checkpoint' in message
    assert (tmp_path / 'checkpoints').read_text() == 'mine'


def test_gs_reaches_orbax_as_it_was_given(monkeypatch):
    """`resolve()` would make it a local path below the current directory."""
    given = []

    class Manager:
        def __init__(self, directory, **_):
            given.append(directory)

    monkeypatch.setattr(files.importlib.util, 'find_spec', lambda name: name == 'gcsfs')
    monkeypatch.setattr('etils.epath.gpath._GPath.exists', lambda self: False)
    monkeypatch.setattr(checkpoints.ocp, 'CheckpointManager', Manager)
    checkpoints.Checkpoints('gs://bucket/run')
    assert [str(path) for path in given] == ['gs://bucket/run/checkpoints']


def test_gs_reaches_orbax_in_restore_ema(monkeypatch):
    monkeypatch.setattr(files.importlib.util, 'find_spec', lambda name: name == 'gcsfs')
    monkeypatch.setattr('etils.epath.gpath._GPath.is_dir', lambda self: True)
    asked = []
    monkeypatch.setattr(
        checkpoints.ocp.utils, 'checkpoint_steps', lambda path: asked.append(str(path)) or [3]
    )
    step, path = checkpoints.find_checkpoint('gs://bucket/run')
    assert asked == ['gs://bucket/run/checkpoints']
    assert (step, str(path)) == (3, 'gs://bucket/run/checkpoints/3')


def test_home_is_expanded(tmp_path, monkeypatch):
    save(tmp_path, {6: make_state(6)})
    monkeypatch.setenv('HOME', str(tmp_path.parent))
    shapes = jax.eval_shape(make_state)['ema_params']
    assert checkpoints.restore_ema(f'~/{tmp_path.name}', shapes)[1] == 6
