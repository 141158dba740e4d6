"""A world where the commands of the documentation take a second: toys for all that is large.

Configs, sweeps and presets are shrunk after a command has read its options, which stay as they are
printed. Data sets, weights and published networks lie where the pages say, with little in them.

What commands do not show here is tested elsewhere: a bucket is a directory (test_buckets.py), four
processes are one (distributed/), workers that decode are none (data/test_workers.py), ImageNet is
prepared already (data/test_tfds_sets.py), and pictures of training, sweeps and tables are empty
files (evaluation/test_plots.py).
"""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import published_toys
import pytest
import tensorflow_datasets as tfds
import toy_experiments
from pictures import class_folder, encoded, random_pixels
from PIL import Image
from shapes import unchecked
from support import (
    ROOT,
    draw_nothing,
    experiment,
    script,
    toy_instead_of_networks,
    undraw_sweeps,
)
from test_comparison import Means
from test_conversion import LAYERS, draw, write_torch

from cfg_jax import config_files, files
from cfg_jax.data import tfds_sets, workers
from cfg_jax.distributed import multihost
from cfg_jax.evaluation import plots, sweep
from cfg_jax.metrics.features import EXTRACTORS, conversion, inception
from cfg_jax.perf import benchmark
from cfg_jax.pretrained import presets
from cfg_jax.training.pictures import Pictures

SIDE = 8  # of all images
# Places of other machines, by what they are in the directory of the world.
PLACES = {'gs://BUCKET': 'runs', '/scratch': 'runs', '/data': 'data', '/archives': 'archives'}
_PLACE = re.compile(rf'(?<![\w./])({"|".join(PLACES)})(?=/|$)')
_SETTINGS = {
    'data': {'image_size': SIDE, 'num_workers': 0},
    'model': {
        'width': 8,
        'norm_groups': 4,
        'head_channels': 8,
        'num_heads': 0,
        'channel_mult': (1,),
        'attention_resolutions': (SIDE,),
        'num_res_blocks': 1,
        'patch': 1,
        'dtype': 'float32',
    },
    'train': {'steps': 4, 'batch_size': 8, 'log_every': 2, 'checkpoint_every': 4},
}
_SWEEP = {'num_samples': 8, 'batch_size': 8, 'shard_size': 8, 'is_splits': 2}


def main_of(path):
    """The `main(argv)` of a command of scripts/ or experiments/."""
    folder, name = Path(path).parts
    assert (ROOT / path).is_file(), path
    if folder == 'experiments':
        return experiment(Path(name).stem).main
    module = script(name)
    if name == 'bench_input.py':  # few pictures, each measurement as short as it can be
        rate_of, module._COUNT = module.rate_of, 1
        module.rate_of = lambda work, seconds: rate_of(work, 0.0)
    return module.main


def shrink(config):
    """The same config of a toy; a run keeps whatever tells it from others."""
    for group, settings in _SETTINGS.items():
        config[group].update(settings)
    config.train.averages_every = min(config.train.averages_every, 1)
    if 'sweep' in config:
        config.sampler.num_steps = published_toys.LEVELS
        shrink_sweep(config)
    return config


def shrink_sweep(config):
    """Few samples, at the last two w: w = 0 would be one more program to compile."""
    config.sweep.update(_SWEEP)
    config.sweep.w = config.sweep.w[-2:]
    config.sweep.bootstrap = min(config.sweep.bootstrap, 2)


class Instrument(Means):
    """In the place of the FID Inception, and of its first part."""

    def __init__(self, name):
        self.name, self.distance = name, EXTRACTORS[name].distance

    def apply(self, params, images):
        found = super().apply(params, images)
        return found if self.name == 'inception' else found._replace(logits=None)


def instrument(path, name='inception', dtype='float32'):
    """In the place of `inception.from_file`."""
    assert files.as_path(path).is_file(), path
    return Instrument(name)


