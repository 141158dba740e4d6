"""Tiny ImageNet, 200 classes at 64x64: a model of twenty minutes on one H200.

Command     python experiments/tiny_imagenet64.py --help     (trains it and measures everything)
Cost        25.2 M parameters, 16.5 GFLOP a forward pass (scripts/describe.py)
Ours        waits for a GPU: not trained at this size, nothing below has been measured on one

Reasoned, at 40 % of an H200's 989 TFLOP/s, which is `describe.py --accelerator=h200` with a short
script over widths; half of that share is as likely for convolutions of 64 channels:

  width x blocks   M parameters   GFLOP   images/s   epochs in 20 min   sweep, minutes
  128 x 2          100.4          65.3    2,020      48                 95
  96 x 2           56.5           36.8    3,580      86                 54
  64 x 3           32.4           21.2    6,210      149                31
  64 x 2 (this)    25.2           16.5    8,006      192                24
  64 x 1           17.9           11.7    11,263     270                17
  48 x 2 (:small)  14.2           9.3     14,145     339                14

  size        Ho et al. train 820 M images of ImageNet-64 with 296 M parameters; here are 9 M and
              50,000 images, so a wide network would end far from trained, and the sweep of 14 w x
              10,000 images x T = 128 would outlast a lent half hour. Half-precision EMA weights of
              this size (50 MB) also leave a machine that keeps nothing
  attention   at 16 and 8, not at 32: there it costs a fifth of the operations
  norm        groups of at least 4 channels, fewer than ADM's 32 of a wider network
  dropout     0: 160 passes over 50,000 images by 25 M parameters should not overfit; FD-768
              against validation next to that against training would show it
  batch, lr   256, 4e-4, warm-up of 500 steps: 32,000 updates matter more in so short a run than
              ADM's 2,048 images each
  EMA         0.9995: a half-life of 1,400 steps, about 4 % of the run
  annealing   none, and the paper's loss: the run may end at any minute, and EMA does the averaging
  steps       32,000 = 8.2 M images: 17 minutes at 40 %, 34 at 20 %; --minutes stops it earlier
  T           128; 256 doubles the sweep's cost and is measured too (--parts=T)
  input       14 processes decode; one decodes 2,200 images/s on our CPU (Grain, JPEG to float)

As the paper: p_uncond = 0.1, v = 0.3, logsnr from -20 to 20, clipping, ADM's blocks, flips.

A consumer GPU of 24 GB, by estimate: 165 TFLOP/s dense, a sixth of the speed, so 2 hours instead of
20 minutes, and about 80 MB of activations an image in training, so half of the batch at a time:
  --minutes=120 --config.train.grad_accum=2 --config.data.num_workers=8
  --config.sweep.batch_size=250

Variants:
  :small        width 48, 14.2 M parameters, 9.3 GFLOP: three models (p_uncond = 0.1, 0.2, 0.5)
                in half an hour. 16,000 steps are 4.1 M images, 5 minutes a model at 40 % of an
                H200's peak. Comparisons between models are made at this size
  :guide        worse on purpose, for autoguidance (Karras et al. 2024): half the width, one
                block a level, 4.5 M parameters, trained for an eighth of the main model's steps, so
                that it errs in the same ways, only more
  :classifier   ADM's noisy classifier at this width, 10.1 M parameters, 4.3 GFLOP. AdamW, linear
                decay, crops and flips are ADM's; weight decay 0.1 and 41 epochs are ours, because
                50,000 images are soon memorised
  :toy, :toy_small, :toy_guide, :toy_classifier
                every path of the code on two CPU cores, where features take most of the time:
                nothing is learned in so few steps, and a covariance of so few images is singular
"""

from ml_collections import ConfigDict

from cfg_jax.config import base_config


def get_config(variant: str = '') -> ConfigDict:
    config = _full_size(variant.removeprefix('toy').removeprefix('_'))
    return _toy(config) if variant.startswith('toy') else config


def _full_size(variant: str) -> ConfigDict:
    config = base_config('classifier' if variant == 'classifier' else 'unet')
    config.data.name = 'tiny_imagenet64'  # the experiment gives the directory of a prepared set
    config.data.image_size = 64
    config.data.num_classes = 200
    config.data.num_workers = 14

    config.model.update(width=64, channel_mult=(1, 2, 3, 4), num_res_blocks=2, norm_groups=16)
    config.model.update(attention_resolutions=(16, 8), head_channels=32, dtype='bfloat16')

    config.train.batch_size = 256
    config.train.warmup_steps = 500
    config.train.ema_decay = 0.9995
    config.train.checkpoint_every = 2000
    config.train.keep_checkpoints = 1
    config.train.keep_period = 4000  # earlier ones can guide the last
    if variant == 'classifier':
        config.data.random_crop = 0.8
        config.train.steps = config.train.anneal_steps = 8_000
        config.train.learning_rate = 6e-4
        config.train.weight_decay = 0.1
        config.train.ema_decay = 0.999
        config.train.keep_period = 0
        return config

    config.train.steps = 32_000
    config.train.learning_rate = 4e-4
    config.train.sample_every = 100_000  # the sweep draws better pictures
    config.sampler.num_steps = 128
    config.sweep.num_samples = 10_000
    config.sweep.batch_size = 500
    config.sweep.shard_size = 2500
    config.sweep.features = 'inception768'  # the experiment adds GoogLeNet's logits
    config.sweep.metrics = ('fid', 'sfid', 'precision', 'recall')
    config.sweep.bootstrap = 20
    if variant == 'small':
        config.model.width = config.model.head_channels = 48
        config.model.norm_groups = 12
        config.train.steps = 16_000
    elif variant == 'guide':
        config.model.width = 32
        config.model.num_res_blocks = 1
        config.model.norm_groups = 8
        config.train.steps = 4_000
        config.train.keep_period = 0
    elif variant:
        raise ValueError(f'no variant {variant!r}; there are: small, guide, classifier, toy')
    return config


def _toy(config: ConfigDict) -> ConfigDict:
    config.data.num_workers = 0
    config.model.update(width=16, channel_mult=(1, 2, 2), num_res_blocks=1, norm_groups=4)
    config.model.update(attention_resolutions=(16,), head_channels=16, dtype='float32')
    config.train.update(steps=24, batch_size=16, warmup_steps=10)
    config.train.update(log_every=4, checkpoint_every=8, keep_period=8)
    if config.model.kind == 'unet':
        config.train.sample_every = 1000
        config.sampler.num_steps = 8
        config.sweep.update(num_samples=20, batch_size=20, shard_size=20, is_splits=1, bootstrap=2)
    return config
