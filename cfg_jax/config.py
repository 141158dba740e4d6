"""Configs: base plus differences, their check, and what may change on resume."""

from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from cfg_jax.config_fields import FIELDS, MAY_CHANGE, Field, fields
from cfg_jax.errors import UserError
from cfg_jax.models import role
from cfg_jax.registry import suggestion

Values = Mapping[str, Any] | ConfigDict  # nested

# What the first edition called groups and fields; its commands and work directories keep working.
_RENAMED = {'sampling.sampler': 'sampler.name', 'sampling.': 'sampler.'}
# What was done before a field came, where that is not today's default.
_BEFORE = {'train.max_skipped': 0}
# Values that are called otherwise today: what was a flag has names.
_RENAMED_VALUES = {'model.remat': {False: 'none', True: 'blocks'}}


def base_config(kind: str = 'unet') -> ConfigDict:
    """Every field with its default; a config file states what differs and why.

    Args:
      kind: `model.kind`: 'unet', or 'classifier' for a noisy classifier, which has fewer fields.
    """
    config = ConfigDict()
    for name, field in fields(kind).items():
        _set(config, name, field.default)
    config.model.kind = kind
    return config


def validate(config: ConfigDict) -> None:
    """Checks every field's presence, type and range, and that fields agree with each other.

    Raises:
      UserError: naming the field, its value and what would be accepted.
    """
    values = dict(flatten(config))
    expected = fields(values.get('model.kind', 'unet'))
    for name in values:
        if name not in expected:
            whose = f"a {values['model.kind']}'s" if name in FIELDS else 'the'
            raise UserError(f'{whose} config has no field {name!r}{suggestion(name, expected)}')
    for name, field in expected.items():
        if name not in values:
            raise UserError(f'the config lacks the field {name!r} ({field.range.words})')
        if not _fits(values[name], field):
            raise UserError(f'{name} must be {field.range.words}; got {values[name]!r}')
    _check_together(config)


def check_devices(config: ConfigDict, num_devices: int) -> None:
    """Raises UserError unless the training batch divides evenly over devices and accumulation."""
    batch, accum = config.train.batch_size, config.train.grad_accum
    if batch % (num_devices * accum):
        raise UserError(
            f'train.batch_size={batch} is not divisible by {num_devices} devices'
            f' x train.grad_accum={accum}; choose a multiple of {num_devices * accum}'
        )


def contradictions(trained: Values, given: Values) -> list[str]:
    """Differences that make `given` another run than `trained`, each as 'field: old -> new'."""
    return [line for line in differences(trained, given) if not MAY_CHANGE.match(line)]


def differences(old: Values, new: Values) -> list[str]:
    """Fields of two nested mappings that differ, each as 'field: old -> new'."""
    before, after = dict(flatten(old)), dict(flatten(new))
    return [
        f'{name}: {before.get(name)!r} -> {after.get(name)!r}'
        for name in sorted(before.keys() | after.keys())
        if _plain(before.get(name)) != _plain(after.get(name))
    ]


