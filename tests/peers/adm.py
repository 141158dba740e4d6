"""ADM against openai/guided-diffusion."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import harness
import jax
import numpy as np
import torch

from cfg_jax.guidance.classifier import ClassifierEps, ClassifierMean, log_prob_gradient
from cfg_jax.inference import Model
from cfg_jax.models import networks
from cfg_jax.pretrained import adm
from cfg_jax.samplers.ancestral import Ancestral
from cfg_jax.samplers.ddim import DDIM
from cfg_jax.samplers.grids import RespacedGrid, StridedGrid

_COMMON = {
    'learn_sigma': True,
    'attention_resolutions': '32,16,8',
    'use_scale_shift_norm': True,
    'resblock_updown': True,
}
# As guided-diffusion's README has them; `narrow` replaces the widths.
PUBLISHED = {
    '64x64_diffusion': {
        'image_size': 64,
        'num_channels': 192,
        'num_res_blocks': 3,
        'class_cond': True,
        'num_head_channels': 64,
        'use_new_attention_order': True,
    },
    '128x128_diffusion': {
        'image_size': 128,
        'num_channels': 256,
        'num_res_blocks': 2,
        'class_cond': True,
        'num_heads': 4,
    },
    '256x256_diffusion': {
        'image_size': 256,
        'num_channels': 256,
        'num_res_blocks': 2,
        'class_cond': True,
        'num_head_channels': 64,
    },
    '256x256_diffusion_uncond': {
        'image_size': 256,
        'num_channels': 256,
        'num_res_blocks': 2,
        'class_cond': False,
        'num_head_channels': 64,
    },
    '512x512_diffusion': {
        'image_size': 512,
        'num_channels': 256,
        'num_res_blocks': 2,
        'class_cond': True,
        'num_head_channels': 64,
    },
}
CLASSIFIER_DEPTHS = {64: 4, 128: 2, 256: 2, 512: 2}


def compare(clone: str, report: harness.Report, full: bool) -> None:
    """Networks, classifiers and samplers at reduced width; with `full` the published sizes."""
    sys.path.insert(0, clone)
    if full:
        compare_published_sizes(report)
        return
    for name in PUBLISHED:
        compare_unet(name, report)
    for size in CLASSIFIER_DEPTHS:
        compare_classifier(size, report)
    compare_samplers(report)


def unet(name: str, width: int = 0) -> torch.nn.Module:
    """A network of guided-diffusion, of the published width or another."""
    from guided_diffusion.script_util import create_model

    settings = _COMMON | PUBLISHED[name]
    if width:
        settings['num_channels'] = width
        if 'num_head_channels' in settings:
            settings['num_head_channels'] = 32
    return create_model(**settings)


def classifier(size: int, width: int = 128) -> torch.nn.Module:
    """A classifier of guided-diffusion; its heads always have 64 channels."""
    from guided_diffusion.script_util import create_classifier

    return create_classifier(
        image_size=size,
        classifier_use_fp16=False,
        classifier_width=width,
        classifier_depth=CLASSIFIER_DEPTHS[size],
        classifier_attention_resolutions='32,16,8',
        classifier_use_scale_shift_norm=True,
        classifier_resblock_updown=True,
        classifier_pool='attention',
    )


@dataclasses.dataclass
class Pair:
    """An original network and ours, imported from its file."""

    theirs: torch.nn.Module
    published: Any
    params: Any

    @classmethod
    def of(cls, network: torch.nn.Module, settings: str = '') -> 'Pair':
        """Saves the state dict as guided-diffusion's training does, and imports it."""
        with harness.temporary_folder() as folder:
            path = harness.saved(network.state_dict(), 'model.pt', folder)
            return cls(network, *harness.imported(path, settings))

    @property
    def config(self) -> Any:
        return self.published.config

    def logsnr(self, step: int) -> np.float32:
        """log-SNR of one of the 1,000 steps."""
        return np.float32(networks.make_schedule(self.config).table()[step])


