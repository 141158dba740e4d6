"""The PyTorch side of bench_peers.py, which calls it: openai/guided-diffusion's U-Net, timed.

    python scripts/torch_peer.py --peer=guided-diffusion --case=CASE --variants=eager,compile

Reads CASE/case.json and CASE/case.npz (shapes, parameters in our names, inputs, our outputs),
gives the peer's U-Net the same parameters, reports how far its output is from ours, and measures
training and guided sampling. Needs PyTorch and NumPy only; it prints one line of JSON.

Variants: 'eager' is the peer as it is published; 'tuned' is channels-last, computes attention by
PyTorch's fused scaled_dot_product_attention and keeps its activations, which the peer recomputes;
'compile' is 'tuned' through torch.compile. All: bf16 autocast where the config computes in
bfloat16, fused Adam, clipping by global norm, EMA through multi-tensor operations.
"""

import argparse
import contextlib
import json
import math
import sys
import time
from pathlib import Path

import numpy as np

try:
    import torch
    from torch.nn import functional
except ModuleNotFoundError:
    print('error: torch_peer.py runs in a Python with PyTorch: pip install torch', file=sys.stderr)
    sys.exit(2)

VARIANTS = ('eager', 'tuned', 'compile')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--peer', required=True, help='a checkout of openai/guided-diffusion')
    parser.add_argument('--case', required=True, help='directory that bench_peers.py wrote')
    parser.add_argument('--variants', default=','.join(VARIANTS))
    options = parser.parse_args()
    sys.path.insert(0, options.peer)
    case = json.loads((Path(options.case) / 'case.json').read_text())
    arrays = dict(np.load(Path(options.case) / 'case.npz'))
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    results = {'torch': torch.__version__, 'device': _device_name(device), 'variants': {}}
    # In their own order: what 'tuned' replaces in the peer stays replaced.
    for variant in (v for v in VARIANTS if v in options.variants.split(',')):
        net = load_unet(case, arrays, variant).to(device)
        if variant != 'eager':
            net = net.to(memory_format=torch.channels_last)
        # Static shapes: training is not to run on what was compiled for any batch.
        called = torch.compile(net, dynamic=False) if variant == 'compile' else net
        measured = results['variants'][variant] = {
            'max_difference': difference(called, arrays, device)
        }
        # Sampling before training, which changes the parameters.
        for work, measure in (('sampling', time_sampling), ('training', time_training)):
            if work in case['work']:
                measured[work] = measure(called, case, device)
    print(json.dumps(results))


def load_unet(case: dict, arrays: dict[str, np.ndarray], variant: str) -> torch.nn.Module:
    """The peer's U-Net with our parameters, as `variant` has it."""
    from guided_diffusion import unet

    unet.timestep_embedding = logsnr_features
    unet.normalization = lambda channels: unet_norm(case['norm_groups'], channels)
    if variant != 'eager':
        unet.checkpoint = lambda fn, inputs, params, flag: fn(*inputs)
        unet.QKVAttention.forward = fused_attention
    net = unet.UNetModel(
        image_size=case['image_size'],
        in_channels=case['channels'],
        model_channels=case['width'],
        out_channels=case['channels'],
        num_res_blocks=case['num_res_blocks'],
        attention_resolutions=[case['image_size'] // r for r in case['attention_resolutions']],
        dropout=case['dropout'],
        channel_mult=case['channel_mult'],
        num_classes=case['num_classes'] + 1,  # the null token is a class of its own
        num_heads=case['num_heads'] or 1,
        num_head_channels=case['head_channels'] or -1,
        use_scale_shift_norm=True,
        resblock_updown=True,
        use_new_attention_order=True,
    )
    net.load_state_dict(state_dict(arrays, case), strict=True)
    return net


def unet_norm(groups: int, channels: int) -> torch.nn.Module:
    """The peer's group norm, whose number of groups is fixed at 32, with that of the config."""
    from guided_diffusion.nn import GroupNorm32

    return GroupNorm32(groups, channels)


def logsnr_features(logsnr: torch.Tensor, width: int) -> torch.Tensor:
    """Our sinusoidal features of log-SNR [B] -> [B, width], in place of the peer's of t."""
    t = torch.arctan(torch.exp(-0.5 * logsnr)) / (math.pi / 2) * 1000.0
    half = width // 2
    steps = torch.arange(half, device=logsnr.device, dtype=torch.float32)
    angles = t[:, None] * torch.exp(-math.log(10000.0) / (half - 1) * steps)
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)


