"""What a config may hold: every field, its type and its range; and what may change on resume."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cfg_jax.errors import UserError
from cfg_jax.evaluation.scoring import METRICS
from cfg_jax.models.attention import KERNELS
from cfg_jax.sampling import SAMPLERS

DTYPES = ('float32', 'bfloat16')
LABEL_RULES = ('uniform', 'balanced')
KINDS = ('unet', 'classifier')


class Field(NamedTuple):
    """One field: type, range and the words that say the range."""

    type: type
    accepts: Callable[[Any], bool]
    words: str


_positive = Field(int, lambda n: n >= 1, 'a whole number of at least 1')
_count = Field(int, lambda n: n >= 0, 'a whole number of at least 0')
_probability = Field(float, lambda p: 0.0 <= p <= 1.0, 'a number in [0, 1]')
_rate = Field(float, lambda p: 0.0 <= p < 1.0, 'a number in [0, 1)')
_above_zero = Field(float, lambda a: a > 0.0, 'a number above 0')
_real = Field(float, lambda a: abs(a) < float('inf'), 'a finite number')
_flag = Field(bool, lambda _: True, 'True or False')
_text = Field(str, lambda _: True, 'a text')
_name = Field(str, lambda text: bool(text), 'a text that is not empty')


def _tuple_of(accepts: Callable[[Any], bool], words: str) -> Field:
    return Field(tuple, lambda items: all(accepts(item) for item in items), words)


def _one_of(choices: tuple[str, ...]) -> Field:
    return Field(str, lambda text: text in choices, 'one of ' + ', '.join(choices))


FIELDS: dict[str, Field] = {
    'seed': _count,
    'p_uncond': _probability,
    'data.name': _name,
    'data.data_dir': _text,
    'data.split': _name,
    'data.image_size': _positive,
    'data.channels': Field(int, lambda n: n in (1, 3), '1 (grey) or 3 (RGB)'),
    'data.num_classes': _positive,
    'data.flip': _flag,
    'data.random_crop': _probability,
    'data.num_workers': _count,
    'model.kind': _one_of(KINDS),
    'model.width': Field(int, lambda n: n >= 4 and n % 2 == 0, 'an even number of at least 4'),
    'model.channel_mult': _tuple_of(
        lambda n: isinstance(n, int) and n >= 1, 'a tuple of whole numbers of at least 1'
    ),
    'model.num_res_blocks': _positive,
    'model.attention_resolutions': _tuple_of(
        lambda n: isinstance(n, int) and n >= 1, 'a tuple of feature map sides'
    ),
    'model.head_channels': _count,
    'model.num_heads': _count,
    'model.dropout': _rate,
    'model.resblock_updown': _flag,
    'model.scale_shift_norm': _flag,
    'model.norm_groups': _positive,
    'model.remat': _flag,
    'model.attention': _one_of(KERNELS),
    'model.dtype': _one_of(DTYPES),
    'diffusion.logsnr_min': _real,
    'diffusion.logsnr_max': _real,
    'train.steps': _positive,
    'train.batch_size': _positive,
    'train.grad_accum': _positive,
    'train.learning_rate': _above_zero,
    'train.warmup_steps': _count,
    'train.anneal_steps': _count,
    'train.weight_decay': _rate,
    'train.beta1': _rate,
    'train.beta2': _rate,
    'train.adam_eps': _above_zero,
    'train.grad_clip': _above_zero,
    'train.ema_decay': _rate,
    'train.max_skipped': _count,
    'train.log_every': _positive,
    'train.checkpoint_every': _positive,
    'train.keep_checkpoints': _positive,
    'train.keep_period': _count,
    'train.sample_every': _positive,
    'sampling.sampler': _one_of(SAMPLERS),
    'sampling.num_steps': Field(int, lambda n: n >= 2, 'a whole number of at least 2'),
    'sampling.v': _probability,
    'sampling.clip': _flag,
    'sweep.w': _tuple_of(
        lambda w: isinstance(w, int | float) and abs(w) < float('inf'), 'a tuple of finite numbers'
    ),
    'sweep.num_samples': Field(int, lambda n: n >= 2, 'a whole number of at least 2'),
    'sweep.batch_size': _positive,
    'sweep.shard_size': _positive,
    'sweep.seed': _count,
    'sweep.labels': _one_of(LABEL_RULES),
    'sweep.repeats': _positive,
    'sweep.features': _name,
    'sweep.inception': _text,
    'sweep.dtype': _one_of(DTYPES),
    'sweep.reference': _text,
    'sweep.metrics': _tuple_of(
        lambda name: name in METRICS, 'a tuple out of ' + ', '.join(METRICS)
    ),
    'sweep.is_splits': _positive,
    'sweep.bootstrap': _count,
    'sweep.save_samples': _flag,
}

# Fields that older work directories lack, with the values that mean what was done then.
ADDED: dict[str, Any] = {
    'data.random_crop': 0.0,
    'model.kind': 'unet',
    'model.remat': False,
    'model.attention': 'auto',
    'train.anneal_steps': 0,
    'train.max_skipped': 0,
    'train.weight_decay': 0.0,
    'sweep.repeats': 1,
    'sweep.inception': '',
    'sweep.dtype': 'float32',
    'sweep.reference': '',
    'sweep.metrics': ('fid', 'is'),
    'sweep.bootstrap': 0,
    'sweep.save_samples': False,
}

# What a noisy classifier's config lacks: it learns every label and generates nothing.
_OF_UNETS = re.compile(r'p_uncond$|sampling\.|sweep\.|train\.sample_every$')

# What a resumed run may set anew: none of it changes the network or the steps already taken.
MAY_CHANGE = re.compile(
    r'data\.(data_dir|num_workers)$|model\.(remat|attention)$|sampling\.|sweep\.'
    r'|train\.(steps|grad_accum|max_skipped|log_every|checkpoint_every|keep_checkpoints|keep_period|sample_every)$'
)


def validate(config: ConfigDict) -> None:
    """Checks every field's presence, type and range, and that fields agree with each other.

    Raises:
      UserError: naming the field, its value and what would be accepted.
    """
    values = dict(flatten(config))
    expected = fields(values.get('model.kind', KINDS[0]))
    for name in values:
        if name not in expected:
            whose = f"a {values['model.kind']}'s" if name in FIELDS else 'the'
            raise UserError(f'{whose} config has no field {name!r}{suggestion(name, expected)}')
    for name, field in expected.items():
        if name not in values:
            raise UserError(f'the config lacks the field {name!r} ({field.words})')
        if not _fits(values[name], field):
            raise UserError(f'{name} must be {field.words}; got {values[name]!r}')
    _check_together(config)


def fields(kind: str) -> dict[str, Field]:
    """The fields of a config of this `model.kind`."""
    if kind != 'classifier':
        return FIELDS
    return {name: field for name, field in FIELDS.items() if not _OF_UNETS.match(name)}


def check_devices(config: ConfigDict, num_devices: int) -> None:
    """Raises UserError unless the training batch divides evenly over devices and accumulation."""
    batch, accum = config.train.batch_size, config.train.grad_accum
    if batch % (num_devices * accum):
        raise UserError(
            f'train.batch_size={batch} is not divisible by {num_devices} devices'
            f' x train.grad_accum={accum}; choose a multiple of {num_devices * accum}'
        )


def contradictions(trained: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Differences that make `given` another run than `trained`, each as 'field: old -> new'."""
    old, new = dict(flatten(trained)), dict(flatten(given))
    return [
        f'{name}: {old.get(name)!r} -> {new.get(name)!r}'
        for name in sorted(old.keys() | new.keys())
        if not MAY_CHANGE.match(name) and _plain(old.get(name)) != _plain(new.get(name))
    ]


