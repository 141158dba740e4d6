"""Fixtures of all tests: a temporary home for data and compilations, tiny trained runs."""

import fcntl
import gc
import itertools
import os
import shutil
import tempfile

import fast_xla
import jaxtyping
import pytest

from cfg_jax.perf import xla

_SHARED = 'cfg_jax_tests_'
_modules = itertools.count(1)
# Modules and packages of the library whose functions promise shapes.
_SHAPED = ('conditioning', 'diffusion', 'guidance', 'inference', 'keys', 'losses', 'metrics')
_SHAPED += ('models', 'samplers')


def pytest_configure(config):
    """Sets the environment, of subprocesses too, before JAX or TFDS is imported and reads it.

    Compiling takes most of the time, and many tests train the same tiny network: they share a
    compilation cache that lasts for this session only. xdist's workers inherit it from the process
    that starts them.
    """
    root = tempfile.mkdtemp(prefix=_SHARED)
    config.add_cleanup(lambda: shutil.rmtree(root, ignore_errors=True))
    os.environ['TFDS_DATA_DIR'] = f'{root}/tensorflow_datasets'
    if not hasattr(config, 'workerinput'):
        os.environ['JAX_COMPILATION_CACHE_DIR'] = f'{root}/compilations'
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
    os.environ['XLA_FLAGS'] = fast_xla.FLAGS
    xla.set_flags()  # as commands do: the same rounding, and their compilations in the cache
    # Small matrices go faster without threads that wait for each other.
    os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
    # Looking through all old objects takes a tenth of the time; the end of each module is enough.
    gc.set_threshold(700, 10, 1000)
    # Before any of them is imported: what their annotations say of shapes is checked at every call.
    jaxtyping.install_import_hook([f'cfg_jax.{name}' for name in _SHAPED], 'shapes.checked')


@pytest.fixture(scope='module', autouse=True)
def _old_objects_are_not_collected_again():
    """Commands collect garbage as they end, which takes long where a session's objects are many."""
    yield
    if next(_modules) % 8 == 0:
        gc.unfreeze()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session', autouse=True)
def _quick_feature_classifier():
    from support import optimise_feature_classifier

    optimise_feature_classifier()


@pytest.fixture
def tiny_config():
    """configs/digits.py shrunk to seconds; each test may change its own."""
    from support import make_tiny_config

    return make_tiny_config()


@pytest.fixture
def unchecked():
    """The library as users run it, without the tests' own check of shapes."""
    from shapes import unchecked

    with unchecked():
        yield


@pytest.fixture
def toy_networks():
    """Puts toys in the place of U-Net and noisy classifier, see `support`."""
    from support import toy_instead_of_networks

    with toy_instead_of_networks():
        yield


@pytest.fixture
def undrawn():
    """Sweeps write empty files for pictures, which would take half their time; `undo()` draws."""
    from support import undraw_sweeps

    with pytest.MonkeyPatch.context() as patch:
        undraw_sweeps(patch)
        yield patch


@pytest.fixture(scope='session')
def digits_dir():
    """The directory of the prepared digits in the session's data_dir."""
    from pathlib import Path

    from support import make_tiny_config

    from cfg_jax.data import sources, tfds_sets

    data = make_tiny_config().data
    sources.data_source(data, 'train')  # prepares them on first use
    return Path(tfds_sets.find_builder(data.name, data.data_dir).data_path)


def _made_once(tmp_path_factory, worker, name, make):
    """The directory that make(directory) fills, by whichever of xdist's workers asks first."""
    base = tmp_path_factory.getbasetemp()
    directory = (base if worker == 'master' else base.parent) / name
    with directory.with_suffix('.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            unfinished = directory.with_suffix('.unfinished')
            make(unfinished)
            unfinished.rename(directory)
    return directory


@pytest.fixture(scope='session')
def trained_workdir(tmp_path_factory, worker_id):
    """The tiny config trained to its end. Shared: copy it before changing anything."""
    from support import make_tiny_config

    from cfg_jax.training import loop

    def make(workdir):
        loop.train(make_tiny_config(), workdir)

    return _made_once(tmp_path_factory, worker_id, 'trained', make)


@pytest.fixture(scope='session')
def swept_workdir(trained_workdir, tmp_path_factory, worker_id):
    """A copy of `trained_workdir` with the tiny sweep 'tiny'. Shared: do not change it."""

    def make(workdir):
        shutil.copytree(trained_workdir, workdir)
        _sweep(workdir)

    return _made_once(tmp_path_factory, worker_id, 'swept', make)


@pytest.fixture(scope='session')
def swept_toy_workdir(tmp_path_factory, worker_id):
    """The same of a toy network, for tests with `toy_networks` that sweep again and again."""
    from support import make_tiny_config, toy_instead_of_networks

    from cfg_jax.training import loop

    def make(workdir):
        with toy_instead_of_networks():
            loop.train(make_tiny_config(), workdir)
            _sweep(workdir)

    return _made_once(tmp_path_factory, worker_id, 'swept_toy', make)


@pytest.fixture
def workdir(swept_toy_workdir, tmp_path):
    """A copy of `swept_toy_workdir` to change; some files have one of another run."""
    return shutil.copytree(swept_toy_workdir, tmp_path / 'run')


def _sweep(workdir):
    from support import make_tiny_config

    from cfg_jax.evaluation import sweep
    from cfg_jax.metrics.features import classifier

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, '_EPOCHS', 20)  # half of them: good enough
        sweep.run(make_tiny_config(), workdir, name='tiny')
