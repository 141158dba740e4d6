"""guided-diffusion's networks in float64 NumPy, after the paper's appendix and in its naming.

Channels first, as there. Parameters are drawn when a forward pass first asks for them, so that a
pass also writes down the names and shapes of a whole state dict.
"""

import dataclasses

import numpy as np

GROUPS = 32


class Tensors(dict):
    """Random float32 parameters by name, scaled to keep activations near 1; none is zero."""

    def __init__(self, seed=0):
        super().__init__()
        self._rng = np.random.default_rng(seed)

    def of(self, name, *shape):
        """The tensor `name` of this shape, in float64."""
        if name not in self:
            values = self._rng.normal(size=shape)
            if name.endswith('bias'):
                values = 0.3 * values
            elif len(shape) == 1:  # of a normalisation
                values = 1 + 0.3 * values
            else:
                values = values / np.sqrt(np.prod(shape[1:]))
            self[name] = values.astype(np.float32)
        assert self[name].shape == shape, name
        return self[name].astype(np.float64)


@dataclasses.dataclass(frozen=True)
class Spec:
    """A network of guided-diffusion."""

    width: int = 32
    mult: tuple = (1, 2)
    res_blocks: int = 1
    attention: tuple = (False, True)
    heads: int = 2
    new_order: bool = False
    updown: bool = True
    scale_shift: bool = True
    labels: int = 5
    out: int = 6
    pointwise: tuple = (1,)


