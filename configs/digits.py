"""8x8 digits: the whole pipeline on a laptop, the config of `make quickstart`.

The data are scikit-learn's 1,797 real handwritten digits. The method is the paper's (cosine
schedule on [-20, 20], Algorithm 1 with p_uncond = 0.1, ancestral sampling with v = 0.3 and
clipping); network, length and sampling steps are scaled to minutes on two CPU cores.

Variants:
  digits.py:table        Tables 1 and 2 at toy size: a shorter run, the paper's 14 values of w
  digits.py:classifier   a classifier of noisy images, for classifier guidance: ADM's design at the
                         size of the U-Net. Weight decay keeps it from memorising 1,797 images; no
                         crops, because a digit of 8x8 pixels fills its image
  digits.py:table_classifier   the same, trained as long as :table
"""

from ml_collections import ConfigDict

from cfg_jax.config import base_config
from cfg_jax.config_fields import PAPER_WEIGHTS

_VARIANTS = ('table', 'classifier', 'table_classifier')


def get_config(variant: str = '') -> ConfigDict:
    if variant and variant not in _VARIANTS:
        raise ValueError(f'no variant {variant!r}; there are: {", ".join(_VARIANTS)}')
    classifier = variant.endswith('classifier')
    config = base_config('classifier' if classifier else 'unet')
    config.data.name = 'digits'
    config.data.image_size = 8
    config.data.channels = 1
    config.data.num_classes = 10
    config.data.flip = False  # a mirrored 3 is not a 3

    config.model.width = 24
    config.model.channel_mult = (1, 2)
    config.model.num_res_blocks = 1
    config.model.attention_resolutions = (4,)
    config.model.head_channels = 24
    config.model.norm_groups = 8

    config.train.steps = 800
    config.train.batch_size = 128
    config.train.learning_rate = 2e-3
    config.train.warmup_steps = 100
    config.train.ema_decay = 0.995
    config.train.max_skipped = 0
    config.train.log_every = 50
    config.train.checkpoint_every = 200
    config.train.keep_checkpoints = 2
    config.train.keep_period = 0
    if classifier:
        steps = {'classifier': 600, 'table_classifier': 450}[variant]
        config.train.steps = config.train.anneal_steps = steps
        config.train.weight_decay = 0.05
        config.train.ema_decay = 0.99
        return config

    config.train.sample_every = 400
    config.sampler.num_steps = 20
    config.sweep.w = (0.0, 0.1, 0.3, 0.5, 1.0, 2.0, 4.0)
    config.sweep.num_samples = 1000
    config.sweep.batch_size = 250
    config.sweep.shard_size = 500
    config.sweep.labels = 'balanced'  # 100 of each digit; 'uniform' is the paper's protocol
    config.sweep.features = 'classifier'
    config.sweep.bootstrap = 20
    if variant == 'table':
        config.train.steps = 450
        config.sampler.num_steps = 12
        config.sweep.w = PAPER_WEIGHTS
        config.sweep.num_samples = 500
    return config
