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

Data: `imagenet2012` prepared as ArrayRecord (README, "Prepare ImageNet"); images are cropped and
resized while training. `imagenet_resized/64x64` needs no archives, but has another resize: box,
not crop and area, so its numbers stand apart from the paper's.
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
    config.data.image_size = 64
    config.data.channels = 3
    config.data.num_classes = 1000
    config.data.flip = True
    config.data.random_crop = 0.0  # the central square
    config.data.num_workers = 16

    config.model = ConfigDict()
    config.model.kind = 'unet'
    config.model.width = 192
    config.model.channel_mult = (1, 2, 3, 4)
    config.model.num_res_blocks = 3
    config.model.attention_resolutions = (32, 16, 8)
    config.model.head_channels = 64
    config.model.num_heads = 0
    config.model.dropout = 0.1
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
    config.train.steps = 400_000
    config.train.batch_size = 2048
    config.train.grad_accum = 1
    config.train.learning_rate = 3e-4
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
    config.train.checkpoint_every = 2500
    config.train.keep_checkpoints = 3
    config.train.keep_period = 100_000
    config.train.sample_every = 10_000

    config.sampling = ConfigDict()
    config.sampling.sampler = 'ancestral'
    config.sampling.num_steps = 256
    config.sampling.v = 0.3
    config.sampling.clip = True

    config.sweep = ConfigDict()
    config.sweep.w = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 2.0, 3.0, 4.0)
    config.sweep.num_samples = 50_000
    config.sweep.seed = 0
    config.sweep.repeats = 1  # papers from EDM on report the best of 3
    config.sweep.batch_size = 512
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
