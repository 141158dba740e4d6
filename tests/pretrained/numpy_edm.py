"""EDM's and EDM2's networks in float64 NumPy, after the papers, in their code's naming."""

import numpy as np
from numpy_adm import Network, Tensors, convolved, resized, silu


class EDMNetwork(Network):
    """DhariwalUNet of NVlabs/edm: ADM's network, laid out by resolution."""

    size = 16

    def unet(self, x, time, labels=None):
        spec = self.spec
        emb = self.embed(time)
        if spec.labels:
            kernel = self.tensors.of('model.map_label.weight', emb.shape[1], spec.labels)
            emb = emb + kernel[:, labels].T
        widths = [round(spec.width * mult) for mult in spec.mult]
        h = self.conv(f'model.enc.{self.side(0)}_conv', x, widths[0], 3)
        skips = [h]
        for level in range(len(widths)):
            if level:
                h = self.res(f'model.enc.{self.side(level)}_down', h, emb, h.shape[1], 'down')
                skips.append(h)
            for block in range(spec.res_blocks):
                h = self.stage(f'model.enc.{self.side(level)}_block{block}', h, emb, level)
                skips.append(h)
        last = len(widths) - 1
        h = self.res(f'model.dec.{self.side(last)}_in0', h, emb, h.shape[1])
        h = self.attention_block(f'model.dec.{self.side(last)}_in0', h)
        h = self.res(f'model.dec.{self.side(last)}_in1', h, emb, h.shape[1])
        for level in reversed(range(len(widths))):
            if level != last:
                h = self.res(f'model.dec.{self.side(level)}_up', h, emb, h.shape[1], 'up')
            for block in range(spec.res_blocks + 1):
                h = np.concatenate([h, skips.pop()], axis=1)
                h = self.stage(f'model.dec.{self.side(level)}_block{block}', h, emb, level)
        return self.conv('model.out_conv', silu(self.norm('model.out_norm', h)), spec.out, 3)

    def denoised(self, y, s, labels):
        """The image that EDM's preconditioning makes of y = x + s n; s [B]."""
        s = np.asarray(s, np.float64)[:, None, None, None]
        inside = 1 / np.sqrt(s**2 + 0.25)
        out = self.unet(inside * y, np.log(s[:, 0, 0, 0]) / 4, labels)
        return 0.25 * inside**2 * y + 0.5 * s * inside * out

    def side(self, level):
        side = self.size >> level
        return f'{side}x{side}'

    def stage(self, name, h, emb, level):
        h = self.res(name, h, emb, round(self.spec.width * self.spec.mult[level]))
        return self.attention_block(name, h) if self.spec.attention[level] else h

    def embed(self, time):
        width = self.spec.width
        frequencies = 10000.0 ** (-np.arange(width // 2) / (width // 2))
        angles = np.asarray(time, np.float64)[:, None] * frequencies
        emb = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
        emb = silu(self.linear('model.map_layer0', emb, 4 * width))
        return self.linear('model.map_layer1', emb, 4 * width)

    def res(self, name, h, emb, out, direction=None):
        skip = resized(h, direction)
        h = self.conv(
            f'{name}.conv0', resized(silu(self.norm(f'{name}.norm0', h)), direction), out, 3
        )
        scale, shift = np.split(self.linear(f'{name}.affine', silu(emb), 2 * out), 2, axis=1)
        scale, shift = scale[:, :, None, None], shift[:, :, None, None]
        h = silu(self.norm(f'{name}.norm1', h) * (1 + scale) + shift)
        h = self.conv(f'{name}.conv1', h, out, 3)
        return h + (self.conv(f'{name}.skip', skip, out, 1) if skip.shape[1] != out else skip)

    def attention_block(self, name, h):
        batch, channels = h.shape[:2]
        flat = self.norm(f'{name}.norm2', h).reshape(batch, channels, -1)
        qkv = self.pointwise(f'{name}.qkv', flat, 3 * channels, (1, 1))
        # A head's channels hold q, k and v in turn.
        q, k, v = np.moveaxis(qkv.reshape(batch, self.spec.heads, -1, 3, flat.shape[2]), 3, 0)
        out = attended(q, k, v).reshape(batch, channels, -1)
        return h + self.pointwise(f'{name}.proj', out, channels, (1, 1)).reshape(h.shape)


class EDM2Network:
    """EDM2's U-Net (figure 21 of its paper): weights normalised whenever they are used."""

    def __init__(self, width=32, mult=(1, 2), blocks=1, attention=(False, True), heads=2, labels=5):
        self.width, self.mult, self.blocks, self.attends = width, mult, blocks, attention
        self.heads, self.labels, self.size = heads, labels, 16
        self.tensors = Tensors(0)

    def denoised(self, y, s, labels=None):
        """The image that EDM's preconditioning makes of y = x + s n; s [B]."""
        s = np.asarray(s, np.float64)[:, None, None, None]
        inside = 1 / np.sqrt(s**2 + 0.25)
        out = self.unet(inside * y, np.log(s[:, 0, 0, 0]) / 4, labels)
        return 0.25 * inside**2 * y + 0.5 * s * inside * out

    def unet(self, x, time, labels):
        emb = self.embed(time, labels)
        widths = [self.width * mult for mult in self.mult]
        h = np.concatenate([x, np.ones_like(x[:, :1])], axis=1)
        h = self.conv(f'unet.enc.{self.side(0)}_conv', h, widths[0], 3)
        skips = [h]
        for level, width in enumerate(widths):
            if level:
                h = self.block(f'unet.enc.{self.side(level)}_down', h, emb, h.shape[1], 'down')
                skips.append(h)
            for block in range(self.blocks):
                name, heads = f'unet.enc.{self.side(level)}_block{block}', self.heads_at(level)
                h = self.block(name, h, emb, width, heads=heads)
                skips.append(h)
        last = len(widths) - 1
        for block, heads in ('in0', self.heads), ('in1', 0):
            h = self.block(f'unet.dec.{self.side(last)}_{block}', h, emb, h.shape[1], 'dec', heads)
        for level in reversed(range(len(widths))):
            if level != last:
                h = self.block(f'unet.dec.{self.side(level)}_up', h, emb, h.shape[1], 'up')
            for block in range(self.blocks + 1):
                skip = skips.pop()
                a, b = h.shape[1], skip.shape[1]
                scale = np.sqrt((a + b) / 0.5) * 0.5
                h = np.concatenate([scale / np.sqrt(a) * h, scale / np.sqrt(b) * skip], axis=1)
                name, heads = f'unet.dec.{self.side(level)}_block{block}', self.heads_at(level)
                h = self.block(name, h, emb, widths[level], 'dec', heads)
        return self.conv('unet.out_conv', h, x.shape[1], 3, self.tensors.of('unet.out_gain'))

    def block(self, name, h, emb, out, kind='enc', heads=0):
        h = resized(h, kind)
        encoder = kind in ('enc', 'down')
        skip = self.conv(f'{name}.conv_skip', h, out, 1) if h.shape[1] != out else h
        if encoder:
            h = skip = normalised(skip, 1)
        branch = self.conv(f'{name}.conv_res0', mp_silu(h), out, 3)
        gain = self.linear(f'{name}.emb_linear', emb, out, self.tensors.of(f'{name}.emb_gain')) + 1
        branch = self.conv(f'{name}.conv_res1', mp_silu(branch * gain[:, :, None, None]), out, 3)
        h = mp_sum(skip, branch, 0.3)
        if heads:
            qkv = self.conv(f'{name}.attn_qkv', h, 3 * out, 1)
            split = qkv.reshape(len(h), heads, out // heads, 3, -1)
            q, k, v = np.moveaxis(normalised(split, 2), 3, 0)
            y = attended(q, k, v).reshape(h.shape)
            h = mp_sum(h, self.conv(f'{name}.attn_proj', y, out, 1), 0.3)
        return np.clip(h, -256, 256)

    def embed(self, time, labels):
        width, features = self.width * self.mult[0], self.width * max(self.mult)
        frequencies = self.tensors.of('unet.emb_fourier.freqs', width)
        phases = self.tensors.of('unet.emb_fourier.phases', width)
        emb = np.sqrt(2) * np.cos(np.asarray(time)[:, None] * frequencies + phases)
        emb = self.linear('unet.emb_noise', emb, features)
        if self.labels:
            one_hot = np.eye(self.labels)[labels] * np.sqrt(self.labels)
            emb = mp_sum(emb, self.linear('unet.emb_label', one_hot, features), 0.5)
        return mp_silu(emb)

    def heads_at(self, level):
        return self.heads * self.mult[level] // self.mult[-1] if self.attends[level] else 0

    def side(self, level):
        side = self.size >> level
        return f'{side}x{side}'

    def linear(self, name, h, out, gain=1.0):
        kernel = self.tensors.of(f'{name}.weight', out, h.shape[1])
        return h @ (in_float16(gain, kernel) * normalised_weight(kernel)).T

    def conv(self, name, h, out, side, gain=1.0):
        kernel = self.tensors.of(f'{name}.weight', out, h.shape[1], side, side)
        return convolved(h, in_float16(gain, kernel) * normalised_weight(kernel))


def in_float16(gain, kernel):
    """A gain as it acts: divided by sqrt(n) it is a number of the file's type again."""
    if gain == 1.0:  # no parameter
        return gain
    root = np.sqrt(kernel[0].size)
    return np.float64(np.float16(gain / root)) * root


def normalised(h, axis):
    norm = np.sqrt((h**2).sum(axis=axis, keepdims=True))
    return h / (1e-4 + norm / np.sqrt(h.shape[axis]))


def normalised_weight(kernel):
    flat = kernel.reshape(len(kernel), -1)
    return (normalised(flat, 1) / np.sqrt(flat.shape[1])).reshape(kernel.shape)


def mp_silu(h):
    return silu(h) / 0.596


def mp_sum(a, b, share):
    return ((1 - share) * a + share * b) / np.sqrt((1 - share) ** 2 + share**2)


def attended(q, k, v):
    """q, k, v [B, heads, depth, T] -> [B, heads, depth, T]."""
    weights = np.exp(np.einsum('bnct,bncs->bnts', q, k) / np.sqrt(q.shape[2]))
    weights /= weights.sum(axis=3, keepdims=True)
    return np.einsum('bnts,bncs->bnct', weights, v)
