"""The search for the largest batch, the tables, and how little is compiled for them."""

import dataclasses
import json

import pytest
from support import make_tiny_config, user_error

from cfg_jax import config_fields, files
from cfg_jax.perf import ahead_of_time, compile_tables, compiled_programs, memory, topologies

GIB = 2**30


def test_parts_of_a_batch():
    assert compiled_programs.parts_of(48, 4) == {12: 1, 6: 2, 4: 3, 3: 4, 2: 6, 1: 12}
    assert 'not divisible by 5' in user_error(compiled_programs.parts_of, 48, 5)


@pytest.mark.parametrize(
    ('fits', 'estimate', 'largest', 'compiled'),
    [
        (4, 4, 4, [4, 8]),  # as estimated: the next one is tried, 16 is hopeless
        (8, 4, 8, [4, 8]),
        (2, 4, 2, [4, 2]),
        (1, 8, 1, [8, 4, 2, 1]),
        (0, 2, None, [2, 1]),
        (16, 16, 16, [16]),
        (1, 0, 1, [1]),  # nothing is estimated to fit: the smallest is tried
    ],
)
def test_the_largest_that_fits(fits, estimate, largest, compiled):
    """Against a compiler that lets `fits` images pass, from an estimate of `estimate`."""
    asked = []

    def compile_it(images):
        asked.append(images)
        return {'fits': images <= fits}

    def share(images):
        return images / estimate * (0.74 if images > estimate else 1.0) if estimate else 9.0

    found = compiled_programs.largest_that_fits([16, 8, 4, 2, 1], compile_it, share)
    assert (found, asked) == (largest, compiled)


@dataclasses.dataclass
class Client:
    platform_version: str = 'none'


@dataclasses.dataclass
class Device:
    platform: str = 'tpu'
    client: Client = dataclasses.field(default_factory=Client)


@pytest.fixture
def machine(monkeypatch):
    """Four chips of a TPU, whose compiler lets 8 images of a step pass."""
    compiled = []

    def training(config, target):
        at_once = config.train.batch_size // target.chips // config.train.grad_accum
        compiled.append(at_once)
        peak = at_once * GIB
        result = {'program': 'training', 'images_at_once_a_chip': at_once, 'compiles': True}
        result |= {'batch_size': config.train.batch_size, 'grad_accum': config.train.grad_accum}
        result |= {'remat': config.model.remat, 'fits': at_once <= 8, 'compile_seconds': 7.0}
        sizes = {'arguments': 0, 'temporaries': peak, 'peak': peak, 'usable': 8 * GIB}
        reduced = {'all-reduce': {'count': 2, 'bytes': GIB}}
        kinds = {'copy': {'bytes': 3 * GIB, 'instructions': 1_500}}
        kinds |= {'elementwise': {'bytes': 0, 'instructions': 34}}
        moved = {'bytes': 3 * GIB, 'bytes_by_kind': kinds, 'collectives': reduced}
        moved |= {'estimated_cycles': 5_300_000, 'library_calls': {'tpu_custom_call': 14}}
        line = dict.fromkeys(('operations_ms', 'collectives_ms', 'estimated_ms'), 1.0)
        line['estimated_images_per_second'] = 123.0
        result |= {'memory': sizes, 'traffic': moved}
        return result | {'roofline': line, 'attention': "XLA's", 'gflop_per_image': 2.0}

    target = topologies.Target(
        'v4-8',
        topologies.ACCELERATORS['tpu-v4'],
        topologies.Machine('tpu', 4, 1, (Device(),)),
        8 * GIB,
        2,
        {},
    )
    monkeypatch.setattr(topologies, 'target', lambda name: target)
    monkeypatch.setattr(ahead_of_time, 'training', training)
    monkeypatch.setattr(memory, 'estimate', lambda *_: memory.Estimate(0, 0.9 * GIB))
    return compiled


def kept(directory, overrides=(), batch=64):
    config = make_tiny_config(train__batch_size=batch)
    return compiled_programs.Kept('configs/digits.py', overrides, config, 'v4-8', directory)


def test_nothing_is_compiled_twice(machine, tmp_path):
    for _ in range(2):
        kept(tmp_path).fit('none')
    assert machine == [8]  # of 16; estimated to take 7.2 of 8 GiB, and 16 images 14.4
    kept(tmp_path).fit('none', images_at_once=[16])
    assert machine == [8, 16]
    content = json.loads((tmp_path / 'digits_v4-8.json').read_text())
    assert set(content['programs']) == {
        'training, 8 images at once, remat=none',
        'training, 16 images at once, remat=none',
    }
    path = tmp_path / 'digits_v4-8.json'
    older = {key: value for key, value in content.items() if key != 'fields'}
    path.write_text(json.dumps(older))
    kept(tmp_path).fit('none')
    assert machine == [8, 16]


