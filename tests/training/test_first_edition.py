"""Work directories and commands of the first edition: they open, resume and mean the same."""

import json
import shutil

import numpy as np
import pytest
from support import (
    CLASSIFIER,
    DIGITS,
    ROOT,
    checkpoint_hash,
    checkpoint_steps,
    logged,
    make_tiny_config,
    toy_instead_of_networks,
    user_error,
)

from cfg_jax import config as config_lib, loading
from cfg_jax.config_files import load_config
from cfg_jax.training import loop, workdirs

# config.json of the first edition's configs/digits.py, as its training wrote it.
DATA = {
    'name': 'digits',
    'data_dir': '',
    'split': 'train',
    'image_size': 8,
    'channels': 1,
    'num_classes': 10,
    'flip': False,
    'random_crop': 0.0,
    'num_workers': 0,
}
MODEL = {
    'kind': 'unet',
    'width': 24,
    'channel_mult': [1, 2],
    'num_res_blocks': 1,
    'attention_resolutions': [4],
    'head_channels': 24,
    'num_heads': 0,
    'dropout': 0.0,
    'resblock_updown': True,
    'scale_shift_norm': True,
    'norm_groups': 8,
    'remat': False,
    'attention': 'auto',
    'dtype': 'float32',
}
TRAIN = {
    'steps': 800,
    'batch_size': 128,
    'grad_accum': 1,
    'learning_rate': 2e-3,
    'warmup_steps': 100,
    'anneal_steps': 0,
    'weight_decay': 0.0,
    'beta1': 0.9,
    'beta2': 0.999,
    'adam_eps': 1e-8,
    'grad_clip': 1.0,
    'ema_decay': 0.995,
    'max_skipped': 0,
    'log_every': 50,
    'checkpoint_every': 200,
    'keep_checkpoints': 2,
    'keep_period': 0,
    'sample_every': 400,
}
SWEEP = {
    'w': [0.0, 0.1, 0.3, 0.5, 1.0, 2.0, 4.0],
    'num_samples': 1000,
    'seed': 0,
    'repeats': 1,
    'batch_size': 250,
    'shard_size': 500,
    'labels': 'balanced',
    'features': 'classifier',
    'inception': '',
    'dtype': 'float32',
    'reference': '',
    'metrics': ['fid', 'is'],
    'is_splits': 10,
    'bootstrap': 20,
    'save_samples': False,
}
DIFFUSION = {'logsnr_min': -20.0, 'logsnr_max': 20.0}
SAMPLING = {'sampler': 'ancestral', 'num_steps': 20, 'v': 0.3, 'clip': True}
UNET = {
    'seed': 0,
    'p_uncond': 0.1,
    'data': DATA,
    'model': MODEL,
    'diffusion': DIFFUSION,
    'train': TRAIN,
    'sampling': SAMPLING,
    'sweep': SWEEP,
}
CLASSIFIER_TRAIN = TRAIN | {
    'steps': 600,
    'anneal_steps': 600,
    'weight_decay': 0.05,
    'ema_decay': 0.99,
}
# Fields that even the first edition added as it went.
LATER = ['data.random_crop', 'model.kind', 'model.remat', 'model.attention', 'train.anneal_steps']
LATER += ['train.max_skipped', 'train.weight_decay', 'sweep.repeats', 'sweep.inception']
LATER += ['sweep.dtype', 'sweep.reference', 'sweep.metrics', 'sweep.save_samples']


def written(values, directory):
    """A work directory with this config.json."""
    directory.mkdir(exist_ok=True)
    (directory / 'config.json').write_text(json.dumps(values, indent=2) + '\n')
    return directory


def test_the_quick_starts_config_is_todays(tmp_path):
    found = workdirs.read_config(written(UNET, tmp_path / 'run'))
    assert found.to_dict() == load_config(DIGITS).to_dict()
    assert config_lib.contradictions(found, load_config(DIGITS)) == []


def test_the_classifiers_config_is_todays(tmp_path):
    train = {key: value for key, value in CLASSIFIER_TRAIN.items() if key != 'sample_every'}
    values = {
        'seed': 0,
        'data': DATA,
        'model': MODEL | {'kind': 'classifier'},
        'diffusion': DIFFUSION,
        'train': train,
    }
    found = workdirs.read_config(written(values, tmp_path / 'run'))
    assert found.to_dict() == load_config(CLASSIFIER).to_dict()