class Photographs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Noise under the name of a data set, with as many classes."""

    VERSION = tfds.core.Version('1.0.0')

    def __init__(self, name, version, classes, **options):
        self.name, self.VERSION = name, tfds.core.Version(version)
        self._classes = classes
        super().__init__(**options)

    def _info(self):
        features = {
            'image': tfds.features.Image(shape=(None, None, 3)),
            'label': tfds.features.ClassLabel(names=[f'n{i:08d}' for i in range(self._classes)]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples(24), 'validation': self._generate_examples(1000)}

    def _generate_examples(self, count):
        images = [encoded(pixels) for pixels in random_pixels(24, SIDE, SIDE)]
        for i in range(count):
            yield i, {'image': images[i % 24], 'label': i % self._classes}


def _data_sets(root):
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        for name, version, classes, folder in (
            ('imagenet2012', '5.1.0', 1000, root / 'data' / 'tfds'),
            ('tiny_imagenet64', '1.0.0', 200, root),
        ):
            tfds_sets.prepare(Photographs(name, version, classes, data_dir=folder))
    (root / 'runs').mkdir()
    (root / 'runs' / 'tfds').symlink_to(root / 'data' / 'tfds')  # the bucket holds it too
    class_folder(root / 'data' / 'birds', {f'bird_{n:02d}': 2 for n in range(12)}, SIDE)
    class_folder(root / 'data' / 'jpegs', {'pictures': 4}, SIDE)


def _images(root):
    """Sets of images and references that people bring."""
    for folder in ('samples', 'seed0', 'seed1', 'seed2'):
        class_folder(root, {folder: 12}, SIDE)
    for name, side in (
        ('samples', SIDE),
        ('reference', SIDE),
        ('train', SIDE),
        ('VIRTUAL_imagenet64_labeled', SIDE),
        ('VIRTUAL_imagenet256_labeled', published_toys.SIDE),
    ):
        np.savez(root / f'{name}.npz', random_pixels(12, side, side))
    statistics = {'mu': np.zeros(3), 'sigma': np.eye(3)}
    for name in ('imagenet-64x64', 'img64'):  # as EDM publishes them
        np.savez(root / f'{name}.npz', **statistics)
    for name in ('seven.png', 'half.png'):
        Image.linear_gradient('L').resize((SIDE, SIDE)).save(root / name)


def _weights(root, patch):
    layers = {name: (*shape[:-2], 2, 3) for name, shape in LAYERS.items()}
    patch.setattr(conversion, 'layers', lambda tap: layers)
    source = write_torch(root / 'pt_inception-2015-12-05-6726825d.pth', draw(layers))
    patch.setitem(conversion.KNOWN, files.sha256_of_file(source), source.name)
    for name in ('inception', 'inception768', 'inception2015_to_mixed8', 'googlenet_fp16'):
        (root / f'{name}.npz').touch()
    published_toys.write(root)


@contextlib.contextmanager
def world(root):
    """Fills a directory with what the pages take for granted, and puts toys in the place of it."""
    load, prepare = config_files.load_config, sweep.prepare
    iterator, training = workers.WorkerIterator, benchmark.training

    def train_briefly(config, steps, rounds, *arguments, **options):
        config.train.batch_size = 8
        return training(config, 1, 1, *arguments, **options)

    def prepare_toy(config, *arguments, **options):
        shrink_sweep(config)
        return prepare(config, *arguments, **options)

    with (
        toy_instead_of_networks(),
        published_toys.run_quickly(),
        toy_experiments.few(root, Instrument),
        unchecked(),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(config_files, 'load_config', lambda *given: shrink(load(*given)))
        patch.setattr(sweep, 'prepare', prepare_toy)
        undraw_sweeps(patch)
        patch.setattr(experiment('tables_parts.layout'), 'draw', draw_nothing)
        patch.setattr(Pictures, 'draw', lambda pictures, step, params: None)
        patch.setattr(plots, 'save', lambda path, figure: files.write_bytes(path, b''))
        patch.setattr(workers, 'WorkerIterator', lambda dataset, count: iterator(dataset, 0))
        patch.setattr(benchmark, 'training', train_briefly)
        patch.setattr(presets, 'PRESETS', published_toys.small())
        patch.setattr(inception, 'from_file', instrument)
        patch.setattr(multihost, '_initialize', lambda *given, **options: None)  # alone
        _data_sets(root)
        _images(root)
        _weights(root, patch)
        yield


def located(arguments):
    """Arguments with the places of other machines in this directory, and patterns of names filled.

    Bash fills patterns too, but has run before there was anything.
    """
    filled = []
    for argument in arguments:
        argument = _PLACE.sub(lambda found: PLACES[found[1]], argument)
        found = sorted(map(str, Path().glob(argument))) if '*' in argument else [argument]
        assert found, argument
        filled += found
    return filled
