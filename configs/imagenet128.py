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

Data: `imagenet2012` prepared as ArrayRecord (README, "Prepare ImageNet").
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.p_uncond = 0.1

    config.data = ConfigDict()
    config.data.name = 'imagenet2012'
    config.data.data_dir = ''
    config.data.split = 'train'
    config.data.image_size = 128
    config.data.channels = 3
    config.data.num_classes = 1000
    config.data.flip = True
    config.data.random_crop = 0.0  # the central square
    config.data.num_workers = 16

    config.model = ConfigDict()
    config.model.kind = 'unet'
    config.model.width = 256
    config.model.channel_mult = (1, 1, 2, 3, 4)
    config.model.num_res_blocks = 2
    config.model.attention_resolutions = (32, 16, 8)
    config.model.head_channels = 0
    config.model.num_heads = 4
    config.model.dropout = 0.0
    config.model.resblock_updown = True
    config.model.scale_shift_norm = True
    config.model.norm_groups = 32
    config.model.remat = False  # True: less memory, a third more operations
    config.model.attention = 'auto'  # flash attention where cuDNN has it; 'xla': never
    config.model.dtype = 'bfloat16'

    config.diffusion = ConfigDict()
    config.diffusion.logsnr_min = -20.0
    config.diffusion.logsnr_max = 20.0

    config.train = ConfigDict()
    config.train.steps = 2_700_000
    config.train.batch_size = 256
    config.train.grad_accum = 1
    config.train.learning_rate = 1e-4
    config.train.warmup_steps = 1000
    config.train.anneal_steps = 0  # no decay
    config.train.weight_decay = 0.0
    config.train.beta1 = 0.9
    config.train.beta2 = 0.999
    config.train.adam_eps = 1e-8
    config.train.grad_clip = 1.0
    config.train.ema_decay = 0.9999
    config.train.max_skipped = 20  # updates with a loss or gradient that is not finite
    config.train.log_every = 100
    config.train.checkpoint_every = 10_000
    config.train.keep_checkpoints = 3
    config.train.keep_period = 500_000
    config.train.sample_every = 50_000

    config.sampling = ConfigDict()
    config.sampling.sampler = 'ancestral'
    config.sampling.num_steps = 256
    config.sampling.v = 0.2
    config.sampling.clip = True

    config.sweep = ConfigDict()
    config.sweep.w = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 2.0, 3.0, 4.0)
    config.sweep.num_samples = 50_000
    config.sweep.seed = 0
    config.sweep.repeats = 1  # papers from EDM on report the best of 3
    config.sweep.batch_size = 256
    config.sweep.shard_size = 5000
    config.sweep.labels = 'uniform'
    config.sweep.features = 'inception'
    config.sweep.inception = ''  # path of the FID Inception's weights (README, "Metrics")
    config.sweep.dtype = 'float32'
    config.sweep.reference = ''  # path of statistics; '' computes those of data.split
    config.sweep.metrics = ('fid', 'sfid', 'is')
    config.sweep.is_splits = 10
    config.sweep.bootstrap = 0
    config.sweep.save_samples = False
    return config
