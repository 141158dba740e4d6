"""What a config costs to train and to sweep: nothing is run or allocated."""

import math
from typing import Any

import jax
from ml_collections import ConfigDict

from cfg_jax.errors import UserError
from cfg_jax.models import networks
from cfg_jax.perf.accelerators import ACCELERATORS
from cfg_jax.perf.operations import count_flops
from cfg_jax.settings import make_rule, make_sampler
from cfg_jax.training import step as train_step


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
      accelerator: instead of a throughput, a key of ACCELERATORS.
      utilisation: share of the accelerator's peak that is assumed; 0.4 is a good implementation.
      decode_rate: images per second that one core decodes.

    Returns:
      Parameters, forward and training GFLOP per image (2 per multiply-add; a training image costs
      three forward passes), bytes of training state per device (parameters, EMA and the moments
      of the optimizer in float32), images to train, exaFLOP of the training; evaluations of
      networks (nfe) and exaFLOP of the sweep (w x samples x predictions of the sampler x 1 for
      w = 0 and else what the rule takes; a guide counts as the model itself). A noisy classifier
      has no sweep, an imported model no training. With an accelerator also its peak, its memory
      and the share of it that the state takes, the least milliseconds in which its memory reads and
      writes the state and reads the gradient (Muon's products of matrices are not counted), and
      the throughput assumed. With either, device-days of the training and device-hours of the
      sweep, where an evaluation takes a third of a training image, and the cores that decode fast
      enough for one device.

    Raises:
      UserError: a number out of range.
    """
    if images_per_second is not None and not 0 < images_per_second < math.inf:
        raise UserError(f'--images_per_second must be above 0; got {images_per_second:g}')
    if decode_rate is not None and not 0 < decode_rate < math.inf:
        raise UserError(f'--decode_rate must be above 0; got {decode_rate:g}')
    if not 0 < utilisation <= 1:
        raise UserError(f'--utilisation must be in (0, 1]; got {utilisation:g}')
    description = _operations(config)
    if accelerator is not None:
        description |= _on(accelerator, description, utilisation)
        images_per_second = description['assumed_images_per_second']
    if images_per_second is not None:
        if decode_rate is not None:
            description['input_cores'] = math.ceil(images_per_second / decode_rate)
        if 'training_images' in description:
            description['device_days'] = description['training_images'] / images_per_second / 86400
        if 'sweep_nfe' in description:
            seconds = description['sweep_nfe'] / (3 * images_per_second)
            description['sweep_device_hours'] = seconds / 3600
    return description


def sweep_nfe(config: ConfigDict) -> int:
    """Evaluations of networks in the whole sweep: those of the rule at each of the sampler's."""
    sweep = config.sweep
    evaluations = sum(make_rule(config).nfe_per_level(w) for w in sweep.w)
    return sweep.num_samples * sweep.repeats * make_sampler(config).predictions * evaluations


def forward_flops(config: ConfigDict) -> int:
    """Floating-point operations of a forward pass of the config's network for one image."""
    return _forward(config)[0]


def _operations(config: ConfigDict) -> dict[str, Any]:
    """What holds on any device."""
    forward, params = _forward(config)
    description = {
        'parameters': sum(leaf.size for leaf in jax.tree.leaves(params)),
        'forward_gflop_per_image': forward / 1e9,
        'training_gflop_per_image': 3 * forward / 1e9,
    }
    if 'train' in config:
        state = jax.eval_shape(lambda: train_step.create_state(config))
        num_images = config.train.steps * config.train.batch_size
        description |= {
            'state_bytes_per_device': sum(
                leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)
            ),
            'training_images': num_images,
            'training_exaflop': 3 * forward * num_images / 1e18,
        }
    if 'sweep' in config:
        nfe = sweep_nfe(config)
        description |= {'sweep_nfe': nfe, 'sweep_exaflop': forward * nfe / 1e18}
    return description


def _on(accelerator: str, description: dict[str, Any], utilisation: float) -> dict[str, Any]:
    """What holds on one of these chips."""
    chip = ACCELERATORS[accelerator]
    flops = description['training_gflop_per_image'] * 1e9
    found = {
        'accelerator': accelerator,
        'peak_tflops': chip.peak_tflops,
        'memory_gib': chip.memory_gib,
        'assumed_utilisation': utilisation,
        'assumed_images_per_second': utilisation * chip.peak_tflops * 1e12 / flops,
    }
    if 'state_bytes_per_device' in description:
        # The state is read and written, the gradient, in float32, read.
        moved = 2 * description['state_bytes_per_device'] + 4 * description['parameters']
        memory = chip.memory_gib * 2**30
        found |= {
            'state_share_of_memory': description['state_bytes_per_device'] / memory,
            'update_milliseconds': 1e3 * moved / (chip.bandwidth * 1e9),
        }
    return found


def _forward(config: ConfigDict) -> tuple[int, Any]:
    """Operations of a forward pass for one image, and the shapes of the parameters."""
    model, inputs = networks.make_network(config), networks.inputs(config)
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return count_flops(model.apply, params, *inputs), params
