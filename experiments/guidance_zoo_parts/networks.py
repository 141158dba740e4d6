"""The networks of guidance_zoo.py: given ones, or those of digits, trained here."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from etils import epath
from ml_collections import ConfigDict

from cfg_jax import config as config_lib, config_files, files, loading
from cfg_jax.errors import UserError
from cfg_jax.models import role
from cfg_jax.training import loop

_GUIDE_SHARE = 0.25  # of the model's training, after which the guide of autoguidance is taken


class Paths(NamedTuple):
    """Models by role; None for one that is not there."""

    main: epath.Path
    guide: epath.Path | None
    classifier: epath.Path | None


def prepare(root: epath.Path, digits: Path, overrides: Sequence[str], options: Namespace) -> Paths:
    """The models of the options, or those of digits, trained or resumed below `root`.

    Raises:
      UserError: overrides of the config of a model that is already trained.
    """
    if options.model:
        if overrides:
            raise UserError(f'{overrides[0]} is for training; --model is trained already')
        paths = Paths(
            files.as_path(options.model),
            *(files.as_path(p) if p else None for p in (options.guide, options.classifier)),
        )
        _check_role(paths.guide, 'denoiser', '--guide')
        _check_role(paths.classifier, 'classifier', '--classifier')
        return paths
    if options.inception:
        raise UserError('--inception goes with --model; digits are measured by their classifier')
    for name in ('guide', 'classifier'):
        if getattr(options, name):
            raise UserError(f'--{name} goes with --model; the networks of digits are trained here')
    paths = Paths(root / 'model', root / 'guide', root / 'noisy_classifier')
    config = config_files.load_config(digits, overrides)
    loop.train(config, paths.main)
    config.train.steps = max(1, round(_GUIDE_SHARE * config.train.steps))
    loop.train(config, paths.guide)
    common = [o for o in overrides if o.startswith(('--config.data.', '--config.model.'))]
    shorter = [o for o in overrides if o.startswith('--config.train.steps')]
    loop.train(
        config_files.load_config(f'{digits}:classifier', [*common, *shorter]), paths.classifier
    )
    return paths


def _check_role(path: epath.Path | None, wanted: str, option: str) -> None:
    """A wrong path must not wait until all other rules are measured."""
    if path is None:
        return
    found = role(loading.read_config(path).model.kind)
    if found != wanted:
        raise UserError(f'{option}={path} is a {found}; give a {wanted}')


def config_of(paths: Paths, options: Namespace) -> ConfigDict:
    """The config of the main model, with what the options say of the measurement."""
    config = loading.read_config(paths.main)
    if options.num_samples:
        config.sweep.num_samples = options.num_samples
    if options.inception:
        config.sweep.inception = options.inception
    config.sweep.metrics = ('fid', 'is', 'precision', 'recall')
    config.sweep.bootstrap = max(config.sweep.bootstrap, 20)  # differences need errors
    config.sweep.labels = 'balanced'
    config_lib.validate(config)
    return config
