"""EDM and EDM2: pickles and state dicts in their naming, against their formulas in NumPy."""

import functools

import jax
import numpy as np
import numpy_edm
import persistent_files
import published_files as files
import pytest
from numpy_adm import Network, Spec
from numpy_blocks import FAST_COMPILE, assert_close
from numpy_edm import EDM2Network, EDMNetwork
from support import user_error

from cfg_jax import diffusion
from cfg_jax.models import networks
from cfg_jax.models.perturbation import Perturbation
from cfg_jax.pretrained import edm2, importing, presets

ATTENDED = numpy_edm.attended
LEVELS = np.float32([0.002, 0.3, 5.0, 80.0])
BASE = {'width': 64, 'mult': (1, 1), 'attention': (False, True), 'heads': 2, 'out': 3}


def drawn(network):
    """The network, once its parameters are there."""
    x, _, labels = files.inputs(1)
    network.denoised(files.first(x), [1.0], labels)
    return network


def in_float16(network):
    """The network with the parameters that its file holds."""
    for name, tensor in drawn(network).tensors.items():
        network.tensors[name] = np.float32(np.float16(tensor))
    return network


def edm_file(tmp_path, network, **attributes):
    """The pickle of a network of NVlabs/edm."""
    middle = {'num_heads': network.spec.heads, 'out_channels': network.spec.width}
    known = {f'model.dec.8x8_in0.{name}': value for name, value in middle.items()}
    known |= {'sigma_data': 0.5} | attributes
    mean = {f'model.dec.16x16_up.{c}.resample_filter': np.full((1, 1, 2, 2), 0.25, 'f4')
            for c in ('conv0', 'skip')}  # fmt: skip
    tensors = dict(network.tensors) | mean
    module = persistent_files.module('EDMPrecond', tensors, known, {'resample_filter'})
    path = tmp_path / 'edm.pkl'
    path.write_bytes(persistent_files.snapshot(module, dataset_kwargs={'path': 'x'}))
    return path


def edm2_file(tmp_path, network, **attributes):
    """The pickle of a network of NVlabs/edm2, in float16 as theirs."""
    block = f'unet.dec.{network.side(len(network.mult) - 1)}_in0'
    known = {
        'sigma_data': 0.5,
        'unet.label_balance': 0.5,
        f'{block}.num_heads': network.heads,
        f'{block}.out_channels': network.width * network.mult[-1],
        f'{block}.res_balance': 0.3,
    }
    extra = {
        'logvar_fourier.freqs': np.ones(4, 'f4'),
        'logvar_linear.weight': np.ones((1, 4), 'f4'),
    }
    tensors = {n: a.astype(np.float16) for n, a in (dict(network.tensors) | extra).items()}
    module = persistent_files.module('Precond', tensors, known | attributes, {'freqs', 'phases'})
    path = tmp_path / 'edm2.pkl'
    encoder = persistent_files.persistent('StandardRGBEncoder', {})
    path.write_bytes(persistent_files.snapshot(module, encoder=encoder))
    return path


def denoised(published, x, labels, **options):
    """The denoised images of our network at LEVELS, y = x + s n, and y; channels last."""
    logsnr = -2 * np.log(LEVELS)
    y = (1 + LEVELS)[:, None, None, None] * x
    z = np.asarray(diffusion.alpha(logsnr))[:, None, None, None] * y
    denoiser = networks.make_denoiser(published.config)
    predict = functools.partial(denoiser.predict, **options)
    predict = jax.jit(predict, compiler_options=FAST_COMPILE)
    found = predict(published.params(), z, logsnr, np.int32(labels)).eps
    return np.asarray(diffusion.x_from_eps(z, found, logsnr)), y


def test_nvlabs_edm(tmp_path):
    network = drawn(EDMNetwork(Spec(**BASE)))
    published = importing.open_published(edm_file(tmp_path, network))
    assert published.config.model.head_channels == 32
    x, _, given = files.inputs(4)
    found, y = denoised(published, x, given)
    assert_close(found, files.last(network.denoised(files.first(y), LEVELS, given)), 2e-5)


def test_consistency_models_edm(tmp_path):
    """guided-diffusion's layout with 2-D kernels, q before k before v, time 250 ln(s)."""
    spec = Spec(width=64, mult=(1, 2), heads=2, out=3, new_order=True, pointwise=(1, 1))
    network = Network(spec)

    def theirs(y, s, labels):
        s = np.asarray(s, np.float64)[:, None, None, None]
        inside = 1 / np.sqrt(s**2 + 0.25)
        out = network.unet(inside * y, 250 * np.log(s[:, 0, 0, 0]), labels)
        return 0.25 * inside**2 * y + 0.5 * s * inside * out

    x, _, given = files.inputs(4)
    theirs(files.first(x), LEVELS, given)
    published = importing.open_published(files.write(tmp_path / 'edm.pt', network.tensors))
    assert 'cd_*.pt' in published.plan.findings['not in the shapes']
    found, y = denoised(published, x, given)
    # 250 ln(s) has an error of 1e-4 in float32, and the sinusoids see it.
    assert_close(found, files.last(theirs(files.first(y), LEVELS, given)), 2e-4)


