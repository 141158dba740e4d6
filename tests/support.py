"""What several test files need: the tiny config, a toy network, scripts, checkpoints' content."""

import contextlib
import importlib.util
import logging
import os
import subprocess
import sys
import types
from pathlib import Path

import fast_xla
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from absl import logging as absl_logging
from etils import epath

from cfg_jax import cli, config_fields, config_files, console, files
from cfg_jax.errors import UserError
from cfg_jax.metrics.features import classifier
from cfg_jax.perf import cost, xla

ROOT = Path(__file__).resolve().parents[1]
DIGITS = str(ROOT / 'configs' / 'digits.py')
CLASSIFIER = f'{DIGITS}:classifier'
# A name for `start_script`: train.py with a toy, where only what surrounds the network is tested.
TOY_TRAINING = '../tests/distributed/train_toy.py'

TINY = {
    'model.width': 8,
    'model.norm_groups': 4,
    'model.head_channels': 8,
    # One level, which compiles in a fraction of the time; test_unet.py has the others.
    'model.channel_mult': (1,),
    'model.attention_resolutions': (8,),
    'train.steps': 6,
    'train.batch_size': 16,
    'train.warmup_steps': 4,
    'train.log_every': 2,
    'train.checkpoint_every': 3,
    'train.sample_every': 6,
    'sampler.num_steps': 4,
    'sweep.w': (0.0, 1.0),
    'sweep.num_samples': 40,
    'sweep.batch_size': 20,
    'sweep.shard_size': 20,
    'sweep.is_splits': 2,
}


def tiny_arguments(without=(), **changes):
    """['--config.FIELD=VALUE', ...] of the tiny config; a change is written train__steps=3.

    Fields in `without` are left out.
    """
    values = TINY | {name.replace('__', '.'): value for name, value in changes.items()}
    return [f'--config.{name}={value}' for name, value in values.items() if name not in without]


def make_tiny_config(path=DIGITS, **changes):
    """The tiny config, changed as in `tiny_arguments`; of the U-Net or of the CLASSIFIER."""
    arguments = tiny_arguments(**changes)
    if path == CLASSIFIER:
        known = config_fields.fields('classifier')
        arguments = [a for a in arguments if a[len('--config.') : a.index('=')] in known]
    return config_files.load_config(path, arguments)


class ToyNetwork(nn.Module):
    """A stand-in for the U-Net where only the machinery around it is tested: compiles at once."""

    num_classes: int
    channels: int

    @nn.compact
    def __call__(self, z, logsnr, condition, train=False):
        emb = nn.Embed(self.num_classes + 1, 8, name='label')(condition)
        emb = emb + nn.Dense(8)(logsnr[:, None] / 20.0)
        h = jnp.tanh(nn.Conv(8, (3, 3))(z) + emb[:, None, None, :])
        return nn.Conv(self.channels, (3, 3))(h)


def toy_second_branch(config):
    """Operations of `ToyNetwork` behind the condition: not its first convolution, nor log-SNR's."""
    first = 2 * config.data.image_size**2 * 9 * config.data.channels * 8
    return cost.forward_flops(config) - first - 2 * 8


class ToyClassifier(nn.Module):
    """The same for the noisy classifier."""

    num_classes: int

    @nn.compact
    def __call__(self, z, logsnr, train=False):
        h = nn.tanh(nn.Dense(8)(z.reshape(z.shape[0], -1)) + nn.Dense(8)(logsnr[:, None] / 20.0))
        return nn.Dense(self.num_classes)(h)


