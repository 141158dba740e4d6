"""State dicts, written opcode by opcode here: the tests have no PyTorch."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from support import user_error

from cfg_jax.pretrained import torch_archive

STORAGES = {'float16': 'Half', 'float32': 'Float', 'float64': 'Double', 'int64': 'Long'}
ROOT = 'archive'


def name_of(module, name):
    return f'c{module}\n{name}\n'.encode()


def plain(value):
    """Opcodes that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def tuple_of(*items):
    return b'(' + b''.join(items) + b't'


def call(module, name, *arguments):
    return name_of(module, name) + tuple_of(*arguments) + b'R'


def storage(dtype, key, size, *view):
    kind = name_of('torch', f'{STORAGES[dtype]}Storage')
    return tuple_of(plain('storage'), kind, plain(key), plain('cpu'), plain(size), *view) + b'Q'


def tensor(stored, offset, shape, strides):
    hooks = call('collections', 'OrderedDict')
    view = [plain(offset), plain(shape), plain(strides), plain(False), hooks]
    return call('torch._utils', '_rebuild_tensor_v2', stored, *view)


def state_dict(values):
    """Opcodes of an OrderedDict with PyTorch's `_metadata`; values are opcodes."""
    items = b''.join(plain(name) + value for name, value in values.items())
    metadata = plain({'_metadata': {'': {'version': 1}}})
    return call('collections', 'OrderedDict') + b'(' + items + b'u' + metadata + b'b'


def whole(opcodes):
    return b'\x80\x02' + opcodes + b'.'


def zip_file(opcodes, flats, byte_order=b'little', packed=''):
    """The format since PyTorch 1.6; `flats` are the storages by key."""
    buffer = io.BytesIO()
    entries = {'data.pkl': whole(opcodes), 'byteorder': byte_order}
    entries |= {f'data/{key}': flat.tobytes() for key, flat in flats.items()}
    with zipfile.ZipFile(buffer, 'w') as archive:
        for name, content in entries.items():
            how = zipfile.ZIP_DEFLATED if name == packed else zipfile.ZIP_STORED
            archive.writestr(f'{ROOT}/{name}', content, how)
    return buffer.getvalue()


def legacy_file(opcodes, flats, little_endian=True):
    """The format before PyTorch 1.6."""
    system = {'protocol_version': 1001, 'little_endian': little_endian, 'type_sizes': {'int': 4}}
    head = [plain(0x1950A86A20F9469CFC6C), plain(1001), plain(system), opcodes, plain([*flats])]
    tail = [len(flat).to_bytes(8, 'little') + flat.tobytes() for flat in flats.values()]
    return b''.join([*map(whole, head), *tail])