def compare_unet(name: str, report: harness.Report, width: int = 32) -> None:
    """eps and the variance's interpolation at steps 0 to 999."""
    width = 64 if name.startswith('512') else width  # its first level has half of it
    settings = '' if 'num_heads' in PUBLISHED[name] else 'head_channels=32'
    pair = Pair.of(harness.randomise(unet(name, width)), settings)
    conditional, size = PUBLISHED[name]['class_cond'], PUBLISHED[name]['image_size']
    predict = harness.denoiser(pair.published)

    def difference(x: np.ndarray, step: int, label: np.ndarray) -> float:
        given = torch.tensor(label) if conditional else None
        theirs = harness.last(pair.theirs(harness.first(x), torch.tensor([step]), given))
        ours = predict(pair.params, x, pair.logsnr(step), np.int32(label))
        return harness.relative(np.concatenate([ours.eps, 2 * ours.v - 1], axis=-1), theirs)

    count = harness.COUNT if size < 256 else 5
    steps = np.linspace(0, 999, count).round().astype(int)
    found = harness.worst(difference, (size, size, 3), steps, 1000)
    report.line(f'{name}, width {width}: eps and variance, {count} inputs', found, harness.OUTPUTS)


def compare_classifier(size: int, report: harness.Report, width: int = 64) -> None:
    """Logits, and the gradient of log p(label) by the pixels, at steps 0 to 999."""
    width = 128 if size == 512 else width
    pair = Pair.of(harness.randomise(classifier(size, width)))
    ours = networks.make_noisy_classifier(pair.config)
    logits = jax.jit(ours)
    gradient = jax.jit(
        lambda params, x, logsnr, label: log_prob_gradient(
            lambda *inputs: ours(params, *inputs), x, logsnr, label
        )
    )
    worst_gradient = 0.0

    def difference(x: np.ndarray, step: int, label: np.ndarray) -> float:
        nonlocal worst_gradient
        with torch.enable_grad():
            pixels = harness.first(x).requires_grad_()
            theirs = pair.theirs(pixels, torch.tensor([step]))
            log_prob = torch.log_softmax(theirs, -1)[0, label[0]]
            (slope,) = torch.autograd.grad(log_prob, pixels)
        found = gradient(pair.params, x, pair.logsnr(step), np.int32(label))
        worst_gradient = max(worst_gradient, harness.relative(found, harness.last(slope)))
        found = logits(pair.params, x, np.full(1, pair.logsnr(step)))
        return harness.relative(found, theirs.detach().numpy())

    count = harness.COUNT if size < 256 else 5
    steps = np.linspace(0, 999, count).round().astype(int)
    found = harness.worst(difference, (size, size, 3), steps, 1000)
    name = f'{size}x{size}_classifier, width {width}'
    report.line(f'{name}: logits, {count} inputs', found, harness.OUTPUTS)
    report.line(f'{name}: gradient, {count} inputs', worst_gradient, harness.OUTPUTS)


