"""Models from what is on disk: work directories, exported files, and published checkpoints."""

from collections.abc import Mapping
from typing import Any

import jax
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import config as config_lib, files
from cfg_jax.errors import UserError
from cfg_jax.inference import Model
from cfg_jax.models import networks as networks_lib, role as role_of
from cfg_jax.pretrained import importing
from cfg_jax.settings import make_rule
from cfg_jax.training import checkpoints, export, posthoc_ema, workdirs

_KINDS = {
    'denoiser': 'a diffusion model',
    'classifier': 'a noisy classifier',
    'decoder': 'a decoder of latents',
}
_MUST_AGREE = (
    ('data', 'image_size'),
    ('data', 'channels'),
    ('data', 'num_classes'),
    ('diffusion', 'logsnr_min'),
    ('diffusion', 'logsnr_max'),
    ('latent', 'channels'),
    ('latent', 'factor'),
)


def load(
    path: epath.PathLike,
    *,
    step: int | None = None,
    config: ConfigDict | None = None,
    guidance: str = '',
    guidance_network: epath.PathLike = '',
    decoder: epath.PathLike = '',
    ema: float | None = None,
) -> Model:
    """The model of a work directory, an exported file or a published one, with EMA parameters.

    Args:
      path: a work directory, a .safetensors file of scripts/export.py or import_checkpoint.py, or a
        checkpoint as its authors published it (docs/published_models.md).
      step: of the checkpoint of a work directory; by default the newest.
      config: how to sample; by default the config it was trained with. Another `model.dtype` than
        there is that of all networks but the decoder.
      guidance: another rule, 'name' or 'name:option=value,...'.
      guidance_network: of rules that need another network: where its model is, or its classifier;
        it is there for later rules (`Model.with_settings`) where this one needs none.
      decoder: of a model of latents: where the decoder is.
      ema: another length of the average, sigma_rel of `training.posthoc_ema`, from what training
        kept (`train.averages_every`).

    Raises:
      UserError: not a model, no such checkpoint, networks that do not fit together, or no averages.
    """
    path = files.as_path(path)
    trained = read_config(path)
    _check_kind(path, trained, 'denoiser')
    config = config_lib.thawed(config or trained)
    if not isinstance(guidance, str):
        raise UserError(
            f'load takes the name of a rule; got {guidance!r}. Give a rule itself to Model.sample'
        )
    if guidance:
        config.guidance.rule, config.guidance.options = guidance, ''
    if guidance_network:
        config.guidance.network = str(guidance_network)
    if decoder:
        if 'latent' not in config:
            raise UserError(f'{path} makes images, not latents: it needs no decoder')
        config.latent.decoder = str(decoder)
    params, provenance = _read(path, config, 'denoiser', step, ema)
    dtype = config.model.dtype if config.model.dtype != trained.model.dtype else ''
    if dtype:
        provenance |= {'model_dtype': dtype}
    class_names = class_names_of(path)
    rule = make_rule(config)
    needed = {evaluation.network for evaluation in rule.evaluations} - {'main'}
    networks, all_params = {}, {'main': params}
    if config.guidance.network and (needed or guidance_network):
        role = needed.pop() if needed else _role_of_network(config.guidance.network)
        networks[role], all_params[role], other = _other_network(config, role, dtype)
        provenance |= {'guidance_network': other}
    if 'latent' in config and config.latent.decoder:
        networks['decoder'], all_params['decoder'], other = _decoder(config)
        provenance |= {'decoder': other}
    return Model(
        config,
        all_params,
        networks=networks,
        rule=rule,
        provenance=provenance,
        class_names=class_names,
    )


def class_names_of(path: epath.PathLike) -> list[str]:
    """The names of the classes that a model keeps itself; none of published files, and of what was
    trained or written before names were kept."""
    path = files.as_path(path)
    if is_ours(path):
        return export.read_class_names(path)
    return workdirs.read_class_names(path) if workdirs.is_workdir(path) else []


def load_params(
    path: epath.PathLike, *, step: int | None = None, ema: float | None = None
) -> tuple[Any, ConfigDict, dict[str, Any]]:
    """EMA parameters, config and provenance of any kind of model; arguments as `load`."""
    path = files.as_path(path)
    config = read_config(path)
    params, provenance = _read(path, config, role_of(config.model.kind), step, ema)
    return params, config, provenance


def read_config(path: epath.PathLike) -> ConfigDict:
    """The config of a work directory, an exported file or a published one.

    Raises:
      UserError: none of them.
    """
    path = files.as_path(path)
    if is_ours(path):
        return export.read_config(path)
    # A number, as in runs/p_uncond_0.1, is no suffix.
    if path.suffix and not path.suffix[1:].isdecimal() and not path.exists():
        raise UserError(
            f'there is no file or work directory {path}; name a work directory, or the file of a'
            ' model (docs/published_models.md says where published ones are)'
        )
    return importing.open_published(path).config if path.is_file() else workdirs.read_config(path)


