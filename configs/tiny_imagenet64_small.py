"""Tiny ImageNet at 64x64, narrower: three models, of p_uncond = 0.1, 0.2, 0.5, in half an hour.

Command     python experiments/tiny_imagenet64.py --config=configs/tiny_imagenet64_small.py
            --root=runs/tiny_small --parts=sweep,p_uncond ...
Cost        14.2 M parameters, 10.0 GFLOP a forward pass
Ours        waits for a GPU

The recipe of configs/tiny_imagenet64.py, whose header has the reasons, at width 48: 13,178 images/s
at 40 % of an H200's peak. 16,000 steps are 4.1 M images, 82 epochs, 5 minutes a model at that rate
and 10 at half of it. Comparisons between models are made at this size, where three trainings are
affordable; the numbers beside those of the main config say what width alone brings.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.p_uncond = 0.1

    config.data = ConfigDict()
    config.data.name = 'tiny_imagenet64'  # the experiment gives the directory of a prepared set
    config.data.data_dir = ''
    config.data.split = 'train'
    config.data.image_size = 64
    config.data.channels = 3
    config.data.num_classes = 200
    config.data.flip = True
    config.data.random_crop = 0.0
    config.data.num_workers = 14

    config.model = ConfigDict()
    config.model.kind = 'unet'
    config.model.width = 48
    config.model.channel_mult = (1, 2, 3, 4)
    config.model.num_res_blocks = 2
    config.model.attention_resolutions = (16, 8)
    config.model.head_channels = 48
    config.model.num_heads = 0
    config.model.dropout = 0.0
    config.model.resblock_updown = True
    config.model.scale_shift_norm = True
    config.model.norm_groups = 12
    config.model.remat = False  # True: less memory, a third more operations
    config.model.dtype = 'bfloat16'

    config.diffusion = ConfigDict()
    config.diffusion.logsnr_min = -20.0
    config.diffusion.logsnr_max = 20.0

    config.train = ConfigDict()
    config.train.steps = 16_000
    config.train.batch_size = 256
    config.train.grad_accum = 1
    config.train.learning_rate = 4e-4
    config.train.warmup_steps = 500
    config.train.anneal_steps = 0  # no decay
    config.train.weight_decay = 0.0
    config.train.beta1 = 0.9
    config.train.beta2 = 0.999
    config.train.adam_eps = 1e-8
    config.train.grad_clip = 1.0
    config.train.ema_decay = 0.9995
    config.train.max_skipped = 20
    config.train.log_every = 100
    config.train.checkpoint_every = 2000
    config.train.keep_checkpoints = 1
    config.train.keep_period = 4000  # earlier ones can guide the last
    config.train.sample_every = 100_000  # the sweep draws better pictures

    config.sampling = ConfigDict()
    config.sampling.sampler = 'ancestral'
    config.sampling.num_steps = 128
    config.sampling.v = 0.3
    config.sampling.clip = True

    config.sweep = ConfigDict()
    config.sweep.w = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 2.0, 3.0, 4.0)
    config.sweep.num_samples = 10_000
    config.sweep.seed = 0
    config.sweep.repeats = 1
    config.sweep.batch_size = 500
    config.sweep.shard_size = 2500
    config.sweep.labels = 'uniform'
    config.sweep.features = 'inception768'  # the experiment adds GoogLeNet's logits
    config.sweep.inception = ''
    config.sweep.dtype = 'float32'
    config.sweep.reference = ''
    config.sweep.metrics = ('fid', 'sfid', 'precision', 'recall')
    config.sweep.is_splits = 10
    config.sweep.bootstrap = 20
    config.sweep.save_samples = False
    return config
