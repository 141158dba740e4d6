"""ADM (Dhariwal & Nichol 2021): the U-Nets and noisy classifiers of openai/guided-diffusion.

Published for ImageNet at 64, 128, 256 and 512 pixels. The U-Nets see log-SNR as the number of one
of 1,000 steps and predict eps and the variance; conditional ones have no null condition.
"""

import dataclasses

from ml_collections import ConfigDict

from cfg_jax.errors import UserError
from cfg_jax.pretrained import Plan, adm_layout
from cfg_jax.pretrained.adm_layout import Structure
from cfg_jax.pretrained.torch_archive import StateDict
from cfg_jax.registry import SCHEDULES, parse_options

ORDERS = ('legacy', 'new')
_SCHEDULES = ('linear_beta', 'cosine_beta')


@dataclasses.dataclass(frozen=True)
class Settings:
    """What shapes do not show; 0 and '' stand for what the publication has at this size.

    Attributes:
      image_size: in pixels; by default the deepest level has a side of 8.
      schedule: 'linear_beta' or 'cosine_beta'.
      head_channels, num_heads: of attention, one of them.
      attention_order: 'new' where all q come first in a qkv layer, 'legacy' where a head's q, k and
        v lie together.
      num_classes: of an unconditional network's images, for classifiers and metrics; 1000.
    """

    image_size: int = 0
    schedule: str = ''
    head_channels: int = 0
    num_heads: int = 0
    attention_order: str = ''
    num_classes: int = 0


# By image size, from the commands of guided-diffusion's README.
PUBLISHED = {
    64: Settings(64, 'cosine_beta', head_channels=64, attention_order='new'),
    128: Settings(128, 'linear_beta', num_heads=4, attention_order='legacy'),
    256: Settings(256, 'linear_beta', head_channels=64, attention_order='legacy'),
    512: Settings(512, 'linear_beta', head_channels=64, attention_order='legacy'),
}


@dataclasses.dataclass(frozen=True)
class ADM:
    """The family; `classifiers` for the noisy classifiers."""

    classifiers: bool

    origin = 'https://github.com/openai/guided-diffusion'
    licence = 'code MIT; its model card: for research, not for commercial use'

    @property
    def title(self) -> str:
        """What the report and messages call it."""
        return "ADM's noisy classifier" if self.classifiers else "ADM's U-Net"

    def recognises(self, state: StateDict) -> bool:
        """By names; the kernels of attention have one axis, unlike consistency_models' U-Nets."""
        parts = {name.partition('.')[0] for name in state}
        qkv = next((name for name in state if name.endswith('.qkv.weight')), None)
        if not {'input_blocks', 'middle_block'} <= parts or qkv is None:
            return False
        return len(state.shape(qkv)) == 3 and self.classifiers != ('output_blocks' in parts)

    def plan(self, state: StateDict, settings: str) -> Plan:
        """Structure and sources from the shapes, the rest as published or as `settings` say."""
        found = adm_layout.structure(state)
        given = parse_options(Settings, settings, '--set of an ADM network')
        _check_published(found, given)
        used = _completed(found, given, self.classifiers)
        _check(found, used, self.classifiers)
        heads = _heads(found, used) if used.attention_order == 'legacy' else None
        sources = adm_layout.sources(found, heads)
        shown = dataclasses.asdict(used).items()
        assumed = [f'{name}={value}' for name, value in shown if value and name not in given]
        return Plan(
            config=_config(found, used, self.classifiers),
            sources=sources,
            ignored=frozenset(),
            findings=_findings(found, used, self.classifiers)
            | {'not in the shapes': f'assumed {", ".join(assumed)}'},
        )


FAMILY = ADM(classifiers=False)
CLASSIFIERS = ADM(classifiers=True)


