"""Tiny ImageNet, 200 classes at 64x64: a model of twenty minutes on one H200.

Command     python experiments/tiny_imagenet64.py --help     (trains it and measures everything)
Cost        25.2 M parameters, 16.5 GFLOP a forward pass (scripts/describe.py)
Ours        waits for a GPU: not trained at this size, nothing below has been measured on one

Reasoned, at 40 % of an H200's 989 TFLOP/s, which is `describe.py --accelerator=h200` with a short
script over widths; half of that share is as likely for convolutions of 64 channels:

  width x blocks   M parameters   GFLOP   images/s   epochs in 20 min   sweep, minutes
  128 x 2          100.4          65.3    2,020      48                 95
  96 x 2           56.5           36.8    3,580      86                 54
  64 x 3           32.4           21.2    6,210      149                31
  64 x 2 (this)    25.2           16.5    8,006      192                24
  64 x 1           17.9           11.7    11,263     270                17
  48 x 2 (_small)  14.2           9.3     14,145     339                14

  size        Ho et al. train 820 M images of ImageNet-64 with 296 M parameters; here are 9 M and
              50,000 images, so a wide network would end far from trained, and the sweep of 14 w x
              10,000 images x T = 128 would outlast a lent half hour. Half-precision EMA weights of
              this size (50 MB) also leave a machine that keeps nothing (--weights_out)
  attention   at 16 and 8, not at 32: there it costs a fifth of the operations
  norm        groups of at least 4 channels, fewer than ADM's 32 of a wider network
  dropout     0: 160 passes over 50,000 images by 25 M parameters should not overfit; FD-768
              against validation beside that against training would show it
  batch, lr   256, 4e-4, warm-up of 500 steps: 32,000 updates matter more in so short a run than
              ADM's 2,048 images each
  EMA         0.9995: a half-life of 1,400 steps, about 4 % of the run
  annealing   none, and the paper's loss: the run may end at any minute, and EMA does the averaging
  steps       32,000 = 8.2 M images: 17 minutes at 40 %, 34 at 20 %; --minutes stops it earlier
  T           128; 256 doubles the sweep's cost and is measured beside it (--parts=T)
  input       14 processes decode; one decodes 2,200 images/s on our CPU (Grain, JPEG to float)

As the paper: p_uncond = 0.1, v = 0.3, logsnr from -20 to 20, clipping, ADM's blocks, flips.

Tried on a CPU: the whole command at toy width (--preset=toy), on this data and these instruments.

A consumer GPU of 24 GB, by estimate: 165 TFLOP/s dense, a sixth of the speed, so 2 hours instead of
20 minutes, and about 80 MB of activations an image in training, so half of the batch at a time:
  --minutes=120 --config.train.grad_accum=2 --config.data.num_workers=8
  --config.sweep.batch_size=250
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
    config.model.width = 64
    config.model.channel_mult = (1, 2, 3, 4)
    config.model.num_res_blocks = 2
    config.model.attention_resolutions = (16, 8)
    config.model.head_channels = 32
    config.model.num_heads = 0
    config.model.dropout = 0.0
    config.model.resblock_updown = True
    config.model.scale_shift_norm = True
    config.model.norm_groups = 16
    config.model.remat = False  # True: less memory, a third more operations
    config.model.attention = 'auto'  # flash attention where cuDNN has it; 'xla': never
    config.model.dtype = 'bfloat16'

    config.diffusion = ConfigDict()
    config.diffusion.logsnr_min = -20.0
    config.diffusion.logsnr_max = 20.0

    config.train = ConfigDict()
    config.train.steps = 32_000
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
