"""The formulas of the networks' blocks in float64 NumPy; random parameters to compare at."""

import functools

import jax
import numpy as np

FAST_COMPILE = {'xla_backend_optimization_level': 0}


def randomised(module, *args, seed=0, **kwargs):
    """Parameters of the module's shapes, none of them zero, scaled to keep activations near 1."""
    rng = np.random.default_rng(seed)

    def random(path, leaf):
        name = jax.tree_util.keystr(path)
        fan_in = np.prod(leaf.shape[:-1]) if 'kernel' in name else 1
        values = rng.normal(size=leaf.shape) / np.sqrt(fan_in)
        return np.float32(1 + 0.3 * values if 'scale' in name else values)

    init = functools.partial(module.init, **kwargs)
    return jax.tree_util.tree_map_with_path(random, jax.eval_shape(init, jax.random.key(0), *args))


def compiled(fn):
    return jax.jit(fn, static_argnames='train', compiler_options=FAST_COMPILE)


def logsnr_embedding64(logsnr, width):
    """sin and cos of t f_k: t = arctan(exp(-logsnr / 2)) / (pi / 2) 1000, f_k from 1 to 1e-4."""
    t = np.arctan(np.exp(-np.asarray(logsnr, np.float64) / 2)) / (np.pi / 2) * 1000
    half = width // 2
    angles = t[:, None] * 10000.0 ** (-np.arange(half) / (half - 1))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def silu(h):
    return h / (1 + np.exp(-h))


def group_norm(h, params, groups):
    """(h - mean) / sqrt(variance + 1e-5) within each group of an example, then scale and bias."""
    split = h.reshape(h.shape[0], -1, groups, h.shape[-1] // groups)
    centred = split - split.mean(axis=(1, 3), keepdims=True)
    normed = centred / np.sqrt(split.var(axis=(1, 3), keepdims=True) + 1e-5)
    return normed.reshape(h.shape) * params['scale'] + params['bias']


def conv(h, params):
    """Zeros around: out[y, x] = bias + sum over (i, j) of h[y + i - r, x + j - r] kernel[i, j]."""
    kernel = params['kernel']
    size, (height, width) = kernel.shape[0], h.shape[1:3]
    rim = (size // 2, size // 2)
    padded = np.pad(h, ((0, 0), rim, rim, (0, 0)))
    windows = [
        padded[:, i : i + height, j : j + width] @ kernel[i, j]
        for i in range(size)
        for j in range(size)
    ]
    return sum(windows) + params['bias']


def dense(h, params):
    return h @ params['kernel'] + params['bias']


def resample(h, direction):
    batch, height, width, channels = h.shape
    if direction == 'down':  # mean of 2 x 2
        return h.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
    if direction == 'up':  # each pixel becomes 2 x 2
        return np.kron(h, np.ones((1, 2, 2, 1)))
    return h


def res_block64(h, emb, p, scale_shift_norm=True, direction=None):
    skip = resample(h, direction)
    h = conv(resample(silu(group_norm(h, p['norm_in'], 4)), direction), p['conv_in'])
    emb = dense(silu(emb), p['emb'])[:, None, None, :]
    if scale_shift_norm:
        scale, shift = np.split(emb, 2, axis=-1)
        h = group_norm(h, p['norm_out'], 4) * (1 + scale) + shift
    else:
        h = group_norm(h + emb, p['norm_out'], 4)
    h = conv(silu(h), p['conv_out'])
    return (conv(skip, p['conv_skip']) if 'conv_skip' in p else skip) + h


def averages64(height, width, deviation):
    """[H W, H W]: Gaussian weights of each position's neighbours, a row's sum 1 at edges too."""
    y, x = (places.ravel() for places in np.mgrid[:height, :width])
    squares = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    weights = np.exp(-squares / (2 * deviation**2))
    return weights / weights.sum(axis=1, keepdims=True)


def attention64(h, p, heads, averages=None):
    """Per head: softmax(q k^T / sqrt(depth)) v. q, k and v are thirds, heads parts of a third.

    q is averaged over positions by the matrix `averages`.
    """
    tokens = h.reshape(h.shape[0], -1, h.shape[-1])
    q, k, v = np.split(dense(group_norm(tokens, p['norm'], 4), p['qkv']), 3, axis=-1)
    q = q if averages is None else averages @ q
    depth = h.shape[-1] // heads
    attended = np.zeros_like(tokens)
    for b in range(len(h)):
        for head in range(heads):
            part = slice(head * depth, (head + 1) * depth)
            weights = np.exp(q[b, :, part] @ k[b, :, part].T / np.sqrt(depth))
            attended[b, :, part] = weights / weights.sum(axis=1, keepdims=True) @ v[b, :, part]
    return (tokens + dense(attended, p['proj'])).reshape(h.shape)


def to_float64(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def assert_close(actual, expected, relative=1e-5):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * scale)
    assert scale > 0.5