def test_fields_that_came_later_mean_what_was_done_before(tmp_path):
    values = json.loads(json.dumps(UNET))
    for name in LATER:
        group, field = name.split('.')
        del values[group][field]
    found = workdirs.read_config(written(values, tmp_path / 'run'))
    assert found.to_dict() == load_config(DIGITS).to_dict()


@pytest.mark.parametrize(('flag', 'name'), [(False, 'none'), (True, 'blocks')])
def test_remat_was_a_flag(tmp_path, flag, name):
    """In config.json, on a command line, and where a run goes on that was begun with it."""
    values = UNET | {'model': MODEL | {'remat': flag}}
    found = workdirs.read_config(written(values, tmp_path / 'run'))
    assert found.model.remat == name
    today = load_config(DIGITS, [f'--config.model.remat={flag}'])
    assert today.model.remat == name
    assert config_lib.differences(found, today) == []


def test_a_config_of_neither_edition_names_the_field(tmp_path):
    values = json.loads(json.dumps(UNET))
    values['sampling']['temperature'] = 1.0
    message = user_error(workdirs.read_config, written(values, tmp_path / 'run'))
    assert "'sampler.temperature'" in message


@pytest.mark.parametrize('name', ['digits', 'imagenet64', 'imagenet128'])
def test_config_files_that_are_variants_today(name):
    found = load_config(str(ROOT / 'configs' / f'{name}_classifier.py'))
    assert found.model.kind == 'classifier'
    assert found.to_dict() == load_config(f'{ROOT}/configs/{name}.py:classifier').to_dict()


def test_overrides_by_their_old_names():
    overrides = ['--config.sampling.sampler=ddim', '--config.sampling.v=0.5']
    overrides += ['--config.sampling.num_steps=7', '--config.sampling.clip=False']
    sampler = load_config(DIGITS, overrides).sampler
    assert (sampler.name, sampler.v, sampler.num_steps, sampler.clip) == ('ddim', 0.5, 7, False)


def first_edition(config):
    """A config of today as the first edition wrote it."""
    values = json.loads(json.dumps(config_lib.to_json(config)))
    kept = {
        group: {key: value for key, value in values[group].items() if key in known}
        for group, known in (
            ('data', DATA),
            ('model', MODEL),
            ('diffusion', DIFFUSION),
            ('train', TRAIN),
            ('sweep', SWEEP),
        )
    }
    sampling = {'sampler': values['sampler']['name']} | {
        key: values['sampler'][key] for key in SAMPLING if key != 'sampler'
    }
    return {'seed': values['seed'], 'p_uncond': values['p_uncond']} | kept | {'sampling': sampling}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A toy run of six steps."""
    with toy_instead_of_networks():
        loop.train(make_tiny_config(), tmp_path_factory.mktemp('first') / 'run')
    return tmp_path_factory.getbasetemp() / 'first0' / 'run'


@pytest.fixture
def old_run(trained, tmp_path):
    """The same with the config.json of the first edition."""
    directory = shutil.copytree(trained, tmp_path / 'old')
    values = first_edition(make_tiny_config())
    assert 'sampler' not in values
    assert 'target' not in values
    return written(values, directory)


def test_it_opens_and_draws_the_same(trained, old_run, toy_networks):
    given = {'condition': [3, 3, 7], 'w': 2.0, 'seed': 5}
    expected = loading.load(trained).sample(**given)
    np.testing.assert_array_equal(loading.load(old_run).sample(**given), expected)
    assert loading.load(old_run).config.to_dict() == make_tiny_config().to_dict()


def test_it_resumes_bit_for_bit(trained, old_run, toy_networks, tmp_path):
    config = make_tiny_config(train__steps=9, train__checkpoint_every=9)
    with logged() as lines:
        loop.train(config, old_run)
    assert any('resuming from step 6' in line for line in lines)
    straight = shutil.copytree(trained, tmp_path / 'straight')
    loop.train(config, straight)
    assert checkpoint_steps(old_run)[-1] == 9
    assert checkpoint_hash(old_run, 9) == checkpoint_hash(straight, 9)
    # From then on its config.json is today's.
    assert json.loads((old_run / 'config.json').read_text()) == json.loads(
        (straight / 'config.json').read_text()
    )


def test_another_config_is_refused_as_ever(old_run, toy_networks):
    message = user_error(loop.train, make_tiny_config(p_uncond=0.3), old_run)
    assert 'p_uncond: 0.1 -> 0.3' in message
    assert 'target' not in message
