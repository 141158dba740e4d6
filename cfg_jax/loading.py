"""Models from what is on disk: work directories, exported files, and published checkpoints."""

from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import files
from cfg_jax.errors import UserError
from cfg_jax.inference import Model, make_rule
from cfg_jax.models import is_classifier, networks as networks_lib
from cfg_jax.pretrained import importing
from cfg_jax.training import checkpoints, export, workdirs

_KINDS = {False: 'a diffusion model', True: 'a noisy classifier'}  # by `is_classifier`
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
    """The model of a work directory, an exported file or a published one, with EMA parameters.

    Args:
      path: a work directory, a .safetensors file of scripts/export.py or import_checkpoint.py, or a
        checkpoint as its authors published it (docs/published_models.md).
      step: of the checkpoint of a work directory; by default the newest.
      config: how to sample; by default the config it was trained with. Another `model.dtype` than
        there is that of all networks.
      guidance: another rule, 'name' or 'name:option=value,...'.
      guidance_network: of rules that need another network: where its model is, or its classifier.

    Raises:
      UserError: not a model, no such checkpoint, or networks that do not fit together.
    """
    path = files.as_path(path)
    trained = read_config(path)
    _check_kind(path, trained, False)
    config = (config or trained).copy_and_resolve_references()
    if guidance:
        config.guidance.rule, config.guidance.options = guidance, ''
    if guidance_network:
        config.guidance.network = str(guidance_network)
    params, provenance = _read(path, config, False, step)
    dtype = config.model.dtype if config.model.dtype != trained.model.dtype else ''
    if dtype:
        provenance |= {'model_dtype': dtype}
    rule = make_rule(config)
    needed = {evaluation.network for evaluation in rule.evaluations} - {'main'}
    networks, all_params = {}, {'main': params}
    if needed and config.guidance.network:
        role = needed.pop()
        networks[role], all_params[role], other = _other_network(config, role, dtype)
        provenance |= {'guidance_network': other}
    return Model(config, all_params, networks=networks, rule=rule, provenance=provenance)


def load_params(
    path: epath.PathLike, *, step: int | None = None
) -> tuple[Any, ConfigDict, dict[str, Any]]:
    """EMA parameters, config and provenance of any kind of model; arguments as `load`."""
    path = files.as_path(path)
    config = read_config(path)
    params, provenance = _read(path, config, is_classifier(config.model.kind), step)
    return params, config, provenance


def read_config(path: epath.PathLike) -> ConfigDict:
    """The config of a work directory, an exported file or a published one.

    Raises:
      UserError: none of them.
    """
    path = files.as_path(path)
    if export.is_export(path):
        return export.read_config(path)
    return importing.open_published(path).config if path.is_file() else workdirs.read_config(path)


def _other_network(config: ConfigDict, role: str, dtype: str) -> tuple[Any, Any, Mapping[str, Any]]:
    """The guide or the classifier of a rule: the network, its parameters and their provenance."""
    path = files.as_path(config.guidance.network)
    other = read_config(path)
    other.model.dtype = dtype or other.model.dtype
    params, provenance = _read(path, other, role == 'classifier', None)
    for group, field in _MUST_AGREE:
        ours, theirs = config[group][field], other[group][field]
        if ours != theirs:
            raise UserError(
                f'the {role} in {path} has {group}.{field}={theirs}, the diffusion model'
                f' {ours}; train one that agrees'
            )
    if role == 'classifier':
        return networks_lib.make_noisy_classifier(other), params, provenance
    return networks_lib.make_denoiser(other), params, provenance


def _read(
    path: epath.Path, config: ConfigDict, classifier: bool, step: int | None
) -> tuple[Any, dict[str, Any]]:
    """EMA parameters and what identifies them; `classifier` says which kind is wanted."""
    _check_kind(path, config, classifier)
    is_file = export.is_export(path) or path.is_file()
    if is_file and step is not None:
        raise UserError(f'{path} is a file, which holds one step; leave --step out')
    promised: str | None = None
    source: dict[str, Any] = {}
    if export.is_export(path):
        params, step, promised = export.read(path, _shapes(config))
        source = export.read_source(path)
    elif is_file:
        published = importing.open_published(path)
        params, step, source = published.params(), 0, published.record()
    else:
        params, step = checkpoints.restore_ema(path, _shapes(config), step)
    found = export.sha256_of_params(params)
    if promised not in (None, found):
        raise UserError(f'{path} is damaged: its weights are not those that were exported')
    return params, {
        'checkpoint_step': step,
        'weights': 'published' if source else 'ema',
        'weights_sha256': found,
        **({'source': source} if source else {}),
    }


def _check_kind(path: epath.Path, config: ConfigDict, classifier: bool) -> None:
    if is_classifier(config.model.kind) != classifier:
        raise UserError(
            f'{path} holds {_KINDS[not classifier]}; this needs the work directory of'
            f' {_KINDS[classifier]}'
        )


def _shapes(config: ConfigDict) -> Any:
    """Shapes and dtypes of the parameters of a config's network."""
    network = networks_lib.make_network(config)
    return jax.eval_shape(network.init, jax.random.key(0), *networks_lib.inputs(config))
