"""Copies as ArrayRecord: what training on the original would see, and nothing that is damaged."""

import numpy as np
import pytest
from pictures import class_folder
from support import logged, make_tiny_config, run_here, user_error

from cfg_jax.data import copies, imagenet, pipeline

COMMAND = 'scripts/prepare_data.py'


@pytest.fixture(scope='module')
def copy(tmp_path_factory, digits_dir):
    """A copy of the digits at 4 pixels."""
    out = tmp_path_factory.mktemp('resized')
    told = copies.resize(str(digits_dir), '', 4, str(out))
    directory = out / 'resized' / 'digits_4' / '1.0.0'
    assert f'--config.data.name={directory}' in told
    assert '--config.data.num_classes=10' in told
    return directory


def test_the_copy_is_what_training_sees(copy):
    original = make_tiny_config(data__image_size=4).data
    copied = make_tiny_config(data__image_size=4, data__name=str(copy)).data
    (seen,) = pipeline.one_epoch(original, 'train', 2000)
    (read,) = pipeline.one_epoch(copied, 'train', 2000)
    np.testing.assert_array_equal(read['condition'], seen['condition'])
    difference = np.abs(read['image'] - seen['image']).max()
    assert 0 < difference <= 0.5 / 127.5 + 1e-6  # half a level of 255


def test_again_is_at_once(copy, digits_dir):
    before = [path.stat().st_mtime_ns for path in sorted(copy.iterdir())]
    told = copies.resize(str(digits_dir), '', 4, str(copy.parents[2]))
    assert 'already in' in told
    assert [path.stat().st_mtime_ns for path in sorted(copy.iterdir())] == before


def test_a_full_disk(tmp_path, monkeypatch, capsys):
    root = class_folder(tmp_path / 'animals', {'cat': 4})

    def prepare(builder):
        raise RuntimeError('Failed to finalize writing: write() failed: No space left on device')

    monkeypatch.setattr(copies.tfds_sets, 'prepare', prepare)
    command = [COMMAND, f'--folder={root}', f'--out={tmp_path / "out"}']
    status, _, errors = run_here(capsys, *command)
    assert status == 2
    place = tmp_path / 'out' / 'folder' / 'animals' / '1.0.0'
    assert errors[-1] == f'error: no space left on the disk of {place}; free some and run again'


def test_the_images_of_each_class_are_counted(tmp_path, digits_dir):
    with logged() as lines:
        copies.resize(str(digits_dir), '', 2, str(tmp_path))
    source = make_tiny_config(data__name=str(digits_dir)).data
    (batch,) = pipeline.one_epoch(source, 'train', 2000)
    counts = np.bincount(batch['condition'], minlength=10)
    line = f'train: {counts.sum():,} images, {counts.min()} to {counts.max()} of each of 10 classes'
    assert line in lines


def test_a_copy_of_less_than_imagenet_is_noticed(tmp_path, digits_dir):
    """The digits under ImageNet's name."""
    original = tmp_path / 'imagenet2012' / '1.0.0'
    original.mkdir(parents=True)
    for path in digits_dir.iterdir():
        content = path.read_bytes()
        if path.suffix == '.json':
            content = content.replace(b'"digits"', b'"imagenet2012"')
        (original / path.name.replace('digits', 'imagenet2012')).write_bytes(content)
    with logged() as lines:
        copies.resize(str(original), '', 2, str(tmp_path / 'out'))
    assert (tmp_path / 'out' / 'resized' / 'imagenet2012_2').is_dir()
    [line] = [line for line in lines if 'ImageNet' in line]
    assert line == (
        'warning: train is not the whole of ImageNet: 1,797 images, 174 to 183 of each of 10'
        ' classes; it has 1,281,167 images, 732 to 1,300 of each of 1000 classes'
    )


def imagenet_counts():
    """1,000 numbers from 732 to 1,300 with ImageNet's sum, which are not ImageNet's own."""
    counts = np.full(1000, 1300)
    counts[0] = 732
    counts[1:101] -= 182
    counts[101] -= 1_300_000 - 568 - 18_200 - 1_281_167
    return counts


def test_the_counts_of_imagenet():
    train, validation = imagenet_counts(), np.full(1000, 50)
    assert (train.sum(), train.min(), train.max()) == (1_281_167, 732, 1300)
    assert imagenet.difference('imagenet2012', 'train', train) == ''
    assert imagenet.difference('imagenet2012', 'validation', validation) == ''
    assert imagenet.difference('imagenet2012', 'test', train[:5]) == ''
    assert imagenet.difference('pets', 'train', train[:5]) == ''
    one, other = np.eye(1000, dtype=int)[[0, 500]]
    for wrong in (train[1:], train + one, train - other, train - one + other):
        assert imagenet.difference('imagenet2012', 'train', wrong)
    swapped = validation + one - other  # the sum is right
    assert '49 to 51 of each' in imagenet.difference('imagenet2012', 'validation', swapped)


def test_mistakes(capsys, tmp_path):
    assert '--resize' in user_error(copies.resize, 'digits', '', 0, str(tmp_path))
    class_folder(tmp_path / 'set', {'a': 2})
    for arguments, words in (
        (['--name=no_such_set', '--resize=4'], 'no_such_set'),
        ([f'--folder={tmp_path}/none'], f'{tmp_path}/none'),
        ([f'--folder={tmp_path}/set', '--validation=1'], '--validation'),
        ([f'--folder={tmp_path}/set', '--validation=0.9'], '--validation'),
        ([f'--folder={tmp_path}/set', '--validation=nan'], '--validation'),
        ([f'--folder={tmp_path}/set', '--name=digits'], 'one of --name and --folder'),
        (['--name=mnist', '--resize=4'], "'mnist' is not prepared in"),
        (['--name=some/set', '--resize=4'], 'there is no directory some/set either'),
        ([], 'one of --name and --folder'),
        (['--name=digits', '--validation=0.1'], '--folder'),
        # Without a copy to write they would be passed over.
        (['--name=digits', f'--out={tmp_path}/big'], '--out is for --resize or a --folder'),
        (['--name=digits', '--workers=2'], '--workers is for --resize or a --folder'),
        ([f'--folder={tmp_path}/set', f'--manual_dir={tmp_path}'], '--manual_dir is for'),
        (['--name=digits', '--resize=4', f'--manual_dir={tmp_path}'], '--manual_dir is for'),
    ):
        status, _, errors = run_here(capsys, COMMAND, f'--data_dir={tmp_path}/out', *arguments)
        assert status == 2
        assert words in errors[0]
        assert len(errors) == 1