def flatten(config: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yields ('group.field', value) of a nested mapping."""
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from flatten(value, f'{prefix}{name}.')
        else:
            yield prefix + name, value


def from_json(values: Mapping[str, Any]) -> ConfigDict:
    """The config that `to_json` wrote: JSON's lists are tuples again."""
    config = ConfigDict()
    for name, value in values.items():
        if isinstance(value, Mapping):
            config[name] = from_json(value)
        else:
            config[name] = _plain(value)
    return config


def complete(config: ConfigDict) -> ConfigDict:
    """Gives the config of an older work directory the fields that have come since."""
    for name, value in ADDED.items():
        group, _, field = name.partition('.')
        if group in config and field not in config[group]:
            config[group][field] = value
    return config


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The config as nested plain values."""
    return config.to_dict()


def suggestion(word: str, known: Any) -> str:
    """'; did you mean ...?' where something known is close to `word`, else ''."""
    close = difflib.get_close_matches(word, list(known), n=1)
    if not close:
        tails = {name.rpartition('.')[2]: name for name in known}
        close = [tails[t] for t in difflib.get_close_matches(word.rpartition('.')[2], tails, n=1)]
    return f'; did you mean {close[0]!r}?' if close else ''


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _fits(value: Any, field: Field) -> bool:
    if field.type is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    right_type = isinstance(value, field.type) and (
        field.type is bool or not isinstance(value, bool)
    )
    return right_type and field.accepts(value)


def _check_together(config: ConfigDict) -> None:
    model, size = config.model, config.data.image_size
    if not model.channel_mult:
        raise UserError('model.channel_mult needs at least one entry')
    halvings = len(model.channel_mult) - 1
    if size % 2**halvings:
        raise UserError(
            f'data.image_size={size} cannot be halved {halvings} times, as model.channel_mult='
            f'{tuple(model.channel_mult)} asks; choose a multiple of {2**halvings}'
        )
    if bool(model.head_channels) == bool(model.num_heads):
        raise UserError(
            'exactly one of model.head_channels and model.num_heads is above 0 (the other is'
            f' derived); got {model.head_channels} and {model.num_heads}'
        )
    for level, mult in enumerate(model.channel_mult):
        _check_channels(config, model.width * mult, size // 2**level)
    if config.diffusion.logsnr_min >= config.diffusion.logsnr_max:
        raise UserError('diffusion.logsnr_min must be below diffusion.logsnr_max')
    if 'sweep' in config:
        _check_sweep(config.sweep)


def _check_sweep(sweep: ConfigDict) -> None:
    if not sweep.w or not sweep.metrics:
        raise UserError('sweep.w and sweep.metrics need at least one entry')
    if sweep.bootstrap == 1:
        raise UserError('sweep.bootstrap is 0 (no standard errors) or at least 2 replicates; got 1')
    if sweep.is_splits > sweep.num_samples:
        raise UserError(
            f'sweep.is_splits={sweep.is_splits} needs at least as many samples;'
            f' got sweep.num_samples={sweep.num_samples}'
        )


def _check_channels(config: ConfigDict, channels: int, side: int) -> None:
    model = config.model
    if channels % model.norm_groups:
        raise UserError(
            f'model.norm_groups={model.norm_groups} does not divide the {channels} channels of a'
            ' level'
        )
    deepest = config.data.image_size // 2 ** (len(model.channel_mult) - 1)
    has_attention = side in model.attention_resolutions or side == deepest
    if has_attention and channels % (model.head_channels or model.num_heads):
        which = 'head_channels' if model.head_channels else 'num_heads'
        raise UserError(
            f'model.{which}={model[which]} does not divide the {channels} channels of the'
            f' attention at {side}x{side}'
        )
