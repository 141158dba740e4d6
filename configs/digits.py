"""8x8 digits: the whole pipeline on a laptop, the config of `make quickstart`.

The data are scikit-learn's 1,797 real handwritten digits. The method is the paper's (cosine
schedule on [-20, 20], Algorithm 1 with p_uncond = 0.1, ancestral sampling with v = 0.3 and
clipping); network, length and sampling steps are scaled to minutes on two CPU cores.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.p_uncond = 0.1

    config.data = ConfigDict()
    config.data.name = 'digits'
    config.data.data_dir = ''  # TFDS's default, ~/tensorflow_datasets or $TFDS_DATA_DIR
    config.data.split = 'train'
    config.data.image_size = 8
    config.data.channels = 1
    config.data.num_classes = 10
    config.data.flip = False  # a mirrored 3 is not a 3
    config.data.random_crop = 0.0  # the central square
    config.data.num_workers = 0

    config.model = ConfigDict()
    config.model.kind = 'unet'
    config.model.width = 24
    config.model.channel_mult = (1, 2)
    config.model.num_res_blocks = 1
    config.model.attention_resolutions = (4,)
    config.model.head_channels = 24
    config.model.num_heads = 0
    config.model.dropout = 0.0
    config.model.resblock_updown = True
    config.model.scale_shift_norm = True
    config.model.norm_groups = 8
    config.model.remat = False  # True: less memory, a third more operations
    config.model.attention = 'auto'  # flash attention where cuDNN has it; 'xla': never
    config.model.dtype = 'float32'

    config.diffusion = ConfigDict()
    config.diffusion.logsnr_min = -20.0
    config.diffusion.logsnr_max = 20.0

    config.train = ConfigDict()
    config.train.steps = 800
    config.train.batch_size = 128
    config.train.grad_accum = 1
    config.train.learning_rate = 2e-3
    config.train.warmup_steps = 100
    config.train.anneal_steps = 0  # no decay
    config.train.weight_decay = 0.0
    config.train.beta1 = 0.9
    config.train.beta2 = 0.999
    config.train.adam_eps = 1e-8
    config.train.grad_clip = 1.0
    config.train.ema_decay = 0.995
    config.train.max_skipped = 0  # updates with a loss or gradient that is not finite
    config.train.log_every = 50
    config.train.checkpoint_every = 200
    config.train.keep_checkpoints = 2
    config.train.keep_period = 0
    config.train.sample_every = 400

    config.sampling = ConfigDict()
    config.sampling.sampler = 'ancestral'
    config.sampling.num_steps = 20
    config.sampling.v = 0.3
    config.sampling.clip = True

    config.sweep = ConfigDict()
    config.sweep.w = (0.0, 0.1, 0.3, 0.5, 1.0, 2.0, 4.0)
    config.sweep.num_samples = 1000
    config.sweep.seed = 0
    config.sweep.repeats = 1
    config.sweep.batch_size = 250
    config.sweep.shard_size = 500
    config.sweep.labels = 'balanced'  # 100 of each digit; 'uniform' is the paper's protocol
    config.sweep.features = 'classifier'
    config.sweep.inception = ''  # path of the FID Inception's weights (README, "Metrics")
    config.sweep.dtype = 'float32'
    config.sweep.reference = ''  # path of statistics; '' computes those of data.split
    config.sweep.metrics = ('fid', 'is')
    config.sweep.is_splits = 10
    config.sweep.bootstrap = 20
    config.sweep.save_samples = False
    return config
