"""DiT against facebookresearch/DiT, which needs timm."""

import sys
from typing import Any

import harness
import jax
import numpy as np
import torch

from cfg_jax.inference import Model
from cfg_jax.models import networks
from cfg_jax.pretrained import dit
from cfg_jax.samplers.ancestral import Ancestral
from cfg_jax.samplers.grids import RespacedGrid

# Heads of 72 channels, as XL has; 16 x 16 tokens, as for 256 x 256.
NARROW = {'hidden_size': 144, 'depth': 3, 'num_heads': 2}
HEADS = f'num_heads={NARROW["num_heads"]}'


def compare(clone: str, report: harness.Report, full: bool) -> None:
    """The network and the guided sampler at reduced width; with `full` the published sizes."""
    sys.path.insert(0, clone)
    if full:
        compare_published_sizes(report)
        return
    theirs = harness.randomise(network(**NARROW))
    with harness.temporary_folder() as folder:
        path = harness.saved(theirs.state_dict(), 'DiT.pt', folder)
        published, params = harness.imported(path, HEADS)
    compare_network('DiT, width 144', theirs, published, params, report)
    compare_samplers(theirs, published.config, params, report)


def network(size: int = 256, **changes: Any) -> torch.nn.Module:
    """DiT-XL/2 for images of this size, or a narrower one."""
    from models import DiT, DiT_models

    if changes:
        return DiT(input_size=size // 8, patch_size=2, **changes)
    return DiT_models['DiT-XL/2'](input_size=size // 8)


def compare_network(
    name: str, theirs: Any, published: Any, params: Any, report: harness.Report, count: int = 0
) -> None:
    """eps and the variance's interpolation at steps 0 to 999, the null label among the labels."""
    predict = harness.denoiser(published)
    table = networks.make_schedule(published.config).table()
    rounded = in_bfloat16(published.config)
    largest = 0.0

    def difference(x: np.ndarray, step: int, label: np.ndarray) -> float:
        nonlocal largest
        expected = harness.last(theirs(harness.first(x), torch.tensor([step]), torch.tensor(label)))
        inputs = params, x, np.float32(table[step]), np.int32(label)
        ours, other = predict(*inputs), rounded(*inputs)
        largest = max(largest, harness.relative(other.eps, np.asarray(ours.eps)))
        return harness.relative(np.concatenate([ours.eps, 2 * ours.v - 1], axis=-1), expected)

    count = count or harness.COUNT
    shape = networks.noise_shape(published.config)
    steps = np.linspace(0, 999, count).round().astype(int)
    found = harness.worst(difference, shape, steps, 1001)
    report.line(f'{name}: eps and variance, {count} inputs', found, harness.OUTPUTS)
    report.note(f'{name}: eps in bfloat16 against float32', f'{largest:.1e}')


def in_bfloat16(config: Any) -> Any:
    """predict(params, z, logsnr, condition) of the same network in bfloat16, compiled."""
    config = config.copy_and_resolve_references()
    config.model.dtype = 'bfloat16'
    return jax.jit(networks.make_denoiser(config).predict)


def latent_model(config: Any, params: Any, **settings: Any) -> Model:
    """A model whose images are its latents."""
    return Model(
        config,
        {'main': params, 'decoder': ()},
        networks={'decoder': lambda params, latents: latents},
        **settings,
    )


def doubled(array: np.ndarray) -> np.ndarray:
    """Twice the batch: theirs samples every image with and without its label."""
    return np.concatenate([array, array])


def compare_samplers(
    theirs: Any, config: Any, params: Any, report: harness.Report, steps: int = 10
) -> None:
    """Ten ancestral steps with the same noise, unguided and guided on 3 of 4 channels."""
    from diffusion import create_diffusion

    labels = np.array([3, 814], np.int32)
    both = torch.tensor([*labels, 1000, 1000])
    shape = networks.noise_shape(config)
    noise = harness.noises(0, range(2), shape, steps)
    diffusion = create_diffusion(str(steps))
    sampler = Ancestral(
        num_steps=steps, clip=False, grid=RespacedGrid(networks.make_schedule(config))
    )
    model = latent_model(config, params, sampler=sampler)

    def expected(scale: float) -> np.ndarray:
        guided = scale != 1.0
        start = harness.first(doubled(noise[0]) if guided else noise[0])
        each = [doubled(n) for n in noise[1:]] if guided else noise[1:]
        condition = {'y': both, 'cfg_scale': scale} if guided else {'y': both[:2]}
        with harness.injected(each):
            out = diffusion.p_sample_loop(
                theirs.forward_with_cfg if guided else theirs.forward,
                start.shape,
                start,
                clip_denoised=False,
                model_kwargs=condition,
                device='cpu',
            )
        return harness.last(out)[:2]

    for name, scale in ('unguided', 1.0), ('scale 1.5 on 3 channels', 1.5), ('scale 4', 4.0):
        ours = model.with_settings(guidance='classifier_free+channels')
        found = ours.generate(0, range(2), labels, scale - 1).x
        difference = harness.relative(found, expected(scale))
        report.line(f'{steps} steps: ancestral, {name}', difference, harness.STEPS)


def compare_published_sizes(report: harness.Report) -> None:
    """Parameter counts of XL/2; 256 through the command, and one input."""
    for size in (256, 512):
        with torch.device('meta'):
            state = harness.Shapes(network(size).state_dict())
        plan = dit.FAMILY.plan(state, 'process=diffusion')
        assert {s.name: s.shape for s in plan.sources.values()} == {
            n: state.shape(n) for n in state
        }
        module = networks.make_network(plan.config)
        shapes = jax.eval_shape(module.init, jax.random.key(0), *networks.inputs(plan.config))
        ours = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        theirs = sum(tensor.numel() for tensor in state.values())
        report.equal(f'DiT-XL/2 {size}: parameters', ours, theirs)
    theirs = harness.randomise(network())
    with harness.temporary_folder() as folder:
        path = harness.saved(theirs.state_dict(), 'DiT-XL-2-256x256.pt', folder)
        report.note('DiT-XL/2 256: file', f'{path.stat().st_size / 2**30:.2f} GiB')
        params, config = harness.through_the_command(path, 'DiT-XL/2 256', report)
    x = np.random.default_rng(0).normal(size=(1, 32, 32, 4)).astype(np.float32)
    logsnr = np.float32(networks.make_schedule(config).table()[417])
    ours = jax.jit(networks.make_denoiser(config).predict)(params, x, logsnr, np.int32([207]))
    expected = harness.last(theirs(harness.first(x), torch.tensor([417]), torch.tensor([207])))
    found = np.concatenate([ours.eps, 2 * ours.v - 1], axis=-1)
    report.line('DiT-XL/2 256: one input', harness.relative(found, expected), harness.OUTPUTS)
    rounded = in_bfloat16(config)(params, x, logsnr, np.int32([207])).eps
    error = harness.relative(rounded, np.asarray(ours.eps))
    report.note('DiT-XL/2 256: eps in bfloat16 against float32', f'{error:.1e}')
