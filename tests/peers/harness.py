"""What the comparisons with original code share: random parameters, noise, differences."""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

from cfg_jax import inference, loading
from cfg_jax.keys import image_keys, per_image_noise, stream
from cfg_jax.models import networks
from cfg_jax.pretrained import importing

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS, STEPS = 1e-5, 1e-4  # largest relative differences: of a network, after ten steps
COUNT = 20  # random inputs


class Report:
    """Prints differences and remembers whether one is too large."""

    def __init__(self) -> None:
        self.failed = False

    def line(self, name: str, difference: float, limit: float) -> None:
        """One comparison."""
        wrong = not difference <= limit
        self.failed |= wrong
        print(f'{name:66} {difference:.1e}{f"  ABOVE {limit:g}" if wrong else ""}', flush=True)

    def note(self, name: str, text: str) -> None:
        """A measurement without a bar."""
        print(f'{name:66} {text}', flush=True)

    def equal(self, name: str, ours: Any, theirs: Any) -> None:
        """Two things that must be the same."""
        self.failed |= ours != theirs
        print(f'{name:66} {ours}{"" if ours == theirs else f" IS NOT {theirs}"}', flush=True)


def randomise(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter random, those that start at zero too, scaled to keep activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            values = values / np.sqrt(np.prod(parameter.shape[1:]))
        elif name.endswith('weight'):
            values = 1 + 0.3 * values
        else:
            values = 0.3 * values
        parameter.data = values
    return network.eval()


def saved(content: Any, name: str, folder: str) -> Path:
    """The file that torch.save makes."""
    path = Path(folder) / name
    torch.save(content, path)
    return path


def first(x: np.ndarray) -> torch.Tensor:
    """[B, H, W, C] -> [B, C, H, W] of PyTorch."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2)))


def last(x: torch.Tensor) -> np.ndarray:
    """[B, C, H, W] of PyTorch -> [B, H, W, C]."""
    return x.detach().numpy().transpose(0, 2, 3, 1)


def relative(ours: Any, theirs: Any) -> float:
    """Largest difference, over the largest value."""
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def worst(
    compare: Callable[[np.ndarray, int, np.ndarray], float],
    shape: Sequence[int],
    levels: Sequence[Any],
    classes: int,
) -> float:
    """The worst of compare(x [1, H, W, C], level, label [1]) over random inputs at each level."""
    rng = np.random.default_rng(0)
    return max(
        compare(
            rng.normal(size=(1, *shape)).astype(np.float32), level, rng.integers(classes, size=1)
        )
        for level in levels
    )


def noises(seed: int, indices: Sequence[int], shape: Sequence[int], steps: int) -> list[np.ndarray]:
    """Our start and then our noise of every step, each [B, H, W, C]."""
    keys = image_keys(seed, np.asarray(indices, np.uint32))
    each = stream(keys, inference._STEPS)
    drawn = [per_image_noise(stream(keys, inference._START), tuple(shape))]
    drawn += [per_image_noise(stream(each, t), tuple(shape)) for t in range(steps)]
    return [np.asarray(noise) for noise in drawn]


@contextlib.contextmanager
def injected(noise: Sequence[np.ndarray]) -> Iterator[None]:
    """torch.randn and randn_like give these, one after the other, inside the block."""
    waiting, originals = iter(noise), (torch.randn, torch.randn_like)
    torch.randn = torch.randn_like = lambda *shape, **kwargs: first(next(waiting))
    try:
        yield
    finally:
        torch.randn, torch.randn_like = originals


def imported(path: Path, settings: str = '') -> tuple[importing.Published, Any]:
    """A published file, as our command reads it, and its parameters on the device."""
    published = importing.open_published(path, settings)
    return published, jax.device_put(published.params())


class Shapes(dict):
    """A state dict of which names and shapes matter."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(self[name].shape)


def through_the_command(path: Path, name: str, report: Report, *options: str) -> tuple[Any, Any]:
    """Parameters and config by import_checkpoint.py, whose time and largest memory are reported."""
    out = path.with_suffix('.safetensors')
    command = [sys.executable, ROOT / 'scripts' / 'import_checkpoint.py', path, f'--out={out}']
    start, memory = time.monotonic(), 0.0
    with subprocess.Popen([*map(str, command), *options], stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            memory = max(memory, _peak_gib(process.pid))
            time.sleep(0.02)
    assert process.returncode == 0, f'{command} ended with status {process.returncode}'
    seconds = time.monotonic() - start
    report.note(f'{name}: import', f'{seconds:.0f} s, {memory:.2f} GiB at most')
    params, config, _ = loading.load_params(out)
    return params, config


def _peak_gib(pid: int) -> float:
    """Largest resident memory of a running program so far.

    Not getrusage: there a child begins with the memory of this process, from which it was forked.
    """
    lines = Path(f'/proc/{pid}/status').read_text().splitlines()
    peak = next((line.split()[1] for line in lines if line.startswith('VmHWM')), '0')
    return int(peak) / 2**20


def denoiser(published: importing.Published) -> Callable[..., Any]:
    """predict(params, z, logsnr, condition) of an imported model, compiled."""
    return jax.jit(networks.make_denoiser(published.config).predict)


def note_bfloat16(name: str, config: Any, params: Any, report: Report) -> None:
    """eps computed in bfloat16 against float32: root mean squares, at five levels."""
    changed = config.copy_and_resolve_references()
    changed.model.dtype = 'bfloat16'
    exact, other = (jax.jit(networks.make_denoiser(c).eps) for c in (config, changed))
    low, high = config.diffusion.logsnr_min, config.diffusion.logsnr_max
    size, rng = config.data.image_size, np.random.default_rng(0)
    found = []
    for logsnr in np.float32(np.linspace(low, high, 5)):
        z = rng.normal(size=(1, size, size, 3)).astype(np.float32)
        expected, rounded = (
            np.asarray(f(params, z, logsnr, np.int32([207]))) for f in (exact, other)
        )
        found.append(np.sqrt(np.mean((rounded - expected) ** 2) / np.mean(expected**2)))
    report.note(f'{name}: bfloat16 against float32', ', '.join(f'{error:.1e}' for error in found))


def temporary_folder() -> tempfile.TemporaryDirectory:
    """A folder that is removed at the end of a `with` block."""
    return tempfile.TemporaryDirectory(prefix='cfg_jax_peers_')
