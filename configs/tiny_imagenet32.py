"""Tiny ImageNet area-resized to 32x32, 200 classes: photographs on two CPU cores, with patience.

Command     python scripts/train.py --config=configs/tiny_imagenet32.py --workdir=runs/photographs
            with --config.data.name=DIR/tiny_imagenet64/1.0.0; resumed as often as needed
Ours        not trained yet

Patches of 2x2 pixels are channels at the input: levels of 16, 8 and 4, attention at 8 only.
"""

from ml_collections import ConfigDict

from cfg_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.data.update(name='tiny_imagenet64', image_size=32, num_classes=200)
    config.model.update(patch=2, width=48, channel_mult=(1, 2, 3), num_res_blocks=2)
    config.model.update(attention_resolutions=(8,), head_channels=48, norm_groups=16)
    config.train.update(steps=200_000, batch_size=128, learning_rate=4e-4, warmup_steps=500)
    config.train.update(ema_decay=0.9995, checkpoint_every=500, keep_checkpoints=1, keep_period=0)
    config.train.sample_every = 2000
    config.sampler.update(name='dpmpp_2m', num_steps=32, grid='logsnr')
    config.sweep.update(num_samples=5000, batch_size=250, shard_size=1250, bootstrap=20)
    config.sweep.update(features='inception768', metrics=('fid', 'sfid', 'precision', 'recall'))
    return config
