"""Tiny ImageNet at 64x64, narrower: three models, of p_uncond = 0.1, 0.2, 0.5, in half an hour.

Command     python experiments/tiny_imagenet64.py --config=configs/tiny_imagenet64_small.py
            --root=runs/tiny_small --parts=sweep,p_uncond ...
Cost        14.2 M parameters, 9.3 GFLOP a forward pass
Ours        waits for a GPU

The recipe of configs/tiny_imagenet64.py, whose header has the reasons, at width 48: 14,145 images/s
at 40 % of an H200's peak. 16,000 steps are 4.1 M images, 82 epochs, 5 minutes a model at that rate
and 10 at half of it. Comparisons between models are made at this size, where three trainings are
affordable; the numbers beside those of the main config say what width alone brings.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

_MAIN = str(Path(__file__).with_name('tiny_imagenet64.py'))


def get_config() -> ConfigDict:
    config = runpy.run_path(_MAIN)['get_config']()
    config.model.width = 48
    config.model.head_channels = 48
    config.model.norm_groups = 12
    config.train.steps = 16_000
    return config