@pytest.mark.parametrize('labels', [5, 0])
def test_edm2(tmp_path, labels):
    network = in_float16(EDM2Network(labels=labels))
    published = importing.open_published(edm2_file(tmp_path, network))
    x, _, given = files.inputs(4)
    found, y = denoised(published, x, given)
    assert_close(found, files.last(network.denoised(files.first(y), LEVELS, given)), 2e-5)


@pytest.mark.parametrize(
    ('kind', 'attended'),
    [
        ('identity', lambda q, k, v: v),
        (
            'blur',
            lambda q, k, v: ATTENDED(np.broadcast_to(q.mean(-1, keepdims=True), q.shape), k, v),
        ),
        ('skip', None),
    ],
)
def test_weakened_attention_of_edm2(tmp_path, monkeypatch, kind, attended):
    network = in_float16(EDM2Network(mult=(2,), attention=(True,)))
    published = importing.open_published(edm2_file(tmp_path, network))
    x, _, given = files.inputs(4)
    found, y = denoised(published, x, given, perturbation=Perturbation(kind))
    monkeypatch.setattr(numpy_edm, 'attended', attended)
    if kind == 'skip':
        network.heads = 0
    assert_close(found, files.last(network.denoised(files.first(y), LEVELS, given)), 2e-5)


def test_normalised_weights():
    kernel = np.random.default_rng(0).normal(size=(6, 4, 3, 3)).astype(np.float32)
    found = edm2.normalised(kernel, np.float32(2.0)).reshape(6, -1)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 2.0, rtol=2e-4)


def test_gains_act_in_the_type_of_the_file():
    """A number divided by sqrt(n) is rounded to float16 again, if that is what it was."""
    kernel = np.random.default_rng(0).normal(size=(6, 5, 3, 3)).astype(np.float16)
    plain, root = edm2.normalised(kernel), np.sqrt(45.0)
    for gain in np.float16([0.0213, -0.7, 1.19]):
        rounded = np.float64(np.float16(np.float64(gain) / root))
        assert abs(rounded * root / gain - 1) > 1e-5
        found = edm2.normalised(kernel, np.asarray(gain))
        np.testing.assert_allclose(found, rounded * root * plain, rtol=3e-7)
        exact = edm2.normalised(kernel, np.asarray(np.float32(gain)))
        np.testing.assert_allclose(exact, np.float64(gain) * plain, rtol=3e-7)


def test_code_in_a_pickle_is_not_run(tmp_path):
    """The source code that comes with every class would end this process."""
    network = drawn(EDMNetwork(Spec(**BASE)))
    importing.open_published(edm_file(tmp_path, network)).params()
    content = (tmp_path / 'edm.pkl').read_bytes()
    for name in (b'torch.storage', b'dnnlib.util'):
        other = tmp_path / 'other.pkl'
        other.write_bytes(content.replace(name, b'x' * len(name)))
        assert 'asks to run the code xxxxx' in user_error(importing.open_published, other)


def test_cut_off_pickles(tmp_path):
    content = edm_file(tmp_path, drawn(EDMNetwork(Spec(**BASE)))).read_bytes()
    path = tmp_path / 'cut.pkl'
    for kept in (100, 5000, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        assert 'cut off' in user_error(importing.open_published, path)


def test_other_settings_of_a_family(tmp_path):
    network = drawn(EDMNetwork(Spec(**BASE)))
    path = edm_file(tmp_path, network, sigma_data=1.0)
    assert 'sigma_data=1.0' in user_error(importing.open_published, path)
    path = edm_file(tmp_path, network, **{'model.dec.8x8_in0.skip_scale': 0.7})
    assert 'skip_scale=0.7' in user_error(importing.open_published, path)
    other = {'num_heads': 1, 'out_channels': 64}  # a head of 64 channels, where others have 32
    other = {f'model.dec.16x16_block0.{name}': value for name, value in other.items()}
    path = edm_file(tmp_path, network, **other)
    assert 'attention heads' in user_error(importing.open_published, path)
    path = edm_file(tmp_path, network)
    assert 'head_channels=32' in user_error(importing.open_published, path, 'head_channels=32')
    path = edm2_file(tmp_path, drawn(EDM2Network()), **{'unet.dec.8x8_in0.res_balance': 0.5})
    assert 'res_balance=0.5' in user_error(importing.open_published, path)


def test_presets_of_edm_and_edm2(tmp_path):
    published = importing.open_published(edm_file(tmp_path, drawn(EDMNetwork(Spec(**BASE)))))
    published.config.data.image_size = 64
    presets.apply(published.config, 'edm64-stochastic')
    assert 'churn=40' in published.config.sampler.options
    assert published.config.sampler.num_steps == 256
    published = importing.open_published(edm2_file(tmp_path, drawn(EDM2Network())))
    assert 'data.image_size=64' in user_error(presets.apply, published.config, 'edm2-s')
    published.config.data.image_size, published.config.model.width = 64, 192
    presets.apply(published.config, 'edm2-s-autoguidance')
    assert published.config.guidance.rule == 'autoguidance'
    np.testing.assert_allclose(published.config.sweep.w, (0.7,))  # guidance 1.70 there
