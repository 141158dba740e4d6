"""consistency_models' EDM network against openai/consistency_models."""

import math
import sys
from typing import Any
from unittest import mock

import edm
import harness
import jax
import numpy as np
import torch

from cfg_jax.inference import Model

# Imported there for losses and launching, which a network does not need.
_ABSENT = ('mpi4py', 'piq', 'torchvision', 'torchvision.transforms', 'einops', 'blobfile')


def compare(clone: str, report: harness.Report, full: bool) -> None:
    """The network and the sampler at reduced width; with `full` the published size."""
    sys.path.insert(0, clone)
    theirs = harness.randomise(network(192 if full else 64, 3 if full else 1))
    name = 'edm_imagenet64_ema'
    with harness.temporary_folder() as folder:
        path = harness.saved(theirs.state_dict(), f'{name}.pt', folder)
        if full:
            params, config = harness.through_the_command(path, name, report)
        else:
            published, params = harness.imported(path)
            config = published.config
    if full:
        ours = sum(leaf.size for leaf in jax.tree.leaves(params))
        report.equal(f'{name}: parameters', ours, sum(p.numel() for p in theirs.parameters()))
    count = 3 if full else harness.COUNT
    edm.compare_network(name, peer_of(theirs), config, params, report, count)
    if not full:
        compare_sampler(theirs, config, params, report)


def network(width: int, blocks: int) -> torch.nn.Module:
    """The network, its flash attention replaced by the same product in float32."""
    for absent in _ABSENT:
        sys.modules.setdefault(absent, mock.MagicMock())
    from cm import unet

    class Attention(torch.nn.Module):
        """softmax(q k^T / sqrt(depth)) v of [B, (three heads depth), T], as FlashAttention."""

        def __init__(self, channels: int, num_heads: int):
            super().__init__()
            self.heads = num_heads

        def forward(self, qkv: torch.Tensor) -> torch.Tensor:
            batch, channels, length = qkv.shape
            q, k, v = qkv.reshape(batch, 3, self.heads, -1, length).unbind(1)
            weights = torch.softmax(torch.einsum('bhct,bhcs->bhts', q, k) / q.shape[2] ** 0.5, -1)
            out = torch.einsum('bhts,bhcs->bhct', weights, v)
            return out.reshape(batch, channels // 3, length)

    unet.QKVFlashAttention = Attention
    return unet.UNetModel(
        image_size=64,
        in_channels=3,
        model_channels=width,
        out_channels=3,
        num_res_blocks=blocks,
        attention_resolutions=(2, 4, 8),
        channel_mult=(1, 2, 3, 4),
        num_classes=1000,
        num_head_channels=64,
        use_scale_shift_norm=True,
        resblock_updown=True,
    )


def denoiser() -> Any:
    """Their preconditioning, for the networks that are no consistency models."""
    from cm.karras_diffusion import KarrasDenoiser

    return KarrasDenoiser(loss_norm='l2')


def peer_of(module: torch.nn.Module) -> edm.Peer:
    """A network with and without its preconditioning."""

    def inner(x: np.ndarray, time: np.ndarray, labels: np.ndarray) -> np.ndarray:
        inputs = harness.first(x), torch.from_numpy(time), torch.tensor(labels)
        return harness.last(module(*inputs))

    def denoise(y: np.ndarray, s: float, labels: np.ndarray) -> np.ndarray:
        given = harness.first(y), torch.tensor([s])
        return harness.last(denoiser().denoise(module, *given, y=torch.tensor(labels))[1])

    return edm.Peer(inner, denoise, 250.0)


def compare_sampler(
    theirs: Any, config: Any, params: Any, report: harness.Report, steps: int = 10
) -> None:
    """Ten Heun steps from the same noise, x clipped at every level as image_sample.py does."""
    from cm.karras_diffusion import karras_sample

    labels = np.array([3, 814], np.int32)
    start = harness.first(harness.noises(0, range(2), (64, 64, 3), steps)[0])
    # z_1 ~ N(0, I) is y = sqrt(1 + 80^2) n of EDM's process; theirs is 80 n.
    start = start * math.sqrt(1 + edm.HIGHEST**2) / edm.HIGHEST
    generator = mock.Mock(randn=lambda *shape, device: start, randn_like=torch.zeros_like)
    expected = karras_sample(
        denoiser(),
        theirs,
        tuple(start.shape),
        steps,
        model_kwargs={'y': torch.tensor(labels)},
        device='cpu',
        generator=generator,
    )
    model = Model(config, {'main': params}).with_settings(num_steps=steps)
    found = model.generate(0, range(2), labels, 0.0).x
    name = f'{steps} steps: Heun, x clipped'
    report.line(name, harness.relative(found, harness.last(expected)), harness.STEPS)
