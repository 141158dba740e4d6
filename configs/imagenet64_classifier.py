"""ImageNet 64x64: ADM's classifier of noisy images (Dhariwal & Nichol 2021).

Command     python scripts/train.py --config=configs/imagenet64_classifier.py --workdir=WORKDIR
            python experiments/classifier_guidance.py --help      (sweeps it beside classifier-free)
Cost        python scripts/describe.py --config=configs/imagenet64_classifier.py
Ours        not run yet

Where each value comes from:
  ADM states    the network (65,438,568 parameters: the U-Net's encoder with width 128, depth 4,
                multipliers 1,2,3,4, attention at 32, 16, 8 with 64 channels a head, BigGAN
                resampling, and attention pooling at 8x8); batch 1024; 300k steps; Adam with
                decoupled weight decay 0.2 and learning rate 6e-4; random crops of 0.8 to 1 of the
                shorter side, and flips
  inferred      the linear decay of the learning rate to 0, which ADM states for 128x128 only
  ours          noise levels of the paper's continuous cosine schedule, those of
                configs/imagenet64.py, where ADM has 1,000 steps; the 1,000-step
                warm-up, the gradient clip and the EMA (ADM's classifier has none of the three);
                bfloat16
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0

    config.data = ConfigDict()
    config.data.name = 'imagenet2012'
    config.data.data_dir = ''
    config.data.split = 'train'
    config.data.image_size = 64
    config.data.channels = 3
    config.data.num_classes = 1000
    config.data.flip = True
    config.data.random_crop = 0.8
    config.data.num_workers = 16

    config.model = ConfigDict()
    config.model.kind = 'classifier'
    config.model.width = 128
    config.model.channel_mult = (1, 2, 3, 4)
    config.model.num_res_blocks = 4
    config.model.attention_resolutions = (32, 16, 8)
    config.model.head_channels = 64
    config.model.num_heads = 0
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
    config.train.steps = 300_000
    config.train.batch_size = 1024
    config.train.grad_accum = 1
    config.train.learning_rate = 6e-4
    config.train.warmup_steps = 1000
    config.train.anneal_steps = 300_000
    config.train.weight_decay = 0.2
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
    return config