def flatten(config: Values, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yields ('group.field', value) of a nested mapping."""
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from flatten(value, f'{prefix}{name}.')
        else:
            yield prefix + name, value


def from_json(values: Mapping[str, Any]) -> ConfigDict:
    """The config that `to_json` wrote, now or in an earlier edition.

    JSON's lists are tuples again; fields that came later mean what was done before they came.
    """
    flat = {current_name(name): _plain(value) for name, value in flatten(values)}
    flat = {name: current_value(name, value) for name, value in flat.items()}
    known = fields(flat.get('model.kind', 'unet'))
    config = ConfigDict()
    before = {name: _BEFORE.get(name, field.default) for name, field in known.items()}
    for name, value in (before | flat).items():
        _set(config, name, value)
    return config


def thawed(config: ConfigDict) -> ConfigDict:
    """A copy that can be changed, of a frozen config too."""
    if isinstance(config, FrozenConfigDict):
        config = config.as_configdict()
    return config.copy_and_resolve_references()


def frozen(config: ConfigDict) -> FrozenConfigDict:
    """A copy that nobody can change."""
    # Of a copy: a FrozenConfigDict keeps, and thaws to, the very object that it is made from.
    return FrozenConfigDict(thawed(config))


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The config as nested plain values."""
    return config.to_dict()


def current_name(name: str) -> str:
    """The name today of a field of the first edition: 'sampling.v' -> 'sampler.v'."""
    for old, new in _RENAMED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def current_value(name: str, value: Any) -> Any:
    """The value today of a field: of 'model.remat' once True, or 'True' on a command line."""
    for old, new in _RENAMED_VALUES.get(name, {}).items():
        if value is old or value == str(old):
            return new
    return value


def _set(config: ConfigDict, name: str, value: Any) -> None:
    *groups, field = name.split('.')
    for group in groups:
        if group not in config:
            config[group] = ConfigDict()
        config = config[group]
    config[field] = value


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _fits(value: Any, field: Field) -> bool:
    expected = field.range.type
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    right_type = isinstance(value, expected) and (expected is bool or not isinstance(value, bool))
    return right_type and field.range.accepts(value)


def _check_together(config: ConfigDict) -> None:
    if config.model.kind == 'dit':
        _check_transformer(config)
    elif role(config.model.kind) != 'decoder':
        _check_levels(config)
    if config.get('condition') == 'label_only' and config.get('p_uncond'):
        raise UserError('condition=label_only has no null to train with; set p_uncond=0')
    if 'diffusion' in config and config.diffusion.logsnr_min >= config.diffusion.logsnr_max:
        raise UserError('diffusion.logsnr_min must be below diffusion.logsnr_max')
    if 'sweep' in config:
        _check_sweep(config.sweep)


def _check_transformer(config: ConfigDict) -> None:
    model, side = config.model, config.latent.factor * config.model.patch
    if config.data.image_size % side:
        raise UserError(
            f'data.image_size={config.data.image_size} is not a multiple of {side}, the pixels of a'
            f' patch: latent.factor={config.latent.factor} times model.patch={model.patch}'
        )
    if model.width % model.num_heads:
        raise UserError(
            f'model.num_heads={model.num_heads} does not divide model.width={model.width}'
        )


def _check_levels(config: ConfigDict) -> None:
    model = config.model
    if config.data.image_size % model.patch:
        raise UserError(
            f'model.patch={model.patch} does not divide data.image_size={config.data.image_size}'
        )
    size = config.data.image_size // model.patch
    patches = f' in patches of {model.patch}' if model.patch > 1 else ''
    if not model.channel_mult:
        raise UserError('model.channel_mult needs at least one entry')
    numbers = model.patch**2 * config.data.channels
    if model.patch > 1 and model.width * model.channel_mult[0] < numbers:
        raise UserError(
            f'model.width={model.width}: fewer features than the {numbers} numbers of a patch'
            f' (model.patch={model.patch}) cannot carry its noise; choose a width of at least'
            f' {numbers}, or smaller patches'
        )
    halvings = len(model.channel_mult) - 1
    if size % 2**halvings:
        raise UserError(
            f'data.image_size={config.data.image_size}{patches} cannot be halved {halvings} times,'
            f' as model.channel_mult={tuple(model.channel_mult)} asks; choose a multiple of'
            f' {2**halvings}'
        )
    if bool(model.head_channels) == bool(model.num_heads):
        raise UserError(
            'exactly one of model.head_channels and model.num_heads is above 0 (the other is'
            f' derived); got {model.head_channels} and {model.num_heads}'
        )
    for level, mult in enumerate(model.channel_mult):
        channels = round(model.width * mult)
        if abs(channels - model.width * mult) > 1e-6:
            raise UserError(
                f'model.width={model.width} times {mult:g} of model.channel_mult is'
                f' {model.width * mult:g}, not a whole number of channels'
            )
        _check_channels(config, channels, size // 2**level)


def _check_sweep(sweep: ConfigDict) -> None:
    if not sweep.w or not sweep.metrics:
        raise UserError('sweep.w and sweep.metrics need at least one entry')
    if sweep.bootstrap == 1:
        raise UserError('sweep.bootstrap is 0 (no standard errors) or at least 2 replicates; got 1')
    if sweep.is_splits > sweep.num_samples:
        raise UserError(
            f'sweep.num_samples={sweep.num_samples} is too few: Inception Scores over'
            f' sweep.is_splits={sweep.is_splits} splits take at least {sweep.is_splits} samples'
        )


def _check_channels(config: ConfigDict, channels: int, side: int) -> None:
    model = config.model
    if channels % model.norm_groups:
        raise UserError(
            f'model.norm_groups={model.norm_groups} does not divide the {channels} channels of a'
            ' level'
        )
    deepest = config.data.image_size // model.patch // 2 ** (len(model.channel_mult) - 1)
    has_attention = side in model.attention_resolutions or side == deepest
    if has_attention and channels % (model.head_channels or model.num_heads):
        which = 'head_channels' if model.head_channels else 'num_heads'
        raise UserError(
            f'model.{which}={model[which]} does not divide the {channels} channels of the'
            f' attention at {side}x{side}'
        )
