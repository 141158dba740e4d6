"""The autoencoder's decoder against AutoencoderKL of huggingface/diffusers."""

import sys
import time
from pathlib import Path
from typing import Any

import harness
import jax
import numpy as np
import safetensors.torch
import torch

from cfg_jax.models import networks

DECODED = 1e-4  # largest relative difference
_FORMER = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}


def compare(clone: str, report: harness.Report, full: bool) -> None:
    """At reduced width, in both namings; with `full` of the published width."""
    sys.path.insert(0, f'{clone}/src')
    widths = (128, 256, 512, 512) if full else (32, 64, 96, 96)
    theirs = harness.randomise(network(widths))
    name = f'decoder, widths {widths}'
    with harness.temporary_folder() as folder:
        if full:
            path = harness.saved(theirs.state_dict(), 'diffusion_pytorch_model.bin', folder)
            params, config = harness.through_the_command(path, name, report)
        else:
            theirs.save_pretrained(folder)
            path = Path(folder) / 'diffusion_pytorch_model.safetensors'
            published, params = harness.imported(path)
            config = published.config
            compare_former_names(theirs, params, folder, report)
    compare_images(name, theirs, config, params, report, 2 if full else harness.COUNT)
    ours = sum(leaf.size for leaf in jax.tree.leaves(params))
    parts = theirs.decoder, theirs.post_quant_conv
    report.equal(f'{name}: parameters', ours, sum(p.numel() for m in parts for p in m.parameters()))


def network(widths: tuple[int, ...]) -> torch.nn.Module:
    """The autoencoder of Stable Diffusion at other widths."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=('DownEncoderBlock2D',) * len(widths),
        up_block_types=('UpDecoderBlock2D',) * len(widths),
        layers_per_block=2,
        latent_channels=4,
        sample_size=256,
    )


def compare_images(
    name: str, theirs: Any, config: Any, params: Any, report: harness.Report, count: int
) -> None:
    """Images of random latents of 32 x 32, in float32 and in bfloat16."""
    decode = jax.jit(networks.make_latent_decoder(config))
    rounded_config = config.copy_and_resolve_references()
    rounded_config.model.dtype = 'bfloat16'
    rounded = jax.jit(networks.make_latent_decoder(rounded_config))
    rng = np.random.default_rng(0)
    worst = worst_rounded = 0.0
    for _ in range(count):
        latents = rng.normal(size=(1, 32, 32, 4)).astype(np.float32)
        expected = harness.last(theirs.decode(harness.first(latents) / 0.18215).sample)
        start = time.monotonic()
        found = np.asarray(decode(params, latents))
        seconds = time.monotonic() - start
        worst = max(worst, harness.relative(found, expected))
        worst_rounded = max(worst_rounded, harness.relative(rounded(params, latents), found))
    report.line(f'{name}: {count} images', worst, DECODED)
    report.note(f'{name}: bfloat16 against float32', f'{worst_rounded:.1e}')
    report.note(f'{name}: an image', f'{seconds:.1f} s')


def compare_former_names(theirs: Any, params: Any, folder: str, report: harness.Report) -> None:
    """The same file as diffusers wrote it before 0.13, such as sd-vae-ft-mse's."""
    state = theirs.state_dict()
    for new, former in _FORMER.items():
        state = {
            name.replace(f'attentions.0.{new}.', f'attentions.0.{former}.'): tensor
            for name, tensor in state.items()
        }
    path = Path(folder) / 'former.safetensors'
    safetensors.torch.save_file(state, path)
    former = harness.imported(path)[1]
    same = all(map(np.array_equal, jax.tree.leaves(params), jax.tree.leaves(former)))
    report.equal('decoder: the former names give the same', same, True)
