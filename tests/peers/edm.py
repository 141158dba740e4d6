"""EDM's ADM network against NVlabs/edm."""

import math
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import harness
import jax
import numpy as np
import torch

from cfg_jax import diffusion
from cfg_jax.inference import Model
from cfg_jax.models import networks
from cfg_jax.samplers.edm import Heun
from cfg_jax.samplers.grids import EDMGrid

NARROW = {'model_channels': 128, 'channel_mult': [1, 2, 2], 'num_blocks': 1}
HIGHEST, LOWEST = 80.0, 0.002


def compare(clone: str, report: harness.Report, full: bool) -> None:
    """The network and the samplers at reduced width; with `full` the published size."""
    sys.path.insert(0, clone)
    if full:
        compare_published_size(report)
        return
    theirs = harness.randomise(network(**NARROW))
    with harness.temporary_folder() as folder:
        published, params = harness.imported(saved(theirs, folder))
    peer = Peer.of(theirs)
    compare_network('EDM, width 128', peer, published.config, params, report, harness.COUNT)
    compare_samplers(theirs, published.config, params, report)


def network(**changes: Any) -> torch.nn.Module:
    """The network of edm-imagenet-64x64-cond-adm.pkl, or a narrower one."""
    from training.networks import EDMPrecond

    return EDMPrecond(64, 3, label_dim=1000, use_fp16=True, **changes)


def saved(module: torch.nn.Module, folder: str) -> Path:
    """The pickle that EDM's training writes."""
    from training.loss import EDMLoss

    path = Path(folder) / 'edm-imagenet-64x64-cond-adm.pkl'
    with path.open('wb') as file:
        others = {'loss_fn': EDMLoss(), 'augment_pipe': None, 'dataset_kwargs': {'path': 'x'}}
        pickle.dump({'ema': module} | others, file)
    return path


def one_hot(label: Any) -> torch.Tensor:
    """Labels as EDM's networks take them."""
    return torch.eye(1000)[torch.as_tensor(np.asarray(label)).long()]


class Peer(NamedTuple):
    """An original network with and without its preconditioning, of images with channels last."""

    inner: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # (c_in y, time, labels)
    denoise: Callable[[np.ndarray, float, np.ndarray], np.ndarray]  # (y, s, labels)
    time_scale: float  # of ln(s), in the time input

    @classmethod
    def of(cls, module: torch.nn.Module) -> 'Peer':
        """A network of NVlabs/edm or NVlabs/edm2."""
        network = getattr(module, 'model', None) or module.unet

        def inner(x: np.ndarray, time: np.ndarray, labels: np.ndarray) -> np.ndarray:
            return harness.last(network(harness.first(x), torch.from_numpy(time), one_hot(labels)))

        def denoise(y: np.ndarray, s: float, labels: np.ndarray) -> np.ndarray:
            return harness.last(module(harness.first(y), torch.tensor(s), one_hot(labels)))

        return cls(inner, denoise, 0.25)


def compare_network(
    name: str, peer: Peer, config: Any, params: Any, report: harness.Report, count: int
) -> None:
    """The network itself, and with its preconditioning: x or eps, whichever float32 holds well.

    x = y - s eps: above s = 1 the sum loses digits of x, below 1 the difference those of eps.
    """
    eps_of = jax.jit(networks.make_denoiser(config).eps)
    inner_of = jax.jit(networks.make_network(config).apply)
    worst_inner = worst_eps = 0.0

    def difference(x: np.ndarray, s: float, label: np.ndarray) -> float:
        nonlocal worst_inner, worst_eps
        s, label = float(np.float32(s)), np.int32(label)
        y = np.float32(0.5 * x[..., ::-1] + s * x)
        inside = np.float32(1 / math.sqrt(s**2 + 0.25)) * y
        time = np.float32([peer.time_scale * math.log(s)])
        found = inner_of(params, inside, time, label)
        worst_inner = max(worst_inner, harness.relative(found, peer.inner(inside, time, label)))

        denoised, logsnr = peer.denoise(y, s, label), np.float32(-2 * math.log(s))
        z = np.asarray(diffusion.alpha(logsnr)) * y
        eps = eps_of(params, z, logsnr, label)
        if s > 1:
            worst_eps = max(worst_eps, harness.relative(eps, (y - denoised) / s))
            return 0.0
        return harness.relative(diffusion.x_from_eps(z, eps, logsnr), denoised)

    noise_levels = np.geomspace(LOWEST, HIGHEST, count).tolist()
    shape = config.data.image_size, config.data.image_size, config.data.channels
    worst_x = harness.worst(difference, shape, noise_levels, 1000)
    report.line(f'{name}: the network, {count} inputs', worst_inner, harness.OUTPUTS)
    report.line(f'{name}: denoised image, s <= 1', worst_x, harness.OUTPUTS)
    report.line(f'{name}: eps, s > 1', worst_eps, harness.OUTPUTS)


def compare_samplers(
    theirs: Any, config: Any, params: Any, report: harness.Report, steps: int = 10
) -> None:
    """Ten Heun steps from the same noise, without and with churn."""
    from generate import edm_sampler

    labels = np.array([3, 814], np.int32)
    noise = harness.noises(0, range(2), (64, 64, 3), steps)
    schedule = networks.make_schedule(config)
    # z_1 ~ N(0, I) is y = sqrt(1 + 80^2) n of EDM's process; theirs is 80 n.
    start = harness.first(noise[0]) * math.sqrt(1 + HIGHEST**2) / HIGHEST
    model = Model(config, {'main': params})
    churned = {'churn': 4.0, 'churn_min': 0.05, 'churn_max': 50.0, 'churn_noise': 1.003}
    for name, settings in ('Heun', {}), ('Heun with churn', churned):
        sampler = Heun(num_steps=steps, clip=False, grid=EDMGrid(schedule), **settings)
        ours = model.with_settings(sampler=sampler).generate(0, range(2), labels, 0.0).x
        waiting = iter(noise[1:])
        expected = edm_sampler(
            theirs,
            start,
            one_hot(labels),
            randn_like=lambda x, waiting=waiting: harness.first(next(waiting)).to(x.dtype),
            num_steps=steps,
            **{f'S_{key.partition("_")[2] or "churn"}': value for key, value in settings.items()},
        )
        report.line(
            f'{steps} steps: {name}', harness.relative(ours, harness.last(expected)), harness.STEPS
        )


def compare_published_size(report: harness.Report) -> None:
    """Parameters, the command's time and memory, and one input."""
    name = 'edm-imagenet-64x64-cond-adm'
    theirs = harness.randomise(network())
    with harness.temporary_folder() as folder:
        params, config = harness.through_the_command(saved(theirs, folder), name, report)
    ours = sum(leaf.size for leaf in jax.tree.leaves(params))
    report.equal(f'{name}: parameters', ours, sum(p.numel() for p in theirs.parameters()))
    compare_network(name, Peer.of(theirs), config, params, report, 3)
    harness.note_bfloat16(name, config, params, report)
