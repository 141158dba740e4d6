"""Tiny ImageNet area-resized to 32x32, 200 classes: photographs within minutes of a GPU.

Command     python experiments/tiny_imagenet64.py --config=configs/tiny_imagenet32.py --help
Cost        7.7 M parameters, 3.1 GFLOP a forward pass (scripts/describe.py)
Ours        2,800 steps on an H100, 41 ms each: too few to measure (docs/real_images.md);
            :cpu: weights, and FD-768 and IS along w, in results/photographs

The size follows from what comes after: bfloat16 weights below 16 MB, which a repository can hold,
and 16 guided pictures in less than a minute of two CPU cores.

Variants:
  :guide       worse on purpose, for autoguidance: half the width, one block a level
  :classifier  ADM's noisy classifier at this width, for classifier guidance
  :judge       the same on nearly clean images (log-SNR 6 to 20): scores of its own for --judge. Its
               accuracy on the validation split stands in the experiment's table
  :cpu, :cpu_guide, :cpu_classifier, :cpu_judge
               two CPU cores: patches of 2 pixels, 5.5 M parameters, 0.58 GFLOP, in float32; target
               v; Muon; 64 images a step, of which two quiet cores of an AMD EPYC made 1.7 a
               second: 16 hours for the 6.4 M images of all steps
  :toy, :toy_guide, :toy_classifier, :toy_judge
               every path of the code on two CPU cores: nothing is learned
"""

from ml_collections import ConfigDict

from cfg_jax.config import base_config


def get_config(variant: str = '') -> ConfigDict:
    size, _, kind = variant.partition('_')
    if size not in ('cpu', 'toy'):
        return _full_size(variant)
    config = _full_size(kind)
    (_two_cores if size == 'cpu' else _toy)(config)
    return config


def _full_size(variant: str) -> ConfigDict:
    config = base_config('classifier' if variant in ('classifier', 'judge') else 'unet')
    config.data.update(name='tiny_imagenet64', image_size=32, num_classes=200, num_workers=12)
    config.model.update(width=64, channel_mult=(1, 2, 2), num_res_blocks=2, norm_groups=16)
    config.model.update(attention_resolutions=(8,), head_channels=64, dtype='bfloat16')
    config.train.update(batch_size=256, learning_rate=6e-4, warmup_steps=500, ema_decay=0.999)
    config.train.update(checkpoint_every=1000, keep_checkpoints=1, keep_period=0)
    if config.model.kind == 'classifier':
        config.data.random_crop = 0.8
        if variant == 'judge':
            config.diffusion.logsnr_min = 6.0
        config.model.num_res_blocks = 1
        config.model.dropout = 0.1
        config.train.steps = config.train.anneal_steps = 6_000
        config.train.weight_decay = 0.1
        return config

    config.train.steps = 100_000
    config.train.keep_period = 2000  # earlier ones can guide the last
    config.train.sample_every = 100_000  # the sweep draws better pictures
    config.sampler.update(name='dpmpp_2m', num_steps=24, grid='edm')
    config.sweep.update(num_samples=5000, batch_size=1250, shard_size=2500, bootstrap=20)
    config.sweep.update(features='inception768', metrics=('fid', 'sfid', 'precision', 'recall'))
    if variant == 'guide':
        config.model.update(width=32, num_res_blocks=1, norm_groups=8, head_channels=32)
        config.train.update(steps=4000, keep_period=0)
    elif variant:
        raise ValueError(f'no variant {variant!r}; there are: guide, classifier, judge, cpu, toy')
    return config


def _two_cores(config: ConfigDict) -> None:
    config.data.num_workers = 0
    config.model.update(patch=2, num_res_blocks=1, dtype='float32')
    if config.model.kind == 'classifier':
        config.train.update(batch_size=128, steps=4000, anneal_steps=4000)
        return
    config.update(target='v', loss_weighting='v')
    config.train.update(batch_size=64, optimizer='muon', learning_rate=1e-3, ema_decay=0.9995)
    # A shard is a minute. Larger batches leave the caches: 13.2 images a second at 32, 10.7 at 250.
    config.sweep.update(batch_size=32, shard_size=512)


def _toy(config: ConfigDict) -> None:
    config.data.num_workers = 0
    config.model.update(width=16, channel_mult=(1, 2), num_res_blocks=1, norm_groups=4)
    config.model.update(attention_resolutions=(16,), head_channels=16, dtype='float32')
    config.train.update(steps=24, batch_size=16, warmup_steps=10)
    config.train.update(log_every=4, checkpoint_every=8)
    if config.model.kind == 'unet':
        config.train.keep_period = 8
        config.sampler.num_steps = 8
        config.sweep.update(num_samples=20, batch_size=20, shard_size=20, is_splits=1, bootstrap=2)