@contextlib.contextmanager
def toy_instead_of_networks():
    """Puts toys in the place of U-Net and noisy classifier inside a `with` block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            'cfg_jax.models.networks.make_classifier',
            lambda config: ToyClassifier(config.data.num_classes),
        )
        patch.setattr(
            'cfg_jax.models.networks.make_unet',
            lambda config: ToyNetwork(config.data.num_classes, config.data.channels),
        )
        yield


def draw_nothing(*arguments, **options):
    """In the place of what draws a picture of a sweep, to the path that is among its arguments."""
    (path,) = [argument for argument in arguments if isinstance(argument, epath.Path)]
    files.write_bytes(path, b'')


def undraw_sweeps(patch):
    """Sweeps write empty files for pictures, until the MonkeyPatch `patch` is undone."""
    from cfg_jax.evaluation import plots, sweep

    nothing = types.SimpleNamespace(
        classes_along_w=lambda *_: (), draw=lambda *_: None, save_samples=draw_nothing
    )
    patch.setattr(sweep, 'drawing', nothing)
    patch.setattr(plots, 'save_tradeoff', draw_nothing)


def user_error(fn, *args, **kwargs):
    """The message of the UserError that fn(*args, **kwargs) must raise: one clean line."""
    with pytest.raises(UserError) as caught:
        fn(*args, **kwargs)
    message = str(caught.value)
    assert message
    assert message == message.strip()
    assert '\n' not in message
    return message


@contextlib.contextmanager
def logged():
    """The list of what our code logs inside a `with` block; warnings begin with 'warning: '."""
    lines = []

    class Collector(logging.Handler):
        def emit(self, record):
            if console.is_ours(record):
                prefix = 'warning: ' if record.levelno >= logging.WARNING else ''
                lines.append(prefix + record.getMessage())

    handler, verbosity = Collector(), absl_logging.get_verbosity()
    absl_logging.get_absl_logger().addHandler(handler)
    absl_logging.set_verbosity(absl_logging.INFO)
    try:
        yield lines
    finally:
        absl_logging.get_absl_logger().removeHandler(handler)
        absl_logging.set_verbosity(verbosity)


def script_environment(**changes):
    """The environment for a script: ours, with the output unbuffered and the flags of commands."""
    environment = os.environ | {'PYTHONUNBUFFERED': '1'} | changes
    if 'XLA_FLAGS' in changes:
        environment['XLA_FLAGS'] = f'{fast_xla.FLAGS} {changes["XLA_FLAGS"]}'.strip()
    xla.set_flags(environment)
    return environment


def start_script(xla_flags, name, *arguments):
    """Starts `python scripts/NAME ARGUMENTS` in the repository; streams are text pipes."""
    return subprocess.Popen(
        [sys.executable, f'scripts/{name}', *map(str, arguments)],
        cwd=ROOT,
        env=script_environment(XLA_FLAGS=xla_flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_script(xla_flags, name, *arguments, timeout=300):
    """Runs a script to its end; returns (status, stdout, stderr)."""
    process = start_script(xla_flags, name, *arguments)
    stdout, stderr = process.communicate(timeout=timeout)
    return process.returncode, stdout, stderr


def experiment(name):
    """A module of experiments/, imported as the scripts there import each other."""
    if str(ROOT / 'experiments') not in sys.path:
        sys.path.append(str(ROOT / 'experiments'))
    return importlib.import_module(name)


def script(name):
    """A module of scripts/, which do not import each other."""
    spec = importlib.util.spec_from_file_location('script', ROOT / 'scripts' / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_here(capsys, path, *arguments):
    """Runs a command in this process, which saves the imports of a new one.

    Returns (status, lines of standard output, lines of standard error).
    """
    if path.startswith('experiments/'):
        module = experiment(Path(path).stem)
    else:
        module = script(Path(path).name)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr('sys.argv', [path, *map(str, arguments)])
        patch.chdir(ROOT)
        cli.run(module.main)
    captured = capsys.readouterr()
    return ended.value.code, captured.out.splitlines(), captured.err.splitlines()


def optimise_feature_classifier():
    """Compiles the steps of the feature classifier with LLVM's usual optimisation.

    It takes thousands of them: here running is the slow part, not compiling as in `fast_xla`.
    """
    make = classifier._make_step

    def make_step(*arguments):
        step = make(*arguments).__wrapped__
        return jax.jit(step, compiler_options={'xla_backend_optimization_level': 3})

    classifier._make_step = make_step


def checkpoint_steps(workdir):
    """Steps of the complete checkpoints of a work directory."""
    folders = (Path(workdir) / 'checkpoints').iterdir()
    return sorted(int(folder.name) for folder in folders if folder.name.isdigit())


def checkpoint_arrays(workdir, step):
    """Every array of a checkpoint by name, read without the library."""
    path = (Path(workdir) / 'checkpoints' / str(step) / 'state').resolve()
    reader = ocp.PyTreeCheckpointer()
    # As NumPy arrays: the devices that wrote it may not be here.
    as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
    args = jax.tree.map(lambda _: as_numpy, reader.metadata(path).item_metadata.tree)
    tree = reader.restore(path, restore_args=args)
    return {jax.tree_util.keystr(p): np.asarray(a) for p, a in jax.tree.leaves_with_path(tree)}


def checkpoint_hash(workdir, step):
    """Hash of every array of a checkpoint."""
    return files.sha256_of_arrays(checkpoint_arrays(workdir, step))


def assert_trees_equal(a, b):
    """Same structure, dtypes and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, left), right in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        name = jax.tree_util.keystr(path)
        assert left.dtype == right.dtype, name
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right), err_msg=name)
