"""A finished training, for the tests of the loop."""

import pytest
from support import make_tiny_config, toy_instead_of_networks

from cfg_jax.training import loop


@pytest.fixture(scope='module')
def toy_run(tmp_path_factory):
    """The tiny config trained with the toy network, in one go."""
    workdir = tmp_path_factory.mktemp('toy') / 'run'
    with toy_instead_of_networks():
        loop.train(make_tiny_config(), workdir)
    return workdir