class Network:
    """U-Net and classifier of a `Spec`."""

    def __init__(self, spec, seed=0):
        self.spec, self.tensors = spec, Tensors(seed)

    def unet(self, x, time, labels=None):
        """x [B, C, H, W], time [B] -> [B, out, H, W]."""
        spec = self.spec
        emb = self.embed(time)
        if spec.labels:
            emb = emb + self.tensors.of('label_emb.weight', spec.labels, emb.shape[1])[labels]
        h, skips = self.down(x, emb)
        number = 0
        for level in reversed(range(len(spec.mult))):
            for block in range(spec.res_blocks + 1):
                h = np.concatenate([h, skips.pop()], axis=1)
                name = f'output_blocks.{number}'
                h = self.block(name, h, emb, level)
                if level and block == spec.res_blocks:
                    place = f'{name}.{2 if spec.attention[level] else 1}'
                    h = self.resample(place, h, emb, 'up')
                number += 1
        h = silu(self.norm('out.0', h))
        return self.conv('out.2', h, spec.out, 3)

    def classifier(self, x, time):
        """x [B, C, H, W], time [B] -> logits [B, out]."""
        h, _ = self.down(x, self.embed(time))
        h = silu(self.norm('out.0', h))
        batch, channels = h.shape[:2]
        h = h.reshape(batch, channels, -1)
        h = np.concatenate([h.mean(axis=2, keepdims=True), h], axis=2)
        h = h + self.tensors.of('out.2.positional_embedding', channels, h.shape[2])
        qkv = self.pointwise('out.2.qkv_proj', h, 3 * channels, (1,))
        h = attention(qkv, self.spec.heads, new_order=True)
        return self.pointwise('out.2.c_proj', h, self.spec.out, (1,))[:, :, 0]

    def embed(self, time):
        width = self.spec.width
        frequencies = 10000.0 ** (-np.arange(width // 2) / (width // 2))
        angles = np.asarray(time, np.float64)[:, None] * frequencies
        emb = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
        emb = silu(self.linear('time_embed.0', emb, 4 * width))
        return self.linear('time_embed.2', emb, 4 * width)

    def down(self, x, emb):
        spec = self.spec
        h = self.conv('input_blocks.0.0', x, round(spec.width * spec.mult[0]), 3)
        skips, number = [h], 1
        for level in range(len(spec.mult)):
            for _ in range(spec.res_blocks):
                h = self.block(f'input_blocks.{number}', h, emb, level)
                skips.append(h)
                number += 1
            if level != len(spec.mult) - 1:
                h = self.resample(f'input_blocks.{number}.0', h, emb, 'down')
                skips.append(h)
                number += 1
        h = self.res('middle_block.0', h, emb, h.shape[1])
        h = self.attention_block('middle_block.1', h)
        return self.res('middle_block.2', h, emb, h.shape[1]), skips

    def block(self, name, h, emb, level):
        h = self.res(f'{name}.0', h, emb, round(self.spec.width * self.spec.mult[level]))
        return self.attention_block(f'{name}.1', h) if self.spec.attention[level] else h

    def resample(self, name, h, emb, direction):
        if self.spec.updown:
            return self.res(name, h, emb, h.shape[1], direction)
        if direction == 'up':
            return self.conv(f'{name}.conv', resized(h, 'up'), h.shape[1], 3)
        return self.conv(f'{name}.op', h, h.shape[1], 3)[:, :, ::2, ::2]

    def res(self, name, h, emb, out, direction=None):
        skip = resized(h, direction)
        h = resized(silu(self.norm(f'{name}.in_layers.0', h)), direction)
        h = self.conv(f'{name}.in_layers.2', h, out, 3)
        features = 2 * out if self.spec.scale_shift else out
        added = self.linear(f'{name}.emb_layers.1', silu(emb), features)[:, :, None, None]
        if self.spec.scale_shift:
            scale, shift = np.split(added, 2, axis=1)
            h = self.norm(f'{name}.out_layers.0', h) * (1 + scale) + shift
        else:
            h = self.norm(f'{name}.out_layers.0', h + added)
        h = self.conv(f'{name}.out_layers.3', silu(h), out, 3)
        if skip.shape[1] != out:
            skip = self.conv(f'{name}.skip_connection', skip, out, 1)
        return skip + h

    def attention_block(self, name, h):
        channels = h.shape[1]
        qkv = self.norm(f'{name}.norm', h).reshape(h.shape[0], channels, -1)
        qkv = self.pointwise(f'{name}.qkv', qkv, 3 * channels, self.spec.pointwise)
        out = attention(qkv, self.spec.heads, self.spec.new_order)
        out = self.pointwise(f'{name}.proj_out', out, channels, self.spec.pointwise)
        return h + out.reshape(h.shape)

    def norm(self, name, h):
        split = h.reshape(h.shape[0], GROUPS, -1)
        centred = split - split.mean(axis=2, keepdims=True)
        h = (centred / np.sqrt(split.var(axis=2, keepdims=True) + 1e-5)).reshape(h.shape)
        gain, bias = (self.tensors.of(f'{name}.{n}', h.shape[1]) for n in ('weight', 'bias'))
        return h * gain[:, None, None] + bias[:, None, None]

    def linear(self, name, h, out):
        kernel = self.tensors.of(f'{name}.weight', out, h.shape[1])
        return h @ kernel.T + self.tensors.of(f'{name}.bias', out)

    def pointwise(self, name, h, out, axes):
        kernel = self.tensors.of(f'{name}.weight', out, h.shape[1], *axes)
        bias = self.tensors.of(f'{name}.bias', out)
        return np.einsum('oi,bit->bot', kernel.reshape(out, -1), h) + bias[:, None]

    def conv(self, name, h, out, side):
        kernel = self.tensors.of(f'{name}.weight', out, h.shape[1], side, side)
        return convolved(h, kernel) + self.tensors.of(f'{name}.bias', out)[:, None, None]


def convolved(h, kernel):
    """h [B, C, H, W] and kernel [O, C, side, side] -> [B, O, H, W]."""
    side, (height, width) = kernel.shape[2], h.shape[2:]
    padded = np.pad(h, ((0, 0), (0, 0), (side // 2, side // 2), (side // 2, side // 2)))
    total = 0
    for i in range(side):
        for j in range(side):
            window = padded[:, :, i : i + height, j : j + width]
            total = total + np.tensordot(kernel[:, :, i, j], window, (1, 1))
    return np.swapaxes(total, 0, 1)


def attention(qkv, heads, new_order):
    """qkv [B, 3 C, T] -> [B, C, T]; rows are (3, heads, depth) or, before, (heads, 3, depth)."""
    batch, width, length = qkv.shape
    if new_order:
        parts = qkv.reshape(batch, 3, heads, -1, length)
    else:
        parts = qkv.reshape(batch, heads, 3, -1, length).swapaxes(1, 2)
    q, k, v = parts[:, 0], parts[:, 1], parts[:, 2]
    weights = np.exp(np.einsum('bnct,bncs->bnts', q, k) / np.sqrt(q.shape[2]))
    weights /= weights.sum(axis=3, keepdims=True)
    return np.einsum('bnts,bncs->bnct', weights, v).reshape(batch, width // 3, length)


def silu(h):
    return h / (1 + np.exp(-h))


def resized(h, direction):
    if direction == 'up':
        return h.repeat(2, axis=2).repeat(2, axis=3)
    if direction == 'down':
        return (
            h[:, :, ::2, ::2] + h[:, :, 1::2, ::2] + h[:, :, ::2, 1::2] + h[:, :, 1::2, 1::2]
        ) / 4
    return h
