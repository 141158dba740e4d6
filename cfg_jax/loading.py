"""Models from what is on disk: work directories of training, and exported files."""

from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import files
from cfg_jax.errors import UserError
from cfg_jax.inference import Model, make_rule
from cfg_jax.models import networks as networks_lib
from cfg_jax.training import checkpoints, export, workdirs
from cfg_jax.training.step import create_state

_KINDS = {'unet': 'a diffusion model', 'classifier': 'a noisy classifier'}
_MUST_AGREE = (
    ('data', 'image_size'),
    ('data', 'channels'),
    ('data', 'num_classes'),
    ('diffusion', 'logsnr_min'),
    ('diffusion', 'logsnr_max'),
)


def load(
    path: epath.PathLike,
    *,
    step: int | None = None,
    config: ConfigDict | None = None,
    guidance: str = '',
    guidance_network: epath.PathLike = '',
) -> Model:
    """The model of a work directory or of an exported file, with EMA parameters.

    Args:
      path: a work directory, or a .safetensors file of scripts/export.py.
      step: of the checkpoint of a work directory; by default the newest.
      config: how to sample; by default the config it was trained with.
      guidance: another rule, 'name' or 'name:option=value,...'.
      guidance_network: of rules that need another network: where its model is, or its classifier.

    Raises:
      UserError: not a model, no such checkpoint, or networks that do not fit together.
    """
    path = files.as_path(path)
    config = (config or read_config(path)).copy_and_resolve_references()
    if guidance:
        config.guidance.rule, config.guidance.options = guidance, ''
    if guidance_network:
        config.guidance.network = str(guidance_network)
    params, provenance = _read(path, config, 'unet', step)
    rule = make_rule(config)
    needed = {evaluation.network for evaluation in rule.evaluations} - {'main'}
    networks, all_params = {}, {'main': params}
    if needed and config.guidance.network:
        role = needed.pop()
        networks[role], all_params[role], other = _other_network(config, role)
        provenance |= {'guidance_network': other}
    return Model(config, all_params, networks=networks, rule=rule, provenance=provenance)


def load_params(
    path: epath.PathLike, *, step: int | None = None
) -> tuple[Any, ConfigDict, dict[str, Any]]:
    """EMA parameters, config and provenance of any kind of model; arguments as `load`."""
    path = files.as_path(path)
    config = read_config(path)
    params, provenance = _read(path, config, config.model.kind, step)
    return params, config, provenance


def read_config(path: epath.PathLike) -> ConfigDict:
    """The config that a work directory or an exported file was trained with.

    Raises:
      UserError: neither of them.
    """
    path = files.as_path(path)
    return export.read_config(path) if export.is_export(path) else workdirs.read_config(path)


def _other_network(config: ConfigDict, role: str) -> tuple[Any, Any, Mapping[str, Any]]:
    """The guide or the classifier of a rule: the network, its parameters and their provenance."""
    path = files.as_path(config.guidance.network)
    other = read_config(path)
    kind = 'classifier' if role == 'classifier' else 'unet'
    params, provenance = _read(path, other, kind, None)
    for group, field in _MUST_AGREE:
        ours, theirs = config[group][field], other[group][field]
        if ours != theirs:
            raise UserError(
                f'the {role} in {path} has {group}.{field}={theirs}, the diffusion model'
                f' {ours}; train one that agrees'
            )
    if kind == 'classifier':
        return networks_lib.make_network(other).apply, params, provenance
    return networks_lib.make_denoiser(other), params, provenance


def _read(
    path: epath.Path, config: ConfigDict, kind: str, step: int | None
) -> tuple[Any, dict[str, Any]]:
    """EMA parameters and what identifies them."""
    if config.model.kind != kind:
        raise UserError(
            f'{path} holds {_KINDS[config.model.kind]}; this needs the work directory of'
            f' {_KINDS[kind]}'
        )
    like = jax.eval_shape(lambda: create_state(config)).ema_params
    if export.is_export(path):
        if step is not None:
            raise UserError(f'{path} is an exported file, which holds one step; leave --step out')
        params, step, promised = export.read(path, like)
    else:
        params, step = checkpoints.restore_ema(path, like, step)
        promised = None
    found = sha256_of_params(params)
    if promised not in (None, found):
        raise UserError(f'{path} is damaged: its weights are not those that were exported')
    return params, {'checkpoint_step': step, 'weights': 'ema', 'weights_sha256': found}


def sha256_of_params(params: Any) -> str:
    """Hash of every parameter's path, shape, dtype and values."""
    leaves = jax.tree.leaves_with_path(jax.device_get(params))
    return files.sha256_of_arrays({jax.tree_util.keystr(p): leaf for p, leaf in leaves})
