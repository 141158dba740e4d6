"""The levels of a published U-Net: found in the shapes of its tensors, put into a config."""

import dataclasses

from ml_collections import ConfigDict

from cfg_jax import config as config_lib
from cfg_jax.errors import UserError
from cfg_jax.models import role


@dataclasses.dataclass(frozen=True)
class Levels:
    """What families of U-Nets have in common.

    Attributes:
      width: channels that the multipliers multiply.
      channel_mult: of each level, fractions included.
      num_res_blocks: a level, on the way down.
      attention: whether each level has it.
      labels: classes that the network is told; 0 without a condition.
    """

    width: int
    channel_mult: tuple[float, ...]
    num_res_blocks: int
    attention: tuple[bool, ...]
    labels: int

    def channels(self, level: int) -> int:
        """Channels of a level."""
        return round(self.width * self.channel_mult[level])

    def attended(self) -> set[int]:
        """Channels of levels with attention, the middle included."""
        levels = [level for level, has in enumerate(self.attention) if has]
        return {self.channels(level) for level in [*levels, -1]}

    def check_heads(self, head_channels: int, num_heads: int = 0) -> None:
        """Raises UserError unless the channels of every attention can be parted so."""
        which = 'head_channels' if head_channels else 'num_heads'
        number = head_channels or num_heads
        if number < 1:
            raise UserError(f'{which}={number} must be at least 1')
        for channels in self.attended():
            if channels % number:
                raise UserError(
                    f'{which}={number}, as published, does not divide the {channels} channels of an'
                    f' attention; give the right one: --set={which}=...'
                )

    def config(self, kind: str, size: int, head_channels: int, num_heads: int = 0) -> ConfigDict:
        """The config of a network of this `model.kind` for images of `size` x `size` pixels."""
        config = config_lib.base_config(kind)
        config.data.name = 'imagenet2012'
        config.data.image_size = size
        config.data.num_classes = self.labels or 1000
        config.model.width = self.width
        config.model.channel_mult = self.channel_mult
        config.model.num_res_blocks = self.num_res_blocks
        config.model.attention_resolutions = tuple(
            size // 2**level for level, has in enumerate(self.attention) if has
        )
        config.model.head_channels, config.model.num_heads = head_channels, num_heads
        if role(kind) != 'classifier':
            config.condition = 'label_only' if self.labels else 'unconditional'
            config.guidance.rule = 'independent' if self.labels else 'classifier_free'
            config.sweep.w = (0.0,)
        return config

    def findings(self, size: int) -> dict[str, str]:
        """For the report: images, network and condition."""
        return {
            'images': f'{size} x {size} x 3',
            'network': f'width {self.width}, multipliers {self.channel_mult},'
            f' {self.num_res_blocks} residual blocks a level',
            'condition': f'{self.labels} labels, no null condition' if self.labels else 'none',
        }
