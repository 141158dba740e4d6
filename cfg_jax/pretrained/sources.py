"""Where parameters come from, collected layer by layer: PyTorch's layouts to Flax's."""

from collections.abc import Callable

import numpy as np

from cfg_jax.pretrained import Source


class Sources:
    """Collects `sources`, parameter's path -> `Source`; the paths given lack 'params/'."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}

    def add(
        self,
        ours: str,
        theirs: str,
        shape: tuple[int, ...],
        convert: Callable[..., np.ndarray] = np.asarray,
        gain: str = '',
    ) -> None:
        """One parameter, from the tensor `theirs` of this shape and the number `gain`, if named."""
        self.sources[f'params/{ours}'] = Source(theirs, shape, convert, gain)

    def vectors(self, ours: str, theirs: str, channels: int) -> None:
        """Scale and bias of a normalisation."""
        self.add(f'{ours}/scale', f'{theirs}.weight', (channels,))
        self.add(f'{ours}/bias', f'{theirs}.bias', (channels,))

    def dense(self, ours: str, theirs: str, out: int, channels: int) -> None:
        """A dense layer."""
        self.add(f'{ours}/kernel', f'{theirs}.weight', (out, channels), np.transpose)
        self.add(f'{ours}/bias', f'{theirs}.bias', (out,))

    def conv(self, ours: str, theirs: str, out: int, channels: int, side: int) -> None:
        """A convolution: OIHW -> HWIO."""
        shape = (out, channels, side, side)
        self.add(f'{ours}/kernel', f'{theirs}.weight', shape, hwio)
        self.add(f'{ours}/bias', f'{theirs}.bias', (out,))

    def pointwise(
        self,
        ours: str,
        theirs: str,
        out: int,
        channels: int,
        axes: int,
        heads: int = 0,
        qkv_axis: int = 0,
    ) -> None:
        """A 1 x 1 convolution with `axes` axes as a dense layer.

        With `heads` the outputs are q, k and v, there [heads, 3, depth] (`qkv_axis` 1) or
        [heads, depth, 3] (2), here [3, heads, depth].
        """
        parts = (heads, 3, -1) if qkv_axis == 1 else (heads, -1, 3)

        def ordered(array: np.ndarray) -> np.ndarray:
            array = array.reshape(out, -1)
            if not heads:
                return array
            split = array.reshape(*parts, array.shape[1])
            return np.moveaxis(split, qkv_axis, 0).reshape(out, -1)

        shape = (out, channels, *(1,) * axes)
        self.add(f'{ours}/kernel', f'{theirs}.weight', shape, lambda kernel: ordered(kernel).T)
        self.add(f'{ours}/bias', f'{theirs}.bias', (out,), lambda bias: ordered(bias)[:, 0])


def hwio(kernel: np.ndarray) -> np.ndarray:
    """OIHW -> HWIO."""
    return kernel.transpose(2, 3, 1, 0)
