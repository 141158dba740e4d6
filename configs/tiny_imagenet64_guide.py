"""Tiny ImageNet at 64x64, worse on purpose: the guide of autoguidance (Karras et al. 2024).

Command     python experiments/tiny_imagenet64.py --parts=rules ...      (trains it, and uses it)
Cost        4.5 M parameters, 3.0 GFLOP a forward pass, a fifth of the main model's
Ours        waits for a GPU

Half the width of configs/tiny_imagenet64.py and one block a level, on the same images and noise
levels: the paper of the method guides EDM2-S by EDM2-XS, trained for an eighth as long, on
ImageNet-64. The experiment trains it for an eighth of the main model's steps, whatever `steps` says
here; everything else is as there, so that it errs in the same ways, only more.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

_MAIN = str(Path(__file__).with_name('tiny_imagenet64.py'))


def get_config() -> ConfigDict:
    config = runpy.run_path(_MAIN)['get_config']()
    config.model.width = 32
    config.model.num_res_blocks = 1
    config.model.norm_groups = 8
    config.train.steps = 4_000
    config.train.keep_period = 0
    return config
