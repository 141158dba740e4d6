"""A sweep that is killed while its picture is drawn has its table, and draws the picture anew."""

import shutil

import pytest
from PIL import Image
from support import make_tiny_config

from cfg_jax.evaluation import sweep


@pytest.mark.usefixtures('toy_networks')
def test_the_table_is_there_before_the_picture(swept_toy_workdir, tmp_path, monkeypatch):
    workdir = shutil.copytree(swept_toy_workdir, tmp_path / 'copy')
    directory = workdir / 'sweep' / 'tiny'
    old_picture = Image.open(directory / 'samples.png').size
    config = make_tiny_config(sweep__w=(0.0, 1.0, 2.0))
    with monkeypatch.context() as killed:
        killed.setattr(sweep, '_save_samples', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sweep.run(config, workdir, name='tiny')
    assert (directory / 'table.md').read_text().count('\n') == 2 + 3
    assert not (directory / 'samples.png').exists()  # the old one was of two w
    sweep.run(config, workdir, name='tiny')
    assert Image.open(directory / 'samples.png').size[0] > old_picture[0]
