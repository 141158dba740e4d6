"""A resized copy of a data set holds what training on the original would see, to 8 bits."""

import numpy as np
import pytest
from support import make_tiny_config, run_here, user_error

from cfg_jax.data import (
    pipeline,
    resized,
)


@pytest.fixture(scope='module')
def copy(tmp_path_factory, digits_dir):
    """A copy of the digits at 4 pixels."""
    out = tmp_path_factory.mktemp('resized')
    told = resized.prepare(str(digits_dir), '', 4, str(out))
    directory = out / 'resized' / 'digits_4' / '1.0.0'
    assert f'--config.data.name={directory}' in told
    return directory


def test_the_copy_is_what_training_sees(copy):
    original = make_tiny_config(data__image_size=4).data
    copied = make_tiny_config(data__image_size=4, data__name=str(copy)).data
    (seen,) = pipeline.one_epoch(original, 'train', 2000)
    (read,) = pipeline.one_epoch(copied, 'train', 2000)
    np.testing.assert_array_equal(read['label'], seen['label'])
    difference = np.abs(read['image'] - seen['image']).max()
    assert 0 < difference <= 0.5 / 127.5 + 1e-6  # half a level of 255


def test_again_is_at_once(copy, digits_dir):
    before = [path.stat().st_mtime_ns for path in sorted(copy.iterdir())]
    resized.prepare(str(digits_dir), '', 4, str(copy.parents[2]))
    assert [path.stat().st_mtime_ns for path in sorted(copy.iterdir())] == before


def test_mistakes(capsys, tmp_path):
    assert '--resize' in user_error(resized.prepare, 'digits', '', 0, str(tmp_path))
    command = ['scripts/prepare_data.py', '--name=no_such_set', '--resize=4']
    status, _, errors = run_here(capsys, *command)
    assert status == 2
    assert 'no_such_set' in errors[0]
