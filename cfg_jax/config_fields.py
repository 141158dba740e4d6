"""Every field of a config: its default, type, range and meaning, once."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from cfg_jax.conditioning import CONDITIONS
from cfg_jax.guidance import RULES
from cfg_jax.metrics import METRICS
from cfg_jax.metrics.features import EXTRACTORS
from cfg_jax.models import BACKBONES, PUBLISHED, role
from cfg_jax.registry import PRECONDITIONINGS, SCALINGS, SCHEDULES, TARGETS, TIMES, WEIGHTINGS
from cfg_jax.samplers import GRIDS, SAMPLERS

DTYPES = ('float32', 'bfloat16')
ATTENTION_KERNELS = ('auto', 'cudnn', 'pallas', 'xla')
REMATS = ('none', 'convolutions', 'blocks')
OPTIMIZERS = ('adam', 'muon')
LABEL_RULES = ('uniform', 'balanced')
ROUNDINGS = ('round', 'truncate')  # of data.images.to_uint8, which needs JAX
PAPER_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 2.0, 3.0, 4.0)
_LARGEST_SEED = 2**32 - 1


class Range(NamedTuple):
    """What a field accepts: a type, a test and the words that say both."""

    type: type
    accepts: Callable[[Any], bool]
    words: str


class Field(NamedTuple):
    """One field of a config."""

    default: Any
    range: Range
    meaning: str


def _whole(least: int, most: float = 2**62) -> Range:
    most_words = '' if most == 2**62 else f' and at most {most}'
    return Range(
        int, lambda n: least <= n <= most, f'a whole number of at least {least}{most_words}'
    )


def _number(accepts: Callable[[float], bool], words: str) -> Range:
    return Range(float, lambda a: math.isfinite(a) and accepts(a), words)


def _tuple_of(accepts: Callable[[Any], bool], words: str) -> Range:
    return Range(tuple, lambda items: all(accepts(item) for item in items), words)


def _one_of(choices: Any) -> Range:
    return Range(str, lambda text: text in choices, 'one of ' + ', '.join(choices))


def _finite(a: Any) -> bool:
    return isinstance(a, int | float) and not isinstance(a, bool) and abs(a) < 1e6


_positive = _whole(1)
_count = _whole(0)
_probability = _number(lambda p: 0.0 <= p <= 1.0, 'a number in [0, 1]')
_rate = _number(lambda p: 0.0 <= p < 1.0, 'a number in [0, 1)')
# What float32 still tells from 1 in Adam's bias correction, and from 0 in its denominator.
_beta = _number(lambda b: 0.0 <= b <= 1.0 - 1e-6, 'a number from 0 to 1 - 1e-6')
_epsilon = _number(lambda e: 1e-30 <= e < 1e6, 'a number from 1e-30 to below 1e6')
_above_zero = _number(lambda a: 0.0 < a < 1e6, 'a number above 0 and below 1e6')
_norm = _number(lambda a: 0.0 < a <= 1e12, 'a number above 0 and at most 1e12')
_logsnr = _number(lambda a: abs(a) <= 100.0, 'a number in [-100, 100]')
_flag = Range(bool, lambda _: True, 'True or False')
_text = Range(str, lambda _: True, 'a text')
_name = Range(str, bool, 'a text that is not empty')
_guidance = Range(
    str,
    lambda text: all(part.partition(':')[0].strip() in RULES for part in text.split('+')),
    'one of ' + ', '.join(RULES) + ', or several joined by +',
)
_sides = _tuple_of(lambda n: isinstance(n, int) and n >= 1, 'a tuple of feature map sides')
_mults = _tuple_of(
    lambda n: isinstance(n, int | float) and not isinstance(n, bool) and 0 < n <= 64,
    'a tuple of numbers above 0 and at most 64',
)

FIELDS: dict[str, Field] = {
    'seed': Field(0, _whole(0, _LARGEST_SEED), 'of parameters, data order and training noise'),
    'p_uncond': Field(0.1, _probability, 'probability of the null condition in training'),
    'condition': Field('label', _one_of(CONDITIONS), 'what the model is conditioned on'),
    'target': Field('eps', _one_of(TARGETS), 'what the network predicts'),
    'loss_weighting': Field('eps', _one_of(WEIGHTINGS), 'of the loss, as a function of logsnr'),
    'data.name': Field('digits', _name, 'a TFDS set, the directory of one, or folder:PATH'),
    'data.data_dir': Field('', _text, "of TFDS; '': $TFDS_DATA_DIR or ~/tensorflow_datasets"),
    'data.split': Field('train', _name, "of training and FID's reference, slices included"),
    'data.image_size': Field(64, _whole(1, 8192), 'side in pixels; images are cropped and resized'),
    'data.channels': Field(
        3, Range(int, lambda n: n in (1, 3), '1 (grey) or 3 (RGB)'), 'of the images'
    ),
    'data.num_classes': Field(1000, _positive, 'classes; the null label is this number'),
    'data.flip': Field(True, _flag, 'random mirroring'),
    'data.random_crop': Field(
        0.0, _probability, 'smallest random square, of the shorter side; 0: the central square'
    ),
    'data.max_bad_examples': Field(
        10,
        _whole(0),
        'images that cannot be decoded are replaced and reported; more that one process meets after'
        ' its start end the run',
    ),
    'data.num_workers': Field(0, _whole(0, 1024), 'processes that decode; 0: in this process'),
    'model.kind': Field(
        'unet', _one_of((*BACKBONES, *PUBLISHED)), 'a denoising U-Net or a noisy classifier'
    ),
    'model.width': Field(
        192,
        Range(
            int,
            lambda n: 4 <= n <= 65536 and n % 2 == 0,
            'an even number of at least 4 and at most 65536',
        ),
        'channels of the first level',
    ),
    'model.channel_mult': Field((1, 2, 3, 4), _mults, 'channels of each level, times the width'),
    'model.num_res_blocks': Field(3, _whole(1, 1000), 'residual blocks a level'),
    'model.attention_resolutions': Field((32, 16, 8), _sides, 'maps that get self-attention'),
    'model.head_channels': Field(64, _count, 'channels of an attention head; 0: num_heads'),
    'model.num_heads': Field(0, _count, 'attention heads; 0: head_channels'),
    'model.dropout': Field(0.0, _rate, 'in residual blocks'),
    'model.resblock_updown': Field(True, _flag, 'resample in residual blocks, as BigGAN'),
    'model.scale_shift_norm': Field(True, _flag, 'the embedding scales and shifts, else is added'),
    'model.norm_groups': Field(32, _positive, 'groups of group norm'),
    'model.remat': Field(
        'none',
        _one_of(REMATS),
        'what training computes twice to keep less: none, all but convolutions, whole blocks',
    ),
    'model.attention': Field(
        'auto',
        _one_of(ATTENTION_KERNELS),
        "auto: cuDNN's on GPUs, pallas on TPUs, where it knows the heads; cudnn, pallas: unasked",
    ),
    'model.patch': Field(1, _whole(1, 64), 'pixels a side that the network sees as channels'),
    'model.dtype': Field('float32', _one_of(DTYPES), 'of convolutions and products'),
    'diffusion.schedule': Field('cosine', _one_of(SCHEDULES), 'p(logsnr), and the levels'),
    'diffusion.shift': Field(0.0, _logsnr, 'of shifted_cosine: added to logsnr'),
    'diffusion.scaling': Field('variance_preserving', _one_of(SCALINGS), 'of the network'),
    'diffusion.logsnr_min': Field(-20.0, _logsnr, 'noisiest log-SNR'),
    'diffusion.logsnr_max': Field(20.0, _logsnr, 'cleanest log-SNR'),
    'train.steps': Field(400_000, _positive, 'updates'),
    'train.batch_size': Field(2048, _positive, 'of all devices and processes together'),
    'train.grad_accum': Field(1, _positive, 'equal parts of a batch, one after another'),
    'train.optimizer': Field(
        'adam', _one_of(OPTIMIZERS), "muon: orthogonal updates of kernels, Adam's of the rest"
    ),
    'train.learning_rate': Field(3e-4, _above_zero, 'of the optimizer'),
    'train.warmup_steps': Field(1000, _count, 'linear rise of the learning rate'),
    'train.anneal_steps': Field(0, _count, 'linear decay of the learning rate to 0; 0: none'),
    'train.weight_decay': Field(0.0, _rate, 'decoupled, times the learning rate'),
    'train.beta1': Field(0.9, _beta, 'of Adam'),
    'train.beta2': Field(0.999, _beta, 'of Adam'),
    'train.adam_eps': Field(1e-8, _epsilon, 'of Adam'),
    'train.grad_clip': Field(1.0, _norm, 'largest norm of the gradient'),
    'train.ema_decay': Field(0.9999, _rate, 'of the exponential moving average of parameters'),
    'train.averages_every': Field(
        0, _count, 'steps between the averages that scripts/ema.py combines; 0: none are kept'
    ),
    'train.start_from': Field(
        '', _text, "weights to start from: a work directory or an exported file; '': random ones"
    ),
    'train.max_skipped': Field(
        20,
        _count,
        'updates with a loss or gradient that is not finite; more since the last start end the run',
    ),
    'train.log_every': Field(100, _positive, 'steps'),
    'train.checkpoint_every': Field(2500, _positive, 'steps'),
    'train.keep_checkpoints': Field(3, _positive, 'newest ones that are kept'),
    'train.keep_period': Field(100_000, _count, 'every such step is saved for good; 0: none'),
    'train.sample_every': Field(10_000, _positive, 'steps between pictures'),
    'guidance.rule': Field(
        'classifier_free', _guidance, 'how predictions are guided: RULE or RULE+MODIFIER+...'
    ),
    'guidance.options': Field('', _text, "of the rule, such as 'lowest=0.3,highest=5'"),
    'guidance.network': Field(
        '',
        _text,
        "of autoguidance: the guide's work directory; of classifier guidance: the classifier's",
    ),
    'sampler.name': Field('ancestral', _one_of(SAMPLERS), 'of images'),
    'sampler.num_steps': Field(256, _whole(2, 1_000_000), 'T, levels of log-SNR'),
    'sampler.v': Field(0.3, _probability, 'variance exponent of the ancestral sampler, eq. (4)'),
    'sampler.clip': Field(True, _flag, 'clip x to [-1, 1] at every level'),
    'sampler.grid': Field('schedule', _one_of(GRIDS), 'where the levels lie'),
    'sampler.options': Field('', _text, "further options of the sampler, 'name=value,...'"),
    'sweep.w': Field(PAPER_WEIGHTS, _tuple_of(_finite, 'a tuple of numbers below 1e6'), 'swept'),
    'sweep.num_samples': Field(50_000, _whole(2), 'images a w'),
    'sweep.batch_size': Field(512, _positive, 'images generated at once'),
    'sweep.shard_size': Field(5000, _positive, 'images whose features are one file'),
    'sweep.seed': Field(0, _whole(0, _LARGEST_SEED), 'of the images'),
    'sweep.repeats': Field(1, _positive, 'sets of samples; papers from EDM on: best of 3'),
    'sweep.labels': Field('uniform', _one_of(LABEL_RULES), 'how conditions are drawn'),
    'sweep.rounding': Field(
        'round', _one_of(ROUNDINGS), 'of samples to uint8: round (EDM), truncate (ADM)'
    ),
    'sweep.features': Field('inception', _one_of(EXTRACTORS), 'the feature extractor'),
    'sweep.inception': Field('', _text, "path of the FID Inception's weights"),
    'sweep.dtype': Field('float32', _one_of(DTYPES), 'of the feature extractor'),
    'sweep.reference': Field('', _text, "path of statistics or images; '': of data.split"),
    'sweep.metrics': Field(
        ('fid', 'is'),
        _tuple_of(lambda name: name in METRICS, 'a tuple out of ' + ', '.join(METRICS)),
        'columns of the table',
    ),
    'sweep.is_splits': Field(10, _positive, 'of the Inception Score'),
    'sweep.bootstrap': Field(
        0, _count, "replicates of IS's standard error; 0: no standard errors at all"
    ),
    'sweep.save_samples': Field(False, _flag, "also write ADM's batches of images"),
}

# What a noisy classifier's config lacks: it learns every label and generates nothing.
_OF_DENOISERS = re.compile(
    r'p_uncond$|condition$|target$|loss_weighting$|diffusion\.(scaling|preconditioning)$|guidance\.'
    r'|sampler\.|sweep\.|train\.sample_every$|model\.learned_variance$'
)

# What a resumed run may set differently: it changes neither the network nor the steps so far.
MAY_CHANGE = re.compile(
    r'(data\.(data_dir|num_workers|max_bad_examples)|model\.(remat|attention)|(guidance|sampler|sweep)\.\w+'
    r'|train\.(steps|grad_accum|max_skipped|log_every|checkpoint_every|keep_checkpoints|keep_period'
    r'|sample_every))(:|$)'
)


# What the config of a published network lacks, which is not trained here, and what it has instead.
_OF_TRAINING = re.compile(r'seed$|p_uncond$|loss_weighting$|train\.')
_OF_PUBLISHED = {
    'diffusion.time': Field('logsnr', _one_of(TIMES), "the network's time input"),
    'diffusion.preconditioning': Field('none', _one_of(PRECONDITIONINGS), 'of the network'),
    'model.learned_variance': Field(False, _flag, 'the network predicts the variance too'),
}


# What transformers of latents have instead of levels, and all that a decoder has.
_OF_UNETS = re.compile(
    r'model\.(channel_mult|num_res_blocks|attention_resolutions|head_channels|dropout'
    r'|resblock_updown|scale_shift_norm|norm_groups|remat)$'
)
_OF_DECODERS = re.compile(
    r'model\.(kind|width|channel_mult|num_res_blocks|norm_groups|attention|dtype)$'
)
_LATENT_CHANNELS = Field(4, _positive, 'of the latents')
_LATENT_SCALE = Field(0.18215, _above_zero, "of the latents, times the autoencoder's own")
_OF_TRANSFORMERS = {
    'model.depth': Field(28, _whole(1, 1000), 'blocks'),
    'model.num_heads': Field(16, _positive, 'attention heads'),
    'latent.channels': _LATENT_CHANNELS,
    'latent.factor': Field(8, _whole(1, 64), 'pixels a side of a latent'),
    'latent.decoder': Field('', _text, 'path of the decoder, which makes images of latents'),
}


def fields(kind: str) -> dict[str, Field]:
    """The fields of a config of this `model.kind`."""
    known = FIELDS
    if kind in PUBLISHED:
        known = {name: field for name, field in known.items() if not _OF_TRAINING.match(name)}
        known |= _OF_PUBLISHED
    if role(kind) == 'classifier':
        known = {name: field for name, field in known.items() if not _OF_DENOISERS.match(name)}
    if kind == 'dit':
        known = {name: field for name, field in known.items() if not _OF_UNETS.match(name)}
        known |= _OF_TRANSFORMERS
    if role(kind) == 'decoder':
        known = {name: field for name, field in known.items() if _OF_DECODERS.match(name)}
        known |= {'latent.channels': _LATENT_CHANNELS, 'latent.scale': _LATENT_SCALE}
    return known
