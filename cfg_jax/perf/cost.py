"""What a computation costs, counted from its jaxpr: nothing is run or allocated."""

import math
from typing import Any

import jax
from ml_collections import ConfigDict

from cfg_jax.errors import UserError
from cfg_jax.inference import make_rule
from cfg_jax.models import networks
from cfg_jax.perf.operations import count_flops
from cfg_jax.training import step as train_step

# Peak TFLOP/s of dense bfloat16 products (float16 on V100), as the makers state them, per chip.
PEAK_TFLOPS = {
    'v100': 125.0,
    'a100': 312.0,
    'h100': 989.0,
    'h200': 989.0,
    'tpu-v3': 123.0,
    'tpu-v4': 275.0,
    'tpu-v5e': 197.0,
    'tpu-v5p': 459.0,
    'tpu-v6e': 918.0,
}


def describe(
    config: ConfigDict,
    images_per_second: float | None = None,
    accelerator: str | None = None,
    utilisation: float = 0.4,
    decode_rate: float | None = None,
) -> dict[str, Any]:
    """Size and cost of a config.

    Args:
      config: of the run.
      images_per_second: measured training throughput of one device.
      accelerator: instead of a throughput, a key of PEAK_TFLOPS.
      utilisation: share of the accelerator's peak that is assumed; 0.4 is a good implementation.
      decode_rate: images per second that one core decodes.

    Returns:
      Parameters, forward and training GFLOP per image (2 per multiply-add; a training image costs
      three forward passes), bytes of training state per device (parameters, EMA and both Adam
      moments in float32), images to train, exaFLOP of the training; evaluations of networks
      (nfe) and exaFLOP of the sweep (w x samples x T levels x 1 for w = 0 and else what the rule
      takes); and, given a throughput or an accelerator, device-days of the training and
      device-hours of the sweep, where an evaluation takes a third of a training image, and the
      cores that decode fast enough for one device. A noisy classifier has no sweep.

    Raises:
      UserError: a number out of range.
    """
    if images_per_second is not None and not images_per_second > 0:
        raise UserError(f'--images_per_second must be above 0; got {images_per_second:g}')
    if decode_rate is not None and not decode_rate > 0:
        raise UserError(f'--decode_rate must be above 0; got {decode_rate:g}')
    if not 0 < utilisation <= 1:
        raise UserError(f'--utilisation must be in (0, 1]; got {utilisation:g}')
    forward, params = _forward(config)
    state = jax.eval_shape(lambda: train_step.create_state(config))
    num_images = config.train.steps * config.train.batch_size
    passes = sweep_nfe(config) if 'sweep' in config else None
    description = {
        'parameters': sum(leaf.size for leaf in jax.tree.leaves(params)),
        'forward_gflop_per_image': forward / 1e9,
        'training_gflop_per_image': 3 * forward / 1e9,
        'state_bytes_per_device': sum(
            leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)
        ),
        'training_images': num_images,
        'training_exaflop': 3 * forward * num_images / 1e18,
    }
    if passes is not None:
        description |= {
            'sweep_nfe': passes,
            'sweep_exaflop': forward * passes / 1e18,
        }
    if accelerator is not None:
        peak = PEAK_TFLOPS[accelerator]
        images_per_second = utilisation * peak * 1e12 / (3 * forward)
        description |= {
            'accelerator': accelerator,
            'peak_tflops': peak,
            'assumed_utilisation': utilisation,
            'assumed_images_per_second': images_per_second,
        }
    if images_per_second is not None:
        if decode_rate is not None:
            description['input_cores'] = math.ceil(images_per_second / decode_rate)
        description['device_days'] = num_images / images_per_second / 86400
        if passes is not None:
            description['sweep_device_hours'] = passes / (3 * images_per_second) / 3600
    return description


def sweep_nfe(config: ConfigDict) -> int:
    """Evaluations of networks in the whole sweep: those of the rule at each of T levels."""
    sweep = config.sweep
    evaluations = sum(make_rule(config).nfe_per_level(w) for w in sweep.w)
    return sweep.num_samples * sweep.repeats * config.sampler.num_steps * evaluations


def forward_flops(config: ConfigDict) -> int:
    """Floating-point operations of a forward pass of the config's network for one image."""
    return _forward(config)[0]


def _forward(config: ConfigDict) -> tuple[int, Any]:
    """Operations of a forward pass for one image, and the shapes of the parameters."""
    model, inputs = networks.make_network(config), networks.inputs(config)
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return count_flops(model.apply, params, *inputs), params
