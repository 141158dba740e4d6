"""DiT and the autoencoder's decoder in float64 NumPy, after their papers and in their naming.

Parameters are drawn when a forward pass first asks for them, see `numpy_adm`.
"""

import numpy as np
from numpy_adm import Network, Spec, Tensors, silu


class DiTNetwork:
    """Patches of 2 x 2; `side` tokens a side; `weakened`: what attention is instead, by block."""

    def __init__(
        self,
        width=24,
        depth=2,
        heads=3,
        side=4,
        channels=4,
        out=8,
        rows=6,
        seed=0,
        weakened=(),
    ):
        self.width, self.depth, self.heads, self.side = width, depth, heads, side
        self.channels, self.out, self.rows = channels, out, rows
        self.tensors, self.weakened = Tensors(seed), dict(weakened)

    def forward(self, x, time, labels):
        """x [B, C, 2 side, 2 side], time [B], labels [B] -> [B, out, 2 side, 2 side]."""
        batch, side, width = len(x), self.side, self.width
        kernel = self.tensors.of('x_embedder.proj.weight', width, self.channels, 2, 2)
        patches = x.reshape(batch, self.channels, side, 2, side, 2)
        h = np.einsum('bcipjq,dcpq->bijd', patches, kernel).reshape(batch, side**2, width)
        h = h + self.tensors.of('x_embedder.proj.bias', width)
        h = h + self.tensors.of('pos_embed', 1, side**2, width)
        table = self.tensors.of('y_embedder.embedding_table.weight', self.rows, width)
        emb = silu(self.embed(time) + table[labels])
        for number in range(self.depth):
            h = self.block(f'blocks.{number}', h, emb)
        shift, scale = self.modulation('final_layer', emb, 2)
        h = self.linear('final_layer.linear', norm(h) * (1 + scale) + shift, 4 * self.out)
        h = h.reshape(batch, side, side, 2, 2, self.out)
        return h.transpose(0, 5, 1, 3, 2, 4).reshape(batch, self.out, 2 * side, 2 * side)

    def embed(self, time):
        frequencies = np.exp(-np.log(10000.0) * np.arange(128) / 128)
        angles = np.asarray(time, np.float64)[:, None] * frequencies
        emb = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
        emb = silu(self.linear('t_embedder.mlp.0', emb, self.width))
        return self.linear('t_embedder.mlp.2', emb, self.width)

    def modulation(self, name, emb, parts):
        both = self.linear(f'{name}.adaLN_modulation.1', emb, parts * self.width)
        return np.split(both[:, None, :], parts, axis=2)

    def block(self, name, h, emb):
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.modulation(name, emb, 6)
        kind = self.weakened.get(name)
        if kind != 'skip':
            qkv = self.linear(f'{name}.attn.qkv', norm(h) * (1 + scale) + shift, 3 * self.width)
            q, k, v = np.split(qkv, 3, axis=2)
            mixed = v if kind == 'identity' else self.attended(q, k, v)
            h = h + gate * self.linear(f'{name}.attn.proj', mixed, self.width)
        inner = self.linear(
            f'{name}.mlp.fc1', norm(h) * (1 + scale_mlp) + shift_mlp, 4 * self.width
        )
        return h + gate_mlp * self.linear(f'{name}.mlp.fc2', gelu(inner), self.width)

    def attended(self, *qkv):
        batch, length, width = qkv[0].shape
        split = (part.reshape(batch, length, self.heads, -1) for part in qkv)
        return softmax_product(*split).reshape(batch, length, width)

    def linear(self, name, h, out):
        kernel = self.tensors.of(f'{name}.weight', out, h.shape[-1])
        return h @ kernel.T + self.tensors.of(f'{name}.bias', out)


class DecoderNetwork(Network):
    """Channels of each level, that of the images first; group norms of 32 groups."""

    def __init__(self, channels=(32, 64), blocks=2, latents=4, former_names=False):
        super().__init__(Spec())
        self.channels, self.blocks, self.latents = channels, blocks, latents
        self.names = {'q': 'to_q', 'k': 'to_k', 'v': 'to_v', 'proj': 'to_out.0'}
        if former_names:
            self.names = {'q': 'query', 'k': 'key', 'v': 'value', 'proj': 'proj_attn'}

    def forward(self, latents):
        """[B, latents, H, W] -> [B, 3, f H, f W]."""
        h = self.conv('post_quant_conv', latents, self.latents, 1)
        h = self.conv('decoder.conv_in', h, self.channels[-1], 3)
        middle = 'decoder.mid_block'
        h = self.resnet(f'{middle}.resnets.0', h, self.channels[-1])
        h = h + self.attention(f'{middle}.attentions.0', h)
        h = self.resnet(f'{middle}.resnets.1', h, self.channels[-1])
        for number, out in enumerate(reversed(self.channels)):
            up = f'decoder.up_blocks.{number}'
            for block in range(self.blocks):
                h = self.resnet(f'{up}.resnets.{block}', h, out)
            if number < len(self.channels) - 1:
                h = self.conv(f'{up}.upsamplers.0.conv', h.repeat(2, 2).repeat(2, 3), out, 3)
        return self.conv('decoder.conv_out', silu(self.norm('decoder.conv_norm_out', h)), 3, 3)

    def resnet(self, name, h, out):
        inner = self.conv(f'{name}.conv1', silu(self.norm(f'{name}.norm1', h)), out, 3)
        inner = self.conv(f'{name}.conv2', silu(self.norm(f'{name}.norm2', inner)), out, 3)
        if h.shape[1] != out:
            h = self.conv(f'{name}.conv_shortcut', h, out, 1)
        return h + inner

    def attention(self, name, h):
        batch, channels = h.shape[:2]
        tokens = self.norm(f'{name}.group_norm', h).reshape(batch, channels, -1).swapaxes(1, 2)
        q, k, v = (
            self.tokenwise(f'{name}.{self.names[part]}', tokens)[:, :, None] for part in 'qkv'
        )
        out = softmax_product(q, k, v)[:, :, 0]
        return self.tokenwise(f'{name}.{self.names["proj"]}', out).swapaxes(1, 2).reshape(h.shape)

    def tokenwise(self, name, h):
        kernel = self.tensors.of(f'{name}.weight', h.shape[-1], h.shape[-1])
        return h @ kernel.T + self.tensors.of(f'{name}.bias', h.shape[-1])


def softmax_product(q, k, v):
    """softmax(q k^T / sqrt(C)) v, [B, T, heads, C]."""
    weights = np.exp(np.einsum('btnc,bsnc->bnts', q, k) / np.sqrt(q.shape[-1]))
    weights /= weights.sum(axis=3, keepdims=True)
    return np.einsum('bnts,bsnc->btnc', weights, v)


def norm(h):
    """Over the features, without parameters."""
    return (h - h.mean(axis=-1, keepdims=True)) / np.sqrt(h.var(axis=-1, keepdims=True) + 1e-6)


def gelu(h):
    """By the tangent, as DiT's."""
    return 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