def test_what_was_compiled_otherwise_is_not_taken_over(machine, tmp_path):
    kept(tmp_path).fit('none')
    path = tmp_path / 'digits_v4-8.json'
    message = user_error(kept, tmp_path, overrides=['--config.model.width=8'])
    assert "overrides [] instead of ['--config.model.width=8']" in message
    # The file of the config was edited: its name and the overrides are as before.
    message = user_error(kept, tmp_path, batch=128)
    assert 'train.batch_size: 64 -> 128' in message
    assert 'give another --out' in message
    content = json.loads(path.read_text())
    content['versions']['jaxlib'] = '0.4.1'
    path.write_text(json.dumps(content))
    message = user_error(kept, tmp_path)
    assert 'jaxlib 0.4.1 instead of ' in message
    assert json.loads(path.read_text()) == content


def test_tables(machine, tmp_path):
    """The accumulation of the largest part that fits, in the page and in the terminal."""
    found = kept(tmp_path)
    for policy in ('none', 'blocks'):
        found.fit(policy, images_at_once=[16, 8, 4])
    shown = compile_tables.of_one(found.content())
    assert 'remat=blocks: 8 images at once a chip fit: train.grad_accum=2' in shown
    assert 'instructions    1,534' in shown
    assert 'estimated cycles 5.3 M, without 14 calls of kernels' in shown
    page = f'before\n{compile_tables.BEGIN}\nold\n{compile_tables.END}\nafter\n'
    new = compile_tables.replaced(page, files.as_path(tmp_path))
    assert new.startswith(f'before\n{compile_tables.BEGIN}\n\n')
    assert new.endswith(f'\n{compile_tables.END}\nafter\n')
    rows = [line for line in new.splitlines() if line.startswith('| v4-8')]
    row = "| 8 | 2 | 8.0 of 8.0 | 2.0 | 1.00 in 2 | 3 | 123 | 5 | XLA's | 7 s |"
    assert rows == [f'| v4-8 | none {row}', f'| v4-8 | blocks {row}']
    assert 'old' not in new
    assert 'lacks the lines' in user_error(compile_tables.replaced, 'a page', tmp_path)
    (tmp_path / 'empty').mkdir()
    message = user_error(compile_tables.replaced, page, files.as_path(tmp_path / 'empty'))
    assert 'holds no results' in message  # the page's tables would be gone


def test_a_tpu_takes_its_own_attention():
    target = topologies.Target(
        'v4-8',
        topologies.ACCELERATORS['tpu-v4'],
        topologies.Machine('tpu', 4, 1, (Device(),)),
        1,
        1,
        {},
    )
    config = make_tiny_config()
    assert ahead_of_time.resolved(config, target).model.attention == 'pallas'
    assert config.model.attention == 'auto'
    assert set(config_fields.ATTENTION_KERNELS) == {'auto', 'cudnn', 'pallas', 'xla'}


def test_whose_attention_it_is():
    kernels = {'__cudnn$fmhaSoftmax': 3, '__cudnn$fmhaSoftmaxBackward': 2, '__cudnn$convForward': 9}
    assert ahead_of_time._attention(kernels) == "cuDNN's, 5 calls"
    assert ahead_of_time._attention({'tpu_custom_call': 4}) == "Pallas's, 4 calls"
    assert ahead_of_time._attention({'AllocateBuffer': 4}) == "XLA's"


def test_roofline():
    """One chip of 100 TFLOP/s, 1000 GB/s and 10 GB/s a link, by hand."""
    chip = topologies.Accelerator(100.0, 1, 1000.0, None, (), 20.0, 2)
    machine = topologies.Machine('tpu', 4, 1)
    target = topologies.Target('x', chip, machine, 1, 1, {})
    sums = {'all-reduce': {'count': 1, 'bytes': 10**6}}
    moved = ahead_of_time.traffic.Traffic(
        {'convolution': 10**9, 'copy': 3 * 10**9}, {}, {}, 0, {}, {}
    )
    line = ahead_of_time.roofline(moved._replace(collectives=sums), 2e11, 400, target)
    assert line['operations_ms'] == pytest.approx(2.0)  # longer than its 1 ms of memory
    assert line['estimated_ms'] == pytest.approx(2.0 + 3.0)
    assert line['collectives_ms'] == pytest.approx(1.5 * 0.1)  # 2 * 3/4 of 1 MB at 10 GB/s
    assert line['estimated_images_per_second'] == pytest.approx(400 / 5e-3)
    slow = moved._replace(collectives={'all-reduce': {'count': 1, 'bytes': 10**8}})
    slow_line = ahead_of_time.roofline(slow, 2e11, 400, target)
    assert slow_line['estimated_ms'] == pytest.approx(15.0)
