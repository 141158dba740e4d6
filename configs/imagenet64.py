"""ImageNet 64x64: Table 1 of the paper (three runs: p_uncond = 0.1, 0.2, 0.5).

Command     python scripts/train.py --config=configs/imagenet64.py --workdir=gs://BUCKET/in64-p0.1
            (the other two columns: --config.p_uncond=0.2, --config.p_uncond=0.5)
Cost        python scripts/describe.py --config=configs/imagenet64.py
Paper       FID 1.55 / IS 66.11 at w = 0.1; FID 26.22 / IS 260.20 at w = 4 (p_uncond = 0.1)
Ours        not run yet

Where each value comes from:
  the paper states    p_uncond; logsnr_min, logsnr_max = -20, 20; v = 0.3; 400k steps; 50,000
                      samples per w; the 14 values of w in its tables; area-downsampled ImageNet;
                      ADM's architecture and hyperparameters, in continuous time
  ADM states          the network (width 192, multipliers 1,2,3,4, 3 residual blocks, attention at
                      32, 16, 8 with 64 channels a head, dropout 0.1, BigGAN resampling, scale-shift
                      norm); batch 2048; Adam 3e-4 with betas 0.9, 0.999; EMA 0.9999; random flips;
                      labels drawn uniformly at evaluation
  inferred            3 output channels (the paper's loss has no learned variance) and 1,001 class
                      rows (how it embeds the null token is not stated); the 1,000-step warm-up and
                      the gradient clip at norm 1 (the authors' public Progressive Distillation
                      config; ADM uses neither); clipping x to [-1, 1] when sampling; T = 256 (not
                      stated for Table 1; the paper's good balance at 128x128); 10 splits for IS
  ours                the EMA's decay rises as (1 + n) / (10 + n) until it reaches 0.9999;
                      bfloat16 compute, where ADM used float16 with loss scaling

Data: `imagenet2012` prepared as ArrayRecord (docs/data.md); images are cropped and
resized while training. `imagenet_resized/64x64` needs no archives, but has another resize: box,
not crop and area, so its numbers stand apart from the paper's.

Variant imagenet64.py:classifier, ADM's classifier of noisy images (not run):
  ADM states    the network (65,438,568 parameters: the U-Net's encoder with width 128, depth 4, and
                attention pooling at 8x8); batch 1024; 300k steps; Adam with decoupled weight decay
                0.2 and learning rate 6e-4; random crops of 0.8 to 1 of the shorter side, and flips
  inferred      the linear decay of the learning rate to 0, which ADM states for 128x128 only
  ours          the paper's continuous noise levels, where ADM has 1,000 steps; the warm-up, the
                gradient clip and the EMA (ADM's classifier has none of the three); bfloat16

Variants imagenet64.py:tiny and :tiny_classifier: 64x64 images of any data set on a CPU, to see
everything move. Nothing is learned in so few steps.
"""

from ml_collections import ConfigDict

from cfg_jax.config import base_config


def get_config(variant: str = '') -> ConfigDict:
    config = _full_size(variant.removeprefix('tiny').removeprefix('_'))
    return _tiny(config) if variant.startswith('tiny') else config


def _full_size(variant: str) -> ConfigDict:
    config = base_config('classifier' if variant == 'classifier' else 'unet')
    config.data.name = 'imagenet2012'
    config.data.image_size = 64
    config.data.num_classes = 1000
    config.data.num_workers = 16

    config.model.channel_mult = (1, 2, 3, 4)
    config.model.attention_resolutions = (32, 16, 8)
    config.model.head_channels = 64
    config.model.dtype = 'bfloat16'
    if variant == 'classifier':
        config.data.random_crop = 0.8
        config.model.width = 128
        config.model.num_res_blocks = 4
        config.train.steps = config.train.anneal_steps = 300_000
        config.train.batch_size = 1024
        config.train.learning_rate = 6e-4
        config.train.weight_decay = 0.2
        return config
    if variant:
        raise ValueError(f'no variant {variant!r}; there are: classifier, tiny, tiny_classifier')

    config.model.width = 192
    config.model.num_res_blocks = 3
    config.model.dropout = 0.1
    config.train.steps = 400_000
    config.train.batch_size = 2048
    config.train.learning_rate = 3e-4
    config.sampler.num_steps = 256
    config.sampler.v = 0.3
    config.sweep.metrics = ('fid', 'sfid', 'is')
    return config


def _tiny(config: ConfigDict) -> ConfigDict:
    config.data.num_workers = 0
    config.data.split = 'train[:512]'  # whose features take minutes on a CPU
    config.model.update(width=32, channel_mult=(1, 2, 2), num_res_blocks=1, norm_groups=8)
    config.model.update(attention_resolutions=(16,), head_channels=32, dropout=0.0, dtype='float32')
    config.train.update(steps=40, batch_size=16, warmup_steps=10)
    config.train.update(log_every=10, checkpoint_every=20)
    if config.model.kind == 'unet':
        config.train.sample_every = 40
        config.sampler.num_steps = 8
        config.sweep.update(num_samples=64, batch_size=32, shard_size=64, is_splits=2)
        config.sweep.features = 'inception768'
    return config
