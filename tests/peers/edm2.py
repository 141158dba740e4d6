"""EDM2's networks against NVlabs/edm2."""

import copy
import math
import pickle
import sys
from pathlib import Path
from typing import Any

import edm
import harness
import numpy as np
import torch

from cfg_jax.inference import Model
from cfg_jax.models import networks
from cfg_jax.pretrained import edm2
from cfg_jax.samplers.edm import Heun
from cfg_jax.samplers.grids import EDMGrid

# Channels of the published networks for ImageNet-64, and their parameters, in millions, as printed.
WIDTHS = {'xs': 128, 's': 192, 'm': 256, 'l': 320, 'xl': 384}


def compare(clone: str, report: harness.Report, full: bool) -> None:
    """Networks and the guided sampler at reduced width; with `full` the published sizes."""
    sys.path.insert(0, clone)
    if full:
        compare_published_sizes(report)
        return
    theirs = [rounded(network(64, num_blocks=blocks), seed=blocks) for blocks in (2, 1)]
    with harness.temporary_folder() as folder:
        ours = [harness.imported(saved(module, folder)) for module in theirs]
    published, params = ours[0]
    peer = edm.Peer.of(theirs[0])
    edm.compare_network('EDM2, width 64', peer, published.config, params, report, harness.COUNT)
    compare_samplers(theirs, ours, report)


def network(width: int, **changes: Any) -> torch.nn.Module:
    """A network of edm2-img64-*.pkl, of a published width or another."""
    from training.networks_edm2 import Precond

    return Precond(64, 3, 1000, model_channels=width, **changes)


def rounded(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random parameters that float16, in which files are written, holds exactly."""
    return harness.randomise(module, seed).half().float()


def saved(module: torch.nn.Module, folder: str) -> Path:
    """The pickle that EDM2's training writes."""
    import dnnlib
    from training.encoders import StandardRGBEncoder
    from training.training_loop import EDM2Loss

    path = Path(folder) / f'edm2-{id(module)}.pkl'
    with path.open('wb') as file:
        others = dnnlib.EasyDict(encoder=StandardRGBEncoder(), loss_fn=EDM2Loss())
        pickle.dump(dnnlib.EasyDict(others, ema=copy.deepcopy(module).half()), file)
    return path


def compare_samplers(
    theirs: list[Any], ours: list[Any], report: harness.Report, steps: int = 10
) -> None:
    """Ten Heun steps from the same noise, without guidance and by another network."""
    from generate_images import edm_sampler

    labels = np.array([3, 814], np.int32)
    noise = harness.noises(0, range(2), (64, 64, 3), steps)
    config = ours[0][0].config
    model = Model(
        config,
        {'main': ours[0][1], 'guide': ours[1][1]},
        networks={'guide': networks.make_denoiser(ours[1][0].config)},
        sampler=Heun(num_steps=steps, clip=False, grid=EDMGrid(networks.make_schedule(config))),
    )
    # z_1 ~ N(0, I) is y = sqrt(1 + 80^2) n of EDM's process; theirs is 80 n.
    start = harness.first(noise[0]) * math.sqrt(1 + edm.HIGHEST**2) / edm.HIGHEST
    for name, w in ('unguided', 0.0), ('autoguidance, w = 0.7', 0.7):
        found = model.with_settings(guidance='autoguidance').generate(0, range(2), labels, w).x
        expected = edm_sampler(
            theirs[0],
            start,
            edm.one_hot(labels),
            gnet=theirs[1],
            num_steps=steps,
            guidance=1 + w,
        )
        report.line(
            f'{steps} Heun steps: {name}',
            harness.relative(found, harness.last(expected)),
            harness.STEPS,
        )


def compare_published_sizes(report: harness.Report) -> None:
    """Parameters of all sizes; S through the command, and one input."""
    for size, width in WIDTHS.items():
        with torch.device('meta'):
            module = network(width)
        state = harness.Shapes(module.state_dict())
        used = {name for name in state if not name.startswith('logvar_')}
        sources = edm2.sources(edm2.structure(state), 64).values()
        shapes = {source.name: source.shape for source in sources}
        shapes |= {source.gain: () for source in sources if source.gain}
        report.equal(f'edm2-img64-{size}: tensors', len(shapes), len(used))
        ours = sum(int(np.prod(shape)) for shape in shapes.values())
        theirs = sum(state[name].numel() for name in used)
        report.equal(f'edm2-img64-{size}: numbers in them', ours, theirs)
        assert all(state.shape(name) == shape for name, shape in shapes.items())
    module = rounded(network(WIDTHS['s']))
    with harness.temporary_folder() as folder:
        name = 'edm2-img64-s'
        params, config = harness.through_the_command(saved(module, folder), name, report)
    edm.compare_network(name, edm.Peer.of(module), config, params, report, 3)
    harness.note_bfloat16(name, config, params, report)