def _other_network(config: ConfigDict, role: str, dtype: str) -> tuple[Any, Any, Mapping[str, Any]]:
    """The guide or the classifier of a rule: the network, its parameters and their provenance."""
    path = files.as_path(config.guidance.network)
    other = read_config(path)
    other.model.dtype = dtype or other.model.dtype
    if role == 'guide' and other.get('p_uncond') == 1.0:
        raise UserError(
            f'the guide in {path} was trained with p_uncond=1 and never saw the classes that a'
            ' guide is asked for; train one with --config.condition=unconditional, or a smaller'
            ' p_uncond'
        )
    params, provenance = _read(path, other, 'classifier' if role == 'classifier' else 'denoiser')
    for group, field in _MUST_AGREE:
        ours, theirs = (c[group][field] if group in c else None for c in (config, other))
        if ours != theirs:
            raise UserError(
                f'the {role} in {path} has {group}.{field}={theirs}, the diffusion model'
                f' {ours}; train one that agrees'
            )
    if role == 'classifier':
        return networks_lib.make_noisy_classifier(other), params, provenance
    return networks_lib.make_denoiser(other), params, provenance


def _read(
    path: epath.Path,
    config: ConfigDict,
    role: str,
    step: int | None = None,
    ema: float | None = None,
) -> tuple[Any, dict[str, Any]]:
    """EMA parameters and what identifies them; `role` says which kind of network is wanted."""
    _check_kind(path, config, role)
    if ema is not None:
        return _read_average(path, ema, step)
    is_file = export.is_export(path) or path.is_file()
    if is_file and step is not None:
        raise UserError(f'{path} is a file, which holds one step; leave --step out')
    promised: str | None = None
    source: dict[str, Any] = {}
    weights = export.EMA
    if is_ours(path):
        params, step, promised = export.read(path, _shapes(config))
        source, weights = export.read_source(path), export.read_weights(path)
    elif is_file:
        published = importing.open_published(path)
        params, step, source = published.params(), 0, published.record()
    else:
        params, step = checkpoints.restore_ema(path, _shapes(config), step)
    sha256 = export.sha256_of_params(params)
    if promised not in (None, sha256):
        raise UserError(f'{path} is damaged: its weights are not those that were exported')
    return params, {
        'checkpoint_step': step,
        'weights': 'published' if source else weights,
        'weights_sha256': sha256,
        **({'source': source} if source else {}),
    }


def _role_of_network(path: epath.PathLike) -> str:
    """What a network beside the main one is to rules."""
    is_classifier = role_of(read_config(path).model.kind) == 'classifier'
    return 'classifier' if is_classifier else 'guide'


def _check_kind(path: epath.Path, config: ConfigDict, role: str) -> None:
    found = role_of(config.model.kind)
    if found != role:
        what = 'the file' if role == 'decoder' else 'the work directory'
        raise UserError(f'{path} holds {_KINDS[found]}; this needs {what} of {_KINDS[role]}')


def _decoder(config: ConfigDict) -> tuple[Any, Any, Mapping[str, Any]]:
    """The decoder that a config names, its parameters and their provenance."""
    path = files.as_path(config.latent.decoder)
    if not path.is_file():
        raise UserError(
            f'{path} is no file; a decoder is a published file, or what'
            ' scripts/import_checkpoint.py made of it'
        )
    other = read_config(path)
    params, provenance = _read(path, other, 'decoder')
    theirs = other.latent.channels, 2 ** (len(other.model.channel_mult) - 1)
    if theirs != (config.latent.channels, config.latent.factor):
        raise UserError(
            f'the decoder in {path} takes {theirs[0]} channels and enlarges {theirs[1]} times; the'
            f' model has {config.latent.channels} and {config.latent.factor}'
        )
    return networks_lib.make_latent_decoder(other), params, provenance


def is_ours(path: epath.Path) -> bool:
    """Whether a path names an exported model, rather than a published safetensors file."""
    return export.is_export(path) and not export.is_foreign(path)


def _shapes(config: ConfigDict) -> Any:
    """Shapes and dtypes of the parameters of a config's network."""
    network = networks_lib.make_network(config)
    return jax.eval_shape(network.init, jax.random.key(0), *networks_lib.inputs(config))


def _read_average(
    path: epath.Path, sigma_rel: float, step: int | None
) -> tuple[Any, dict[str, Any]]:
    if export.is_export(path) or path.is_file():
        raise UserError(f'{path} is a file, which holds one average; leave the EMA out')
    params, step, error = posthoc_ema.reconstruct(path, sigma_rel, step)
    logging.info(
        f'the average of sigma_rel = {sigma_rel:g} at step {step}: its profile is met up to'
        f' {100 * error:.2g} %'
    )
    weights = f'ema of sigma_rel {sigma_rel:g}'
    return params, {
        'checkpoint_step': step,
        'weights': weights,
        'weights_sha256': export.sha256_of_params(params),
    }