def compare_samplers(report: harness.Report, steps: int = 10) -> None:
    """Ten steps from the same noise: ancestral, guided by a classifier, and DDIM."""
    from guided_diffusion.script_util import create_gaussian_diffusion

    pair = Pair.of(harness.randomise(unet('64x64_diffusion', 32)), 'head_channels=32')
    judge = Pair.of(harness.randomise(classifier(64, 64), seed=1))
    labels = np.array([3, 814], np.int32)
    shape = (64, 64, 3)
    noise = harness.noises(0, range(2), shape, steps)

    def cond_fn(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            log_probs = torch.log_softmax(judge.theirs(x, t), -1)
            return torch.autograd.grad(log_probs[range(len(y)), y].sum(), x)[0]

    def theirs(name: str, guided: bool, respacing: str) -> np.ndarray:
        diffusion = create_gaussian_diffusion(
            learn_sigma=True, noise_schedule='cosine', timestep_respacing=respacing
        )
        with harness.injected(noise[1:]), torch.no_grad():
            out = getattr(diffusion, name)(
                pair.theirs,
                (2, 3, 64, 64),
                noise=harness.first(noise[0]),
                model_kwargs={'y': torch.tensor(labels).long()},
                cond_fn=cond_fn if guided else None,
                device='cpu',
            )
        return harness.last(out)

    schedule = networks.make_schedule(pair.config)
    grid = RespacedGrid(schedule)
    model = Model(
        pair.config,
        {'main': pair.params, 'classifier': judge.params},
        networks={'classifier': networks.make_noisy_classifier(judge.config)},
        rule=ClassifierMean(),
        sampler=Ancestral(num_steps=steps, grid=grid),
    )

    def line(name: str, ours: Any, expected: np.ndarray) -> None:
        report.line(f'{steps} steps: {name}', harness.relative(ours, expected), harness.STEPS)

    found = model.generate(0, range(2), labels, 0.0).x
    line('ancestral, learned variance', found, theirs('p_sample_loop', False, str(steps)))
    found = model.generate(0, range(2), labels, 1.0).x
    line('ancestral, guided by the classifier', found, theirs('p_sample_loop', True, str(steps)))
    for respacing, grid in (str(steps), RespacedGrid), (f'ddim{steps}', StridedGrid):
        sampler = DDIM(num_steps=steps, grid=grid(schedule))
        found = model.with_settings(sampler=sampler, guidance=ClassifierEps())
        found = found.generate(0, range(2), labels, 0.0).x
        line(f'DDIM, respaced {respacing}', found, theirs('ddim_sample_loop', False, respacing))
    sampler = dataclasses.replace(sampler, clip=False)
    model = model.with_settings(sampler=sampler, guidance=ClassifierEps(clip_first=True))
    found = model.generate(0, range(2), labels, 1.0).x
    line('DDIM, guided by the classifier', found, theirs('ddim_sample_loop', True, f'ddim{steps}'))


def compare_published_sizes(report: harness.Report) -> None:
    """Parameter counts of all; the command and one input of the two of 64 x 64."""
    makers: dict[str, Callable[[], torch.nn.Module]] = {
        name: lambda name=name: unet(name) for name in PUBLISHED
    }
    makers |= {f'{s}x{s}_classifier': lambda s=s: classifier(s) for s in CLASSIFIER_DEPTHS}
    for name, make in makers.items():
        with torch.device('meta'):
            network = make()
        state = harness.Shapes(network.state_dict())
        family = adm.CLASSIFIERS if 'classifier' in name else adm.FAMILY
        sources = family.plan(state, '').sources.values()
        assert {s.name: s.shape for s in sources} == {n: state.shape(n) for n in state}
        ours = sum(int(np.prod(source.shape)) for source in sources)
        report.equal(f'{name}: parameters', ours, sum(p.numel() for p in network.parameters()))
    for name in ('64x64_diffusion', '64x64_classifier'):
        network = harness.randomise(makers[name]())
        with harness.temporary_folder() as folder:
            path = harness.saved(network.state_dict(), f'{name}.pt', folder)
            params, config = harness.through_the_command(path, name, report)
        x = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
        logsnr = np.float32(networks.make_schedule(config).table()[[417]])
        inputs = [harness.first(x), torch.tensor([417])]
        if 'classifier' in name:
            theirs = network(*inputs).numpy()
            ours = jax.jit(networks.make_noisy_classifier(config))(params, x, logsnr)
        else:
            theirs = harness.last(network(*inputs, torch.tensor([207])))
            found = jax.jit(networks.make_denoiser(config).predict)(
                params, x, logsnr, np.int32([207])
            )
            ours = np.concatenate([found.eps, 2 * found.v - 1], axis=-1)
        report.line(f'{name}: one input', harness.relative(ours, theirs), harness.OUTPUTS)
        if 'classifier' not in name:
            harness.note_bfloat16(name, config, params, report)
