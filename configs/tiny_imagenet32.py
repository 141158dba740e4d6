"""Tiny ImageNet area-resized to 32x32, 200 classes: photographs on two CPU cores, with patience.

Command     python scripts/train.py --config=configs/tiny_imagenet32.py --workdir=runs/photographs \\
                --config.data.name=DIR/tiny_imagenet64/1.0.0      (resumed as often as needed)
Ours        training; see docs/real_images.md

  patches   2x2 pixels are channels at the input: three levels of 16, 8 and 4, where two cores are
            fast; attention at 8 only
  batch     128: many updates matter more than large ones in so short a run
  EMA       0.9995, a half-life of 1,400 steps
"""

from ml_collections import ConfigDict

from cfg_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.data.name = 'tiny_imagenet64'  # the directory of a prepared set is given
    config.data.image_size = 32
    config.data.num_classes = 200

    config.model.patch = 2
    config.model.width = 64
    config.model.channel_mult = (1, 2, 3)
    config.model.num_res_blocks = 2
    config.model.attention_resolutions = (8,)
    config.model.head_channels = 32
    config.model.norm_groups = 16

    config.train.steps = 200_000
    config.train.batch_size = 128
    config.train.learning_rate = 4e-4
    config.train.warmup_steps = 500
    config.train.ema_decay = 0.9995
    config.train.checkpoint_every = 500
    config.train.keep_checkpoints = 1
    config.train.keep_period = 0
    config.train.sample_every = 2000

    config.sampler.name = 'dpmpp_2m'
    config.sampler.num_steps = 32
    config.sampler.grid = 'logsnr'
    config.sweep.num_samples = 5000
    config.sweep.batch_size = 250
    config.sweep.shard_size = 1250
    config.sweep.features = 'inception768'
    config.sweep.metrics = ('fid', 'sfid', 'precision', 'recall')
    config.sweep.bootstrap = 20
    return config
