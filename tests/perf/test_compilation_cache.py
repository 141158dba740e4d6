"""Where compilations are kept."""

import jax
import pytest

from cfg_jax.perf import xla


@pytest.fixture
def restored():
    before = jax.config.jax_compilation_cache_dir
    yield before
    jax.config.update('jax_compilation_cache_dir', before)


def test_in_the_work_directory_on_accelerators(restored, monkeypatch, tmp_path):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    xla.keep_compilations(tmp_path)
    assert jax.config.jax_compilation_cache_dir == restored  # the user's choice, set by conftest
    jax.config.update('jax_compilation_cache_dir', None)
    xla.keep_compilations(tmp_path)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / 'compilations')


def test_nowhere_on_a_cpu(restored, tmp_path):
    jax.config.update('jax_compilation_cache_dir', None)
    xla.keep_compilations(tmp_path)
    assert jax.config.jax_compilation_cache_dir is None