def _completed(found: Structure, given: dict, classifier: bool) -> Settings:
    """The settings given, completed by those of the publication."""
    deepest = 8 * 2 ** (len(found.channel_mult) - 1)
    if classifier:
        deepest = deepest // 8 * round((found.pool_positions - 1) ** 0.5)
    size = given.get('image_size') or deepest
    published = dataclasses.replace(PUBLISHED.get(size, PUBLISHED[256]), image_size=size)
    if classifier:
        published = dataclasses.replace(
            published, head_channels=64, num_heads=0, attention_order='legacy'
        )
    if given.get('head_channels') or given.get('num_heads'):
        published = dataclasses.replace(published, head_channels=0, num_heads=0)
    return dataclasses.replace(published, **given)


def _check_published(found: Structure, given: dict) -> None:
    """Whether the publication says what shapes do not show, or `given` does."""
    heads = given.get('head_channels') or given.get('num_heads')
    stated = heads and given.get('schedule') and given.get('attention_order')
    if not (found.resblock_updown or stated):
        raise UserError(
            'it resamples by single convolutions, as no published ADM network does: those of'
            " improved-diffusion, whose 4,000 steps these networks' time cannot express, are not"
            ' imported; of another training with 1,000 steps give schedule, attention_order and'
            ' num_heads or head_channels: --set=schedule=...,...'
        )


def _check(found: Structure, used: Settings, classifier: bool) -> None:
    if used.attention_order not in ORDERS or used.schedule not in _SCHEDULES:
        raise UserError(
            f'--set: attention_order is one of {", ".join(ORDERS)}, schedule one of'
            f' {", ".join(_SCHEDULES)}'
        )
    if used.num_classes and (found.labels or classifier):
        raise UserError('--set: num_classes is in the shapes, except for an unconditional network')
    if bool(used.head_channels) == bool(used.num_heads):
        raise UserError('--set: give one of head_channels and num_heads')
    deepest = used.image_size / 2 ** (len(found.channel_mult) - 1)
    if classifier and deepest**2 + 1 != found.pool_positions:
        raise UserError(
            f"'out.2.positional_embedding' has {found.pool_positions} positions; images of"
            f' {used.image_size} pixels have {deepest:g} x {deepest:g} at its deepest level, and'
            ' their mean: leave image_size out of --set'
        )
    if found.in_channels != 3:
        raise UserError(
            f"the first convolution ('input_blocks.0.0.weight') sees {found.in_channels} channels,"
            ' not an image: an upsampler cannot be imported'
        )
    if not classifier and found.out_channels not in (3, 6):
        raise UserError(f"'out.2.weight' puts out {found.out_channels} channels; 3 or 6 are known")
    found.check_heads(used.head_channels, used.num_heads)


def _heads(found: Structure, used: Settings) -> dict[int, int]:
    return {c: used.num_heads or c // used.head_channels for c in found.attended()}


def _config(found: Structure, used: Settings, classifier: bool) -> ConfigDict:
    kind = 'adm_classifier' if classifier else 'adm'
    config = found.config(kind, used.image_size, used.head_channels, used.num_heads)
    config.diffusion.schedule = used.schedule
    config.diffusion.time = 'steps'
    table = SCHEDULES.load(used.schedule)().table()
    config.diffusion.logsnr_min, config.diffusion.logsnr_max = map(float, (table[-1], table[0]))
    if classifier:
        config.data.num_classes = found.out_channels
        return config
    config.data.num_classes = found.labels or used.num_classes or 1000
    config.model.learned_variance = found.out_channels == 6
    config.sampler.num_steps, config.sampler.grid = 250, 'respaced'
    config.sweep.rounding = 'truncate'
    config.sweep.metrics = ('fid', 'sfid', 'is', 'precision', 'recall')
    return config


def _findings(found: Structure, used: Settings, classifier: bool) -> dict[str, str]:
    findings = found.findings(used.image_size) | {'time': f'1,000 steps, {used.schedule}'}
    if classifier:
        return findings | {'predicts': f'{found.out_channels} classes'}
    variance = ' and the variance' if found.out_channels == 6 else ''
    return findings | {'predicts': f'eps{variance}'}
