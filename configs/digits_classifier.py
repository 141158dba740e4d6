"""8x8 digits: a classifier of noisy images, for classifier guidance beside configs/digits.py.

Command     python experiments/classifier_guidance.py     (trains this and configs/digits.py)
            python scripts/train.py --config=configs/digits_classifier.py --workdir=runs/classifier

ADM's design at the size of the digits' U-Net: its encoder, and attention pooling instead of the way
up. Trained on the same noise levels. Weight decay keeps it from memorising 1,797 images; there are
no crops, because a digit of 8x8 pixels fills its image.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0

    config.data = ConfigDict()
    config.data.name = 'digits'
    config.data.data_dir = ''
    config.data.split = 'train'
    config.data.image_size = 8
    config.data.channels = 1
    config.data.num_classes = 10
    config.data.flip = False
    config.data.random_crop = 0.0
    config.data.num_workers = 0

    config.model = ConfigDict()
    config.model.kind = 'classifier'
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
    config.train.steps = 600
    config.train.batch_size = 128
    config.train.grad_accum = 1
    config.train.learning_rate = 2e-3
    config.train.warmup_steps = 100
    config.train.anneal_steps = 600
    config.train.weight_decay = 0.05
    config.train.beta1 = 0.9
    config.train.beta2 = 0.999
    config.train.adam_eps = 1e-8
    config.train.grad_clip = 1.0
    config.train.ema_decay = 0.99
    config.train.max_skipped = 0  # updates with a loss or gradient that is not finite
    config.train.log_every = 50
    config.train.checkpoint_every = 200
    config.train.keep_checkpoints = 2
    config.train.keep_period = 0
    return config
