"""ImageNet 128x128: Table 2 of the paper (one run, sampled with T = 128, 256, 1024).

Command     python scripts/train.py --config=configs/imagenet128.py --workdir=gs://BUCKET/in128
            python scripts/sweep.py --workdir=gs://BUCKET/in128 --num_steps=128   (then 256, 1024)
Cost        python scripts/describe.py --config=configs/imagenet128.py
Paper       FID 2.43 at w = 0.3 (T = 256 and 1024); IS 422.29 at w = 4 (T = 128)
Ours        not run yet

Where each value comes from:
  the paper states    logsnr_min, logsnr_max = -20, 20; v = 0.2; 2.7M steps; T = 128, 256, 1024;
                      50,000 samples per w; the 14 values of w in its tables; area-downsampled
                      ImageNet; ADM's architecture and hyperparameters, in continuous time
  ADM states          the network (width 256, multipliers 1,1,2,3,4, 2 residual blocks, attention at
                      32, 16, 8 with 4 heads, no dropout, BigGAN resampling, scale-shift norm);
                      batch 256; Adam 1e-4 with betas 0.9, 0.999; EMA 0.9999; random flips; labels
                      drawn uniformly at evaluation
  inferred            p_uncond = 0.1 (not stated for this table; 0.1 and 0.2 did equally well at
                      64x64); 3 output channels (the paper's loss has no learned variance) and 1,001
                      class rows (how it embeds the null token is not stated); the 1,000-step
                      warm-up and the gradient clip at norm 1 (the authors' public Progressive
                      Distillation code; ADM uses neither); clipping x to [-1, 1] when sampling; 10
                      splits for IS
  ours                the EMA's decay rises as (1 + n) / (10 + n) until it reaches 0.9999;
                      bfloat16 compute, where ADM used float16 with loss scaling

Data: `imagenet2012` prepared as ArrayRecord (docs/data.md).

Variant imagenet128.py:classifier, ADM's classifier of noisy images (not run):
  ADM states    the network (42,568,040 parameters: the U-Net's encoder with width 128, depth 2, 64
                channels a head, and attention pooling at 8x8); batch 256; 300k steps; Adam with
                decoupled weight decay 0.05 and learning rate 3e-4; random crops of 0.8 to 1 of the
                shorter side, and flips
  its flags     the linear decay of the learning rate to 0
  ours          the paper's continuous noise levels, where ADM has 1,000 steps of a linear schedule;
                the warm-up, the gradient clip and the EMA (ADM has none of them there); bfloat16
"""

from ml_collections import ConfigDict

from cfg_jax.config import base_config


def get_config(variant: str = '') -> ConfigDict:
    config = base_config('classifier' if variant == 'classifier' else 'unet')
    config.data.name = 'imagenet2012'
    config.data.image_size = 128
    config.data.num_classes = 1000
    config.data.num_workers = 16

    config.model.channel_mult = (1, 1, 2, 3, 4)
    config.model.num_res_blocks = 2
    config.model.attention_resolutions = (32, 16, 8)
    config.model.dtype = 'bfloat16'
    config.train.batch_size = 256
    if variant == 'classifier':
        config.data.random_crop = 0.8
        config.model.width = 128
        config.train.steps = config.train.anneal_steps = 300_000
        config.train.learning_rate = 3e-4
        config.train.weight_decay = 0.05
        return config
    if variant:
        raise ValueError(f'no variant {variant!r}; there is: classifier')

    config.model.width = 256
    config.model.head_channels = 0
    config.model.num_heads = 4
    config.train.steps = 2_700_000
    config.train.learning_rate = 1e-4
    config.train.checkpoint_every = 10_000
    config.train.keep_period = 500_000
    config.train.sample_every = 50_000
    config.sampler.num_steps = 256
    config.sampler.v = 0.2
    config.sweep.batch_size = 256
    config.sweep.metrics = ('fid', 'sfid', 'is')
    return config