def fused_attention(self, qkv: torch.Tensor) -> torch.Tensor:
    """[B, 3 H C, T] -> [B, H C, T], in place of the peer's einsums."""
    batch, width, length = qkv.shape
    shape = batch, length, 3, self.n_heads, width // (3 * self.n_heads)
    # The fused kernels want channels last in memory.
    q, k, v = qkv.transpose(1, 2).reshape(shape).permute(2, 0, 3, 1, 4)  # each [B, H, T, C]
    attended = functional.scaled_dot_product_attention(q, k, v)
    return attended.permute(0, 1, 3, 2).reshape(batch, -1, length)


def state_dict(arrays: dict[str, np.ndarray], case: dict) -> dict[str, torch.Tensor]:
    """The peer's parameters out of ours."""
    mult, blocks, size = case['channel_mult'], case['num_res_blocks'], case['image_size']
    theirs = {
        'logsnr_0': 'time_embed.0',
        'logsnr_1': 'time_embed.2',
        'label': 'label_emb',
        'conv_in': 'input_blocks.0.0',
        'middle_0': 'middle_block.0',
        'middle_attention': 'middle_block.1',
        'middle_1': 'middle_block.2',
        'norm_out': 'out.0',
        'conv_out': 'out.2',
    }
    number = 1
    for level in range(len(mult)):
        for block in range(blocks):
            theirs[f'down_{level}_{block}'] = f'input_blocks.{number}.0'
            theirs[f'down_{level}_{block}_attention'] = f'input_blocks.{number}.1'
            number += 1
        theirs[f'down_{level}_resample'] = f'input_blocks.{number}.0'
        number += level < len(mult) - 1
    number = 0
    for level in reversed(range(len(mult))):
        attends = size >> level in case['attention_resolutions']
        for block in range(blocks + 1):
            theirs[f'up_{level}_{block}'] = f'output_blocks.{number}.0'
            theirs[f'up_{level}_{block}_attention'] = f'output_blocks.{number}.1'
            number += 1
        theirs[f'up_{level}_resample'] = f'output_blocks.{number - 1}.{1 + attends}'
    inner = {
        'norm_in': 'in_layers.0',
        'conv_in': 'in_layers.2',
        'emb': 'emb_layers.1',
        'norm_out': 'out_layers.0',
        'conv_out': 'out_layers.3',
        'conv_skip': 'skip_connection',
        'norm': 'norm',
        'qkv': 'qkv',
        'proj': 'proj_out',
    }
    state = {}
    for name, array in arrays.items():
        if not name.startswith('params/'):
            continue
        _, *modules, leaf = name.split('/')
        path = [theirs[modules[0]], *(inner[module] for module in modules[1:])]
        kind = 'bias' if leaf == 'bias' else 'weight'
        state['.'.join([*path, kind])] = torch.from_numpy(_their_layout(array, modules, leaf))
    return state


def _their_layout(array: np.ndarray, modules: list[str], leaf: str) -> np.ndarray:
    if leaf != 'kernel':
        return array
    if array.ndim == 4:  # convolution [h, w, in, out] -> [out, in, h, w]
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    array = np.ascontiguousarray(array.T)  # dense [in, out] -> [out, in]
    return array[:, :, None] if modules[-1] in ('qkv', 'proj') else array  # there a convolution


def difference(net: torch.nn.Module, arrays: dict[str, np.ndarray], device: str) -> float:
    """Largest difference from our output in float32, relative to its largest value."""
    z = torch.from_numpy(arrays['z']).permute(0, 3, 1, 2).contiguous().to(device)
    logsnr, label = (torch.from_numpy(arrays[name]).to(device) for name in ('logsnr', 'label'))
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with torch.no_grad():
        eps = net.eval()(z, logsnr, label.long()).permute(0, 2, 3, 1).cpu().numpy()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    net.train()
    return float(np.abs(eps - arrays['eps']).max() / np.abs(arrays['eps']).max())


