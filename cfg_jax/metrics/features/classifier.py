"""A small convolutional classifier as feature extractor, for data sets that Inception cannot see.

It is trained on the data set's own real images in seconds, the same on every run, and kept with its
held-out accuracy and the hash of its weights. Metrics made with it compare with each other, never
with published FID or IS.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from etils import epath
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from cfg_jax import files, progress
from cfg_jax.data import pipeline
from cfg_jax.distributed import multihost
from cfg_jax.errors import UserError
from cfg_jax.metrics.features import Features

_EPOCHS = 150
_MOST_STEPS = 10_000  # 150 epochs of 50,000 images would take hours
_BATCH = 128
_LEARNING_RATE = 6e-3
_MAX_SHIFT = 1
_MAX_SIDE = 32
_SEED = 0
_RECORD, _WEIGHTS = 'classifier.json', 'weights.npz'
_TRAIN_SHARE = 80  # percent; the rest measures accuracy


class ConvNet(nn.Module):
    """Three 3x3 convolutions (the last two of stride 2), a hidden layer (the features), a head."""

    num_classes: int
    width: int = 24
    feature_dim: int = 48

    @nn.compact
    def __call__(self, x: Float[jax.Array, 'b h w c']) -> Features:
        """x in [-1, 1] -> pooled [B, feature_dim], logits [B, classes]."""
        for mult, stride in ((1, 1), (2, 2), (4, 2)):
            x = nn.relu(nn.Conv(mult * self.width, (3, 3), strides=stride)(x))
        x = x.reshape(x.shape[0], -1)  # [B, H / 4 * W / 4 * 4 * width]
        pooled = nn.relu(nn.Dense(self.feature_dim)(x))
        return Features(pooled, nn.Dense(self.num_classes)(pooled))


class Classifier:
    """The classifier of one data set as a `features.FeatureExtractor`."""

    name = 'classifier'
    distance = 'FID'
    logits_are_labels = True
    chunk = 1024

    def __init__(self, params: Any, num_classes: int, record: dict[str, Any]):
        self.params = params
        self._net = ConvNet(num_classes)
        self._record = record

    def apply(self, params: Any, images: UInt8[jax.Array, 'b h w c']) -> Features:
        """Pooled features and logits of the data set's classes."""
        features: Any = self._net.apply(params, images.astype(jnp.float32) / 127.5 - 1.0)
        return features

    def provenance(self) -> dict[str, Any]:
        """Name, SHA-256 of the weights, what it was trained on and its held-out accuracy."""
        return dict(self._record)


def load(config: ConfigDict, workdir: epath.Path) -> Classifier:
    """The classifier of a work directory; process 0 trains it first where there is none."""
    directory = workdir / 'classifier'

    def load_here() -> Classifier:
        return load_or_train(config, directory)

    return multihost.run_on_process_zero('classifier', load_here) or load_here()


def load_or_train(config: ConfigDict, directory: epath.PathLike) -> Classifier:
    """The classifier kept in `directory`, trained first where there is none or it is damaged."""
    directory, num_classes = epath.Path(directory), config.data.num_classes
    record = files.read_or_set_aside(directory / _RECORD, _read_record)
    if record is not None:
        arrays = files.read_or_set_aside(
            directory / _WEIGHTS, lambda path: _read_weights(path, record['sha256'])
        )
        if arrays is not None:
            return Classifier(_unflatten(arrays), num_classes, record)
    logging.info('training the feature classifier on %s (once)', config.data.name)
    params, accuracy = train(config.data)
    arrays = _flatten(params)
    files.write_npz(directory / _WEIGHTS, arrays)
    record = {
        'name': Classifier.name,
        'sha256': files.sha256_of_arrays(arrays),
        'trained_on': f'first {_TRAIN_SHARE} % of {config.data.name} {config.data.split}',
        'held_out_accuracy': accuracy,
    }
    files.write_json(directory / _RECORD, record)  # last: its presence says that both are complete
    logging.info('classifier: %.2f%% of the held-out images right', 100 * accuracy)
    return Classifier(params, num_classes, record)


def _read_record(path: epath.Path) -> dict[str, Any]:
    return files.read_json(path, keys=('sha256', 'held_out_accuracy'))


def _read_weights(path: epath.Path, sha256: str) -> dict[str, np.ndarray]:
    arrays = files.read_npz(path)
    if files.sha256_of_arrays(arrays) != sha256:
        raise files.Damaged(f'{path} holds other weights than {_RECORD} says')
    return arrays


def train(config_data: ConfigDict) -> tuple[Any, float]:
    """Trains on 80 % of the split; returns the parameters and the accuracy on the other 20 %."""
    if config_data.image_size > _MAX_SIDE:
        raise UserError(
            f'the feature classifier is made for small images, up to {_MAX_SIDE} pixels; got'
            f' data.image_size={config_data.image_size}; choose another sweep.features'
        )
    train_set, held_out = _load(config_data)
    net = ConvNet(config_data.num_classes)
    params = net.init(jax.random.key(_SEED), jnp.zeros((1, *train_set['image'].shape[1:])))
    steps = min(_EPOCHS * max(1, len(train_set['condition']) // _BATCH), _MOST_STEPS)
    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, steps))
    opt_state = optimizer.init(params)
    step = _make_step(net, optimizer)
    rng = np.random.default_rng(_SEED)
    batch = min(_BATCH, len(train_set['condition']))
    with progress.bar(steps, 'steps', name='classifier: ') as bar:
        for _ in range(steps):
            rows = rng.choice(len(train_set['condition']), batch, replace=False)
            x = _shift(train_set['image'][rows], rng)
            params, opt_state = step(params, opt_state, x, train_set['condition'][rows])
            bar.update()
    logits = jax.jit(net.apply)(params, held_out['image']).logits
    return params, float(np.mean(np.argmax(logits, axis=-1) == held_out['condition']))


def _make_step(net: ConvNet, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """step(params, opt_state, x, label) -> (params, opt_state), compiled."""

    @jax.jit
    def step(params, opt_state, x, label):
        def loss_fn(params):
            out: Any = net.apply(params, x)
            losses = optax.softmax_cross_entropy_with_integer_labels(out.logits, label)
            return losses.mean()

        updates, opt_state = optimizer.update(jax.grad(loss_fn)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    return step


def _load(config_data: ConfigDict) -> tuple[pipeline.Batch, pipeline.Batch]:
    """The split's images and labels, cut into a training and a held-out part."""
    batches = list(pipeline.one_epoch(config_data, config_data.split, batch_size=1024))
    whole = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    cut = round(len(whole['condition']) * _TRAIN_SHARE / 100)
    return (
        {key: values[:cut] for key, values in whole.items()},
        {key: values[cut:] for key, values in whole.items()},
    )


def _shift(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moves each image by up to a pixel, the rim filled with background (-1)."""
    height, width = x.shape[1:3]
    rim = (_MAX_SHIFT, _MAX_SHIFT)
    padded = np.pad(x, ((0, 0), rim, rim, (0, 0)), constant_values=-1.0)
    offsets = rng.integers(0, 2 * _MAX_SHIFT + 1, size=(len(x), 2))
    return np.stack(
        [
            image[r : r + height, c : c + width]
            for image, (r, c) in zip(padded, offsets, strict=True)
        ]
    )


def _flatten(params: Any) -> dict[str, np.ndarray]:
    flat = flax.traverse_util.flatten_dict(params, sep='/')
    return {name: np.asarray(value) for name, value in flat.items()}


def _unflatten(arrays: dict[str, np.ndarray]) -> Any:
    return flax.traverse_util.unflatten_dict(arrays, sep='/')
