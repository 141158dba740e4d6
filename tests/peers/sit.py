"""SiT against willisma/SiT, which needs timm and torchdiffeq."""

import sys
from typing import Any

import dit
import harness
import jax
import numpy as np
import torch

from cfg_jax import diffusion
from cfg_jax.models import networks
from cfg_jax.pretrained import dit as family
from cfg_jax.samplers.edm import Euler
from cfg_jax.samplers.flow import FlowHeun, FlowSDE
from cfg_jax.samplers.grids import FlowGrid, Grid


def compare(clone: str, report: harness.Report, full: bool) -> None:
    """The network and the guided ODE at reduced width; with `full` the published size."""
    sys.path.insert(0, clone)
    if full:
        compare_published_size(report)
        return
    theirs = harness.randomise(network(**dit.NARROW))
    with harness.temporary_folder() as folder:
        path = harness.saved(theirs.state_dict(), 'SiT.pt', folder)
        published, params = harness.imported(path, f'{dit.HEADS},process=flow')
        with torch.no_grad():  # as training leaves it: nothing reaches the unused outputs
            rows = theirs.final_layer.linear.weight.view(4, 8, -1)
            rows[:, 4:] = 0
        path = harness.saved(theirs.state_dict(), 'SiT-trained.pt', folder)
        recognised = harness.imported(path, dit.HEADS)[0].config.target
    report.equal('SiT, recognised by its unused outputs', recognised, 'velocity')
    compare_network('SiT, width 144', theirs, published, params, report)
    compare_samplers(theirs, published.config, params, report)


def network(**changes: Any) -> torch.nn.Module:
    """SiT-XL/2 for 256 x 256, or a narrower one."""
    from models import SiT, SiT_models

    if changes:
        return SiT(input_size=32, patch_size=2, **changes)
    return SiT_models['SiT-XL/2'](input_size=32)


def compare_network(
    name: str, theirs: Any, published: Any, params: Any, report: harness.Report
) -> None:
    """The velocity, and eps, at t from 0 (noise there) to 1."""
    denoiser = networks.make_denoiser(published.config)
    velocity, eps_of = jax.jit(denoiser.prediction), jax.jit(denoiser.eps)
    rounded_eps = dit.in_bfloat16(published.config)
    worst_eps = worst_rounded = 0.0

    def difference(y: np.ndarray, logsnr: float, label: np.ndarray) -> float:
        nonlocal worst_eps, worst_rounded
        logsnr = np.float32(logsnr)
        t = float(jax.nn.sigmoid(0.5 * logsnr))
        z = y / np.asarray(diffusion.FLOW.factor(logsnr))
        inputs = params, z, logsnr, np.int32(label)
        expected = harness.last(theirs(harness.first(y), torch.tensor([t]), torch.tensor(label)))
        eps = np.asarray(eps_of(*inputs))
        worst_eps = max(worst_eps, harness.relative(eps, y - t * expected))
        worst_rounded = max(worst_rounded, harness.relative(rounded_eps(*inputs).eps, eps))
        return harness.relative(-np.asarray(velocity(*inputs)), expected)

    shape = networks.noise_shape(published.config)
    found = harness.worst(difference, shape, np.linspace(-20, 20, harness.COUNT), 1001)
    report.line(f'{name}: velocity, {harness.COUNT} inputs', found, harness.OUTPUTS)
    report.line(f'{name}: eps', worst_eps, harness.OUTPUTS)
    report.note(f'{name}: eps in bfloat16 against float32', f'{worst_rounded:.1e}')


def compare_samplers(
    theirs: Any, config: Any, params: Any, report: harness.Report, steps: int = 10
) -> None:
    """Ten steps of the ODE from the same noise, unguided and guided on 3 of 4 channels."""
    from transport import Sampler, create_transport

    labels = np.array([3, 814], np.int32)
    both = torch.tensor([*labels, 1000, 1000])
    start = harness.noises(0, range(2), networks.noise_shape(config), 0)[0]
    grid = Grid(networks.make_schedule(config))
    for name, method, sampler in ('Euler', 'euler', Euler), ('Heun', 'heun2', FlowHeun):
        # Their grid of `steps` + 1 points ends at t = 1, where ours evaluates once more.
        sample = Sampler(create_transport()).sample_ode(sampling_method=method, num_steps=steps + 1)
        model = dit.latent_model(
            config, params, sampler=sampler(num_steps=steps + 1, clip=False, grid=grid)
        ).with_settings(guidance='classifier_free+channels')
        for scale in (1.0, 1.5, 4.0):
            condition = {'y': both, 'cfg_scale': scale}
            there = harness.first(dit.doubled(start))
            expected = harness.last(sample(there, theirs.forward_with_cfg, **condition)[-1])[:2]
            found = model.generate(0, range(2), labels, scale - 1).x
            difference = harness.relative(found, expected)
            report.line(f'{steps} steps: {name}, scale {scale:g}', difference, harness.STEPS)
    compare_sde(theirs, config, params, report, steps)


def compare_sde(theirs: Any, config: Any, params: Any, report: harness.Report, steps: int) -> None:
    """The SDE with its code's defaults from the same noise, guided on 3 of 4 channels."""
    from transport import Sampler, create_transport

    labels = np.array([3, 814], np.int32)
    start, *noise = harness.noises(0, range(2), networks.noise_shape(config), steps)
    grid = FlowGrid(networks.make_schedule(config))
    model = dit.latent_model(
        config, params, sampler=FlowSDE(num_steps=steps, clip=False, grid=grid)
    ).with_settings(guidance='classifier_free+channels')
    sample = Sampler(create_transport()).sample_sde(diffusion_form='sigma', num_steps=steps)
    for scale in (1.0, 1.5, 4.0):
        condition = {'y': torch.tensor([*labels, 1000, 1000]), 'cfg_scale': scale}
        with harness.injected([dit.doubled(each) for each in noise]):
            there = sample(harness.first(dit.doubled(start)), theirs.forward_with_cfg, **condition)
        found = model.generate(0, range(2), labels, scale - 1).x
        difference = harness.relative(found, harness.last(there[-1])[:2])
        report.line(f'{steps} steps: SDE, scale {scale:g}', difference, harness.STEPS)


def compare_published_size(report: harness.Report) -> None:
    """Parameters of XL/2, but for those of the outputs that SiT drops."""
    with torch.device('meta'):
        state = harness.Shapes(network().state_dict())
    plan = family.FAMILY.plan(state, 'process=flow')
    assert {s.name: s.shape for s in plan.sources.values()} == {n: state.shape(n) for n in state}
    module = networks.make_network(plan.config)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *networks.inputs(plan.config))
    dropped = 2 * 2 * 4 * (1152 + 1)
    ours = sum(leaf.size for leaf in jax.tree.leaves(shapes)) + dropped
    theirs = sum(tensor.numel() for tensor in state.values())
    report.equal(f'SiT-XL/2 256: parameters, {dropped:,} dropped', ours, theirs)