def time_training(net, case: dict, device: str) -> dict:
    """Images/s of Algorithm 1's step, rounds of `steps` steps each."""
    batch, shape = case['train_batch'], (case['channels'], case['image_size'], case['image_size'])
    net.train()
    params = list(net.parameters())
    ema = [p.detach().clone() for p in params]
    optimizer = torch.optim.Adam(
        params,
        lr=case['learning_rate'],
        betas=(case['beta1'], case['beta2']),
        eps=case['adam_eps'],
        fused=True,
    )
    x = torch.rand(batch, *shape, device=device) * 2 - 1
    label = torch.randint(case['num_classes'], (batch,), device=device)

    def step() -> None:
        logsnr = logsnr_cosine(torch.rand(batch, device=device), case)
        null = torch.rand(batch, device=device) < case['p_uncond']
        eps = torch.randn_like(x)
        alpha, sigma = alpha_sigma(logsnr[:, None, None, None])
        with autocast(case, device):
            given = torch.where(null, case['num_classes'], label)
            out = net(alpha * x + sigma * eps, logsnr, given)
        loss = functional.mse_loss(out.float(), eps)
        optimizer.zero_grad(set_to_none=True)
        # The published attention is computed again in here, and not by itself in the same types.
        with autocast(case, device):
            loss.backward()
        if any(p.grad is None for p in params):
            raise RuntimeError('the peer left parameters without a gradient')
        torch.nn.utils.clip_grad_norm_(params, case['grad_clip'], foreach=True)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(ema, params, 1 - case['ema_decay'])

    return _rounds(step, batch * case['steps'], case['steps'], case['rounds'], device)


def time_sampling(net, case: dict, device: str) -> dict:
    """Images/s of Algorithm 2 with both branches in one batch, rounds of one trajectory each."""
    batch, size, steps = case['sample_batch'], case['image_size'], case['num_steps']
    shape = (batch, case['channels'], size, size)
    label = torch.randint(case['num_classes'], (batch,), device=device)
    both_labels = torch.cat([label, torch.full_like(label, case['num_classes'])])
    u = torch.linspace(1.0, 0.0, steps, dtype=torch.float64)
    levels = logsnr_cosine(u, case).float().to(device)

    @torch.no_grad()
    def sample() -> None:
        z = torch.randn(shape, device=device)
        for t in range(steps):
            logsnr, prime = levels[t], levels[min(t + 1, steps - 1)]
            with autocast(case, device):
                out = net(torch.cat([z, z]), logsnr.expand(2 * batch), both_labels)
            eps_cond, eps_uncond = out.float().chunk(2)
            eps = (1 + case['w']) * eps_cond - case['w'] * eps_uncond
            alpha, sigma = alpha_sigma(logsnr)
            x = ((z - sigma * eps) / alpha).clamp(-1, 1)
            if t == steps - 1:
                break
            alpha_p, sigma_p = alpha_sigma(prime)
            r = torch.exp(logsnr - prime)
            mean = r * alpha_p / alpha * z + (1 - r) * alpha_p * x
            std = torch.sqrt(1 - r) * sigma_p ** (1 - case['v']) * sigma ** case['v']
            z = mean + std * torch.randn_like(z)
        x.add(1).mul(127.5).round().to(torch.uint8).cpu()

    net.eval()
    return _rounds(sample, batch, 1, case['rounds'], device)


def _rounds(step, images: int, steps: int, rounds: int, device: str) -> dict:
    start = time.perf_counter()
    step()
    _wait(device)
    first = time.perf_counter() - start
    step()
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    rates = []
    for _ in range(rounds):
        _wait(device)
        start = time.perf_counter()
        for _ in range(steps):
            step()
        _wait(device)
        rates.append(images / (time.perf_counter() - start))
    result = {'images_per_second': sorted(rates)[len(rates) // 2], 'rounds': rates}
    result['first_seconds'] = first
    if device == 'cuda':
        result['peak_memory_gib'] = torch.cuda.max_memory_allocated() / 2**30
    return result


def logsnr_cosine(u: torch.Tensor, case: dict) -> torch.Tensor:
    """Cosine schedule, section 2 of the paper."""
    b = math.atan(math.exp(-0.5 * case['logsnr_max']))
    a = math.atan(math.exp(-0.5 * case['logsnr_min'])) - b
    return -2.0 * torch.log(torch.tan(a * u + b))


def alpha_sigma(logsnr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()


def autocast(case: dict, device: str):
    if case['dtype'] != 'bfloat16':
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=torch.bfloat16)


def _wait(device: str) -> None:
    if device == 'cuda':
        torch.cuda.synchronize()


def _device_name(device: str) -> str:
    if device == 'cuda':
        return torch.cuda.get_device_name()
    return f'cpu, {torch.get_num_threads()} threads'


if __name__ == '__main__':
    main()