def torch_file(arrays, legacy=False):
    """A state dict of contiguous arrays as torch.save would write it."""
    view = [plain(None)] if legacy else []
    values, flats = {}, {}
    for key, (name, array) in enumerate(arrays.items()):
        strides = tuple(stride // array.itemsize for stride in np.ascontiguousarray(array).strides)
        stored = storage(array.dtype.name, str(key), array.size, *view)
        values[name] = tensor(stored, 0, array.shape, strides[: array.ndim])
        flats[str(key)] = array.ravel()
    return (legacy_file if legacy else zip_file)(state_dict(values), flats)


def read(tmp_path, content):
    path = tmp_path / 'weights.pth'
    path.write_bytes(content)
    return torch_archive.read(path)


WRITERS = pytest.mark.parametrize('write', [zip_file, legacy_file], ids=['zip', 'legacy'])
FLAT = np.arange(24, dtype=np.float32)


@pytest.mark.parametrize('legacy', [False, True])
def test_tensors(tmp_path, legacy):
    rng = np.random.default_rng(0)
    arrays = {dtype: rng.integers(0, 99, (2, 3, 4)).astype(dtype) for dtype in STORAGES}
    arrays['scalar'] = np.array(7)
    found = read(tmp_path, torch_file(arrays, legacy))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


@WRITERS
def test_views_share_a_storage(tmp_path, write):
    shared = storage('float32', 'one', 24)
    parameter = call(
        'torch._utils',
        '_rebuild_parameter',
        tensor(shared, 4, (2, 2), (8, 2)),
        plain(True),
        call('collections', 'OrderedDict'),
    )
    views = {
        'transposed': tensor(shared, 0, (4, 6), (1, 4)),
        'parameter': parameter,
        'repeated': tensor(shared, 3, (5,), (0,)),
        'empty': tensor(shared, 0, (0, 3), (3, 1)),
        'epoch': plain(3),
    }
    found = read(tmp_path, write(state_dict(views), {'one': FLAT}))
    assert found.keys() == views.keys() - {'epoch'}
    np.testing.assert_array_equal(found['transposed'], FLAT.reshape(6, 4).T)
    assert found['transposed'].flags.c_contiguous
    np.testing.assert_array_equal(found['parameter'], [[4, 6], [12, 14]])
    np.testing.assert_array_equal(found['repeated'], np.full(5, 3))
    assert found['empty'].shape == (0, 3)


class Touch:
    """Runs a shell command when an ordinary unpickler meets it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


@WRITERS
@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_is_refused_and_not_run(tmp_path, write, protocol):
    pickled = pickle.dumps({'w': Touch(tmp_path / 'touched')}, protocol)
    message = user_error(read, tmp_path, write(pickled[:-1], {}))  # `whole` ends it
    assert 'weights.pth asks to run the code' in message
    assert 'posix.system' in message
    assert not (tmp_path / 'touched').exists()
    pickle.loads(pickled)
    assert (tmp_path / 'touched').exists()  # it would have run


@WRITERS
@pytest.mark.parametrize(
    'name',
    ['builtins.eval', 'torch.load', 'torch._utils._rebuild_sparse_tensor', 'collections.Counter'],
)
def test_names_outside_the_list_are_refused(tmp_path, write, name):
    module, _, attribute = name.rpartition('.')
    opcodes = state_dict({'w': call(module, attribute, plain('1'))})
    assert f'the code {name} and was refused' in user_error(read, tmp_path, write(opcodes, {}))


@WRITERS
def test_state_dicts_one_deeper_are_named(tmp_path, write):
    """As a training writes them: {'ema': ..., 'steps': 3}; none is chosen for the user."""
    view = tensor(storage('float32', '0', 24), 0, (4, 6), (6, 1))
    inner = {'w': view}
    both = {'ema': state_dict(inner), 'args': plain({'lr': 1}), 'model': state_dict(inner)}
    message = user_error(read, tmp_path, write(state_dict(both), {'0': FLAT}))
    assert "weights.pth holds state dicts under 'ema', 'model'; save one of them" in message
    assert "torch.load(FILE)['ema']" in message
    beside = {'w': view, 'other': state_dict(inner)}
    assert read(tmp_path, write(state_dict(beside), {'0': FLAT})).keys() == {'w'}


@WRITERS
@pytest.mark.parametrize('kind', ['BFloat16', 'Byte', 'Bool', 'Int', 'ComplexFloat'])
def test_tensors_of_other_types_are_no_code(tmp_path, monkeypatch, write, kind):
    monkeypatch.setitem(STORAGES, 'other', kind)
    opcodes = state_dict({'w': tensor(storage('other', '0', 24), 0, (24,), (1,))})
    message = user_error(read, tmp_path, write(opcodes, {'0': FLAT}))
    assert f'weights.pth holds tensors of {kind.lower()}; get the file in float32' in message
    assert 'code' not in message


@pytest.mark.parametrize(
    'name', ['collections.OrderedDict', 'torch._utils._rebuild_tensor_v2', 'torch.FloatStorage']
)
@pytest.mark.parametrize('state', [{'update': 1}, (None, {'__defaults__': (1,), 'update': 1})])
def test_state_forced_on_an_allowed_name_changes_no_later_read(tmp_path, name, state):
    module, _, attribute = name.rpartition('.')
    user_error(read, tmp_path, zip_file(name_of(module, attribute) + plain(state) + b'b', {}))
    found = read(tmp_path, torch_file({'w': FLAT}))
    np.testing.assert_array_equal(found['w'], FLAT)


@pytest.mark.parametrize('legacy', [False, True])
def test_truncation(tmp_path, legacy):
    arrays = {'a': np.arange(50.0), 'b': np.arange(60.0)}
    content = torch_file(arrays, legacy)
    for kept in [0, 1, 2, 20, *range(30, len(content), 37), len(content) - 1]:
        message = user_error(read, tmp_path, content[:kept])
        assert 'weights.pth is cut off' in message


@pytest.mark.parametrize(
    ('offset', 'shape', 'strides'),
    [
        (20, (5,), (1,)),
        (0, (5, 5), (5, 1)),
        (0, (10**12,), (0,)),
        (-1, (2,), (1,)),
        (5, (3,), (-1,)),
        (0, (2, 3), (1,)),
        (0, (2,), (2**62,)),
        (0, ('2',), (1,)),
    ],
)
def test_views_that_leave_the_storage(tmp_path, offset, shape, strides):
    opcodes = state_dict({'w': tensor(storage('float32', '0', 24), offset, shape, strides)})
    assert 'cut off or no PyTorch' in user_error(read, tmp_path, zip_file(opcodes, {'0': FLAT}))


@WRITERS
@pytest.mark.parametrize('size', [23, 25, 10**15, -1])
def test_storage_of_another_size(tmp_path, write, size):
    opcodes = state_dict({'w': tensor(storage('float32', '0', size), 0, (2,), (1,))})
    user_error(read, tmp_path, write(opcodes, {'0': FLAT}))


@pytest.mark.parametrize('name', ['data.pkl', 'byteorder', 'data/0'])
def test_packed_entries(tmp_path, name):
    """They could unfold to any size."""
    opcodes = state_dict({'w': tensor(storage('float32', '0', 24), 0, (24,), (1,))})
    assert read(tmp_path, zip_file(opcodes, {'0': FLAT}))['w'].shape == (24,)
    user_error(read, tmp_path, zip_file(opcodes, {'0': FLAT}, packed=name))


@WRITERS
@pytest.mark.parametrize('opcodes', [plain([1, 2]), plain('text'), plain('x') + b'Q'])
def test_what_is_no_state_dict(tmp_path, write, opcodes):
    assert 'no PyTorch state dict' in user_error(read, tmp_path, write(opcodes, {}))


def test_big_endian(tmp_path):
    for content in (zip_file(plain({}), {}, b'big'), legacy_file(plain({}), {}, False)):
        assert 'big-endian' in user_error(read, tmp_path, content)
