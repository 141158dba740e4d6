"""ADM against openai/guided-diffusion."""

import dataclasses
import sys
import types
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
    """Samplers, networks and classifiers at reduced width; with `full` the published sizes."""
    sys.path.insert(0, clone)
    if full:
        compare_published_sizes(report)
        return
    compare_samplers(report)
    for name in PUBLISHED:
        compare_unet(name, report)
    for size in CLASSIFIER_DEPTHS:
        compare_classifier(size, report)


def save_narrow(clone: str, path: str) -> None:
    """Writes the 64x64 network, 32 channels wide on every level and random, as its authors would.

    Its depth is the published one, its heads have 32 channels.
    """
    sys.path.insert(0, clone)
    torch.manual_seed(0)
    network = harness.randomise(unet('64x64_diffusion', 32, channel_mult='1,1,1,1'))
    torch.save(network.state_dict(), path)


def unet(name: str, width: int = 0, **settings: Any) -> torch.nn.Module:
    """A network of guided-diffusion, of the published width or another, with other settings."""
    from guided_diffusion.script_util import create_model

    settings = _COMMON | PUBLISHED[name] | settings
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

    def theirs(x: np.ndarray, step: int, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.enable_grad():
            pixels = harness.first(x).requires_grad_()
            found = pair.theirs(pixels, torch.tensor([step]))
            log_prob = torch.log_softmax(found, -1)[0, label[0]]
            (slope,) = torch.autograd.grad(log_prob, pixels)
        return found.detach().numpy(), harness.last(slope)

    def difference(x: np.ndarray, step: int, label: np.ndarray) -> float:
        nonlocal worst_gradient
        expected, slope = theirs(x, step, label)
        found = gradient(pair.params, x, pair.logsnr(step), np.int32(label))
        worst_gradient = max(worst_gradient, harness.relative(found, slope))
        return harness.relative(logits(pair.params, x, np.full(1, pair.logsnr(step))), expected)

    count = harness.COUNT if size < 256 else 5
    steps = np.linspace(0, 999, count).round().astype(int)
    found = harness.worst(difference, (size, size, 3), steps, 1000)
    name = f'{size}x{size}_classifier, width {width}'
    report.line(f'{name}: logits, {count} inputs', found, harness.OUTPUTS)
    report.line(f'{name}: gradient, {count} inputs', worst_gradient, harness.OUTPUTS)


def compare_samplers(report: harness.Report, steps: int = 10) -> None:
    """Ten steps from the same noise: ancestral and DDIM, alone and guided by a classifier."""
    network, judge = unet('64x64_diffusion', 32), harness.randomise(classifier(64, 64), seed=1)
    for schedule in ('linear', 'cosine'):
        settings = f'schedule={schedule}_beta'
        pair = Pair.of(harness.randomise(network), f'{settings},head_channels=32')
        chain = _Chain(pair, Pair.of(judge, settings), schedule, steps)
        levels = networks.make_schedule(chain.pair.config)
        ancestral = Ancestral(num_steps=steps, grid=RespacedGrid(levels))
        respaced = DDIM(num_steps=steps, grid=RespacedGrid(levels))
        strided = DDIM(num_steps=steps, grid=StridedGrid(levels))
        shifted = dataclasses.replace(strided, clip=False)
        clip_first = ClassifierEps(clip_first=True)
        for name, loop, respacing, sampler, rule, w in (
            ('ancestral', 'p_sample_loop', str(steps), ancestral, ClassifierMean(), 0.0),
            ('ancestral, guided', 'p_sample_loop', str(steps), ancestral, ClassifierMean(), 1.0),
            ('DDIM', 'ddim_sample_loop', str(steps), respaced, ClassifierEps(), 0.0),
            ('DDIM, strided', 'ddim_sample_loop', f'ddim{steps}', strided, ClassifierEps(), 0.0),
            ('DDIM, guided', 'ddim_sample_loop', f'ddim{steps}', shifted, clip_first, 1.0),
        ):
            expected = chain.theirs(loop, w > 0, respacing)
            found = harness.relative(chain.ours(sampler, rule, w, shared=True), expected)
            report.line(f'{steps} steps, {schedule}: {name}', found, harness.STEPS)
            # At the cosine schedule's noisy end x~ = (z - sigma eps) / alpha with alpha = 5e-5:
            # there the last digits of eps, in which two networks differ, are seen in the picture.
            found = harness.relative(chain.ours(sampler, rule, w), expected)
            report.note('    with our network', f'{found:.1e}')


@dataclasses.dataclass
class _Chain:
    """A network and a classifier with one start and the noise of every step."""

    pair: Pair
    judge: Pair
    schedule: str
    steps: int
    labels = np.array([3, 814], np.int32)

    def ours(self, sampler: Any, rule: Any, w: float, shared: bool = False) -> Any:
        """Two images of our sampler, along our network or, `shared`, along theirs."""
        others = {'classifier': networks.make_noisy_classifier(self.judge.config)}
        if shared:
            network = types.SimpleNamespace(apply=self._their_network)
            others['main'] = networks.make_denoiser(self.pair.config, network)
        model = Model(
            self.pair.config,
            {'main': self.pair.params, 'classifier': self.judge.params},
            networks=others,
            rule=rule,
            sampler=sampler,
        )
        return model.generate(0, range(2), self.labels, w).x

    def _their_network(self, params: Any, z: Any, time: Any, labels: Any, **options: Any) -> Any:
        """Their network inside our compiled trajectory, by a callback."""

        def call(z: Any, time: Any, labels: Any) -> np.ndarray:
            with torch.no_grad():  # of this thread
                inputs = torch.tensor(np.asarray(time)), torch.tensor(np.asarray(labels)).long()
                return harness.last(self.pair.theirs(harness.first(z), *inputs))

        shape = jax.ShapeDtypeStruct((*z.shape[:3], 6), z.dtype)
        return jax.pure_callback(call, shape, z, time, labels)

    def theirs(self, loop: str, guided: bool, respacing: str) -> np.ndarray:
        """The same of theirs."""
        from guided_diffusion.script_util import create_gaussian_diffusion

        diffusion = create_gaussian_diffusion(
            learn_sigma=True, noise_schedule=self.schedule, timestep_respacing=respacing
        )
        start, *noise = harness.noises(0, range(2), (64, 64, 3), self.steps)
        with harness.injected(noise), torch.no_grad():
            out = getattr(diffusion, loop)(
                self.pair.theirs,
                (2, 3, 64, 64),
                noise=harness.first(start),
                model_kwargs={'y': torch.tensor(self.labels).long()},
                cond_fn=self._gradient if guided else None,
                device='cpu',
            )
        return harness.last(out)

    def _gradient(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            log_probs = torch.log_softmax(self.judge.theirs(x, t), -1)
            return torch.autograd.grad(log_probs[range(len(y)), y].sum(), x)[0]


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
