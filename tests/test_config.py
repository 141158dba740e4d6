import json

import pytest
from ml_collections import ConfigDict
from support import CLASSIFIER, DIGITS, ROOT, make_tiny_config, user_error

from cfg_jax import config as config_lib
from cfg_jax.config_fields import fields
from cfg_jax.config_files import load_config

CONFIGS = sorted((ROOT / 'configs').glob('*.py'))

BAD_VALUES = [
    ('p_uncond', -0.1),
    ('p_uncond', 1.1),
    ('p_uncond', '0.1'),
    ('p_uncond', True),
    ('p_uncond', float('nan')),
    ('seed', 1.0),
    ('seed', True),
    ('seed', -1),
    ('data.name', ''),
    ('data.image_size', 0),
    ('data.channels', 2),
    ('data.flip', 1),
    ('data.random_crop', 1.1),
    ('data.num_workers', -1),
    ('model.kind', 'gan'),
    ('model.width', 5),
    ('model.channel_mult', (1, 0)),
    ('model.channel_mult', [1, 2]),
    ('model.channel_mult', ()),
    ('model.channel_mult', (1, '2')),
    ('model.channel_mult', (1, -0.5)),
    ('model.channel_mult', (1, 0.3)),
    ('model.attention_resolutions', 4),
    ('model.norm_groups', 7),
    ('model.head_channels', 5),
    ('model.dropout', 1.0),
    ('model.dtype', 'float16'),
    ('diffusion.logsnr_min', 20.0),
    ('diffusion.logsnr_max', float('inf')),
    ('train.steps', 0),
    ('train.batch_size', 16.0),
    ('train.learning_rate', 0.0),
    ('train.anneal_steps', -1),
    ('train.weight_decay', 1.0),
    ('train.grad_clip', -1.0),
    ('train.ema_decay', 1.0),
    ('sampler.name', 'leapfrog'),
    ('guidance.rule', 'projekted'),
    ('guidance.rule', 'interval+nothing'),
    ('sampler.grid', 'square'),
    ('target', 'score'),
    ('diffusion.schedule', 'linear'),
    ('model.patch', 3),
    ('sampler.num_steps', 1),
    ('sampler.v', 1.5),
    ('sweep.w', (0.0, 'one')),
    ('sweep.w', (0.0, float('inf'))),
    ('sweep.w', ()),
    ('sweep.w', 1.0),
    ('sweep.num_samples', -5),
    ('sweep.is_splits', 41),
    ('sweep.labels', 'random'),
]


_GONE = object()


def put(config, name, value):
    """A copy with one field set whatever its type, or gone."""
    values = config.to_dict()
    group, _, field = name.rpartition('.')
    owner = values[group] if group else values
    owner[field] = value
    if value is _GONE:
        del owner[field]
    return ConfigDict(values)


VARIANTS = [
    'digits.py:table',
    'digits.py:classifier',
    'imagenet64.py:classifier',
    'imagenet128.py:classifier',
    'tiny_imagenet32.py:guide',
    'tiny_imagenet32.py:classifier',
    'tiny_imagenet32.py:judge',
    'tiny_imagenet32.py:cpu',
    'tiny_imagenet32.py:cpu_guide',
    'tiny_imagenet32.py:cpu_classifier',
    'tiny_imagenet32.py:cpu_judge',
    'tiny_imagenet32.py:toy',
    'tiny_imagenet64.py:small',
    'tiny_imagenet64.py:guide',
    'tiny_imagenet64.py:classifier',
]


@pytest.mark.parametrize('name', [*(path.name for path in CONFIGS), *VARIANTS])
def test_every_config_file_is_valid(name):
    config = load_config(ROOT / 'configs' / name)
    expected = fields(config.model.kind)
    assert dict(config_lib.flatten(config)).keys() == expected.keys()
    assert (config.model.kind == 'classifier') == ('sweep.w' not in expected)


@pytest.mark.parametrize(('name', 'value'), [('p_uncond', 0.1), ('train.sample_every', 5)])
def test_a_classifier_lacks_what_only_diffusion_models_have(name, value):
    config = make_tiny_config(CLASSIFIER)
    message = user_error(config_lib.validate, put(config, name, value))
    assert f"a classifier's config has no field {name!r}" in message
    message = user_error(load_config, CLASSIFIER, [f'--config.{name}={value}'])
    assert message == f'{CLASSIFIER} has no field {name!r}'
    message = user_error(load_config, CLASSIFIER, ['--config.sweep.seed=1'])
    assert message == f'{CLASSIFIER} has no field {"sweep.seed"!r}'


def test_there_are_config_files():
    assert DIGITS in [str(path) for path in CONFIGS]


@pytest.mark.parametrize(('name', 'value'), BAD_VALUES)
def test_bad_value_names_the_field(tiny_config, name, value):
    config_lib.validate(tiny_config)
    assert name in user_error(config_lib.validate, put(tiny_config, name, value))


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('p_uncond', 0),
        ('p_uncond', 1.0),
        ('train.learning_rate', 1),
        ('sweep.w', (0, -1, 2.5)),
        ('model.dtype', 'bfloat16'),
        ('sweep.is_splits', 40),
    ],
)
def test_edge_values_are_accepted(tiny_config, name, value):
    config_lib.validate(put(tiny_config, name, value))


@pytest.mark.parametrize(('head_channels', 'num_heads'), [(0, 0), (8, 2)])
def test_exactly_one_rule_for_heads(tiny_config, head_channels, num_heads):
    tiny_config.model.head_channels = head_channels
    tiny_config.model.num_heads = num_heads
    message = user_error(config_lib.validate, tiny_config)
    assert 'model.head_channels' in message
    assert 'model.num_heads' in message


def test_image_size_is_divisible_by_the_levels(tiny_config):
    tiny_config.model.channel_mult, tiny_config.data.image_size = (1, 2), 9
    message = user_error(config_lib.validate, tiny_config)
    assert 'data.image_size=9' in message
    assert 'model.channel_mult' in message


def test_features_hold_a_patch(tiny_config):
    """Fewer features than numbers in a patch cannot carry its noise, whatever is learned."""
    tiny_config.data.channels = 3
    tiny_config.model.patch = 2
    message = user_error(config_lib.validate, tiny_config)
    assert message.startswith('model.width=8: ')
    assert 'width of at least 12' in message
    tiny_config.model.width = 16  # of which 8 are a head's and 4 a group's
    config_lib.validate(tiny_config)


def test_heads_must_divide_where_attention_is(tiny_config):
    tiny_config.model.channel_mult, tiny_config.model.attention_resolutions = (1, 2), (4,)
    tiny_config.model.head_channels = 16  # 16 channels at 4x4, 8 channels at 8x8
    config_lib.validate(tiny_config)
    tiny_config.model.attention_resolutions = (8, 4)
    message = user_error(config_lib.validate, tiny_config)
    assert 'model.head_channels=16' in message
    assert '8x8' in message


def test_fractions_of_the_width_are_whole_channels(tiny_config):
    tiny_config.model.width, tiny_config.model.channel_mult = 80, (0.7, 1)
    tiny_config.model.attention_resolutions = (4,)
    config_lib.validate(tiny_config)
    tiny_config.model.channel_mult = (0.72, 1)
    message = user_error(config_lib.validate, tiny_config)
    assert '80 times 0.72' in message
    assert '57.6' in message


def test_misspelt_field_gets_a_suggestion(tiny_config):
    config = put(tiny_config, 'train.learning_rat', 1e-3)
    message = user_error(config_lib.validate, config)
    assert "'train.learning_rat'" in message
    assert "did you mean 'train.learning_rate'?" in message


@pytest.mark.parametrize('name', ['p_uncond', 'train.ema_decay'])
def test_missing_field(tiny_config, name):
    config = put(tiny_config, name, _GONE)
    assert f'lacks the field {name!r}' in user_error(config_lib.validate, config)


def test_missing_group(tiny_config):
    config = put(tiny_config, 'sampler', _GONE)
    assert "'sampler." in user_error(config_lib.validate, config)


@pytest.mark.parametrize(
    ('batch', 'accum', 'devices', 'fits'),
    [(16, 1, 4, True), (16, 4, 4, True), (10, 1, 4, False), (16, 3, 1, False), (16, 8, 4, False)],
)
def test_check_devices(tiny_config, batch, accum, devices, fits):
    tiny_config.train.batch_size, tiny_config.train.grad_accum = batch, accum
    if fits:
        config_lib.check_devices(tiny_config, devices)
    else:
        message = user_error(config_lib.check_devices, tiny_config, devices)
        assert f'train.batch_size={batch}' in message
        assert f'{devices} devices' in message


CHANGEABLE = {
    'data.data_dir': '/elsewhere',
    'data.num_workers': 3,
    'data.max_bad_examples': 3,
    'model.remat': 'blocks',
    'model.attention': 'xla',
    'train.steps': 7,
    'train.grad_accum': 2,
    'train.max_skipped': 9,
    'train.log_every': 1,
    'train.checkpoint_every': 1,
    'train.keep_checkpoints': 9,
    'train.keep_period': 5,
    'train.sample_every': 1,
    'guidance.rule': 'projected',
    'guidance.options': 'eta=0.5',
    'guidance.network': '/a/guide',
    'sampler.name': 'ddim',
    'sampler.grid': 'edm',
    'sampler.options': 'eta=0.5',
    'sampler.num_steps': 9,
    'sampler.v': 0.5,
    'sampler.clip': False,
    'sweep.w': (3.0,),
    'sweep.num_samples': 50,
    'sweep.seed': 1,
    'sweep.rounding': 'truncate',
    'sweep.batch_size': 10,
    'sweep.shard_size': 10,
    'sweep.labels': 'uniform',
    'sweep.repeats': 3,
    'sweep.features': 'inception',
    'sweep.inception': '/weights.npz',
    'sweep.dtype': 'bfloat16',
    'sweep.reference': '/statistics.npz',
    'sweep.metrics': ('fid',),
    'sweep.is_splits': 1,
    'sweep.bootstrap': 0,
    'sweep.save_samples': True,
}


def test_contradictions_are_all_fields_but_those_that_may_change(tiny_config):
    old = dict(config_lib.flatten(tiny_config))
    fixed = []
    for name, value in old.items():
        changed = CHANGEABLE.get(name, 'another value')
        assert changed != value
        given = put(tiny_config, name, changed)
        differences = config_lib.contradictions(config_lib.to_json(tiny_config), given)
        if name in CHANGEABLE:
            assert differences == []
        else:
            assert differences == [f'{name}: {value!r} -> {changed!r}']
            fixed.append(name)
    assert {'p_uncond', 'seed', 'train.batch_size', 'model.width', 'data.split'} <= set(fixed)


def test_contradictions_of_the_same_config_read_back(tiny_config):
    written = json.loads(json.dumps(config_lib.to_json(tiny_config)))
    assert config_lib.contradictions(written, tiny_config) == []


def test_json_round_trip(tiny_config):
    written = json.loads(json.dumps(config_lib.to_json(tiny_config)))
    config = config_lib.from_json(written)
    config_lib.validate(config)
    assert config.to_dict() == tiny_config.to_dict()
    assert config.model.channel_mult == (1,)
    assert isinstance(config.model.channel_mult, tuple)


def test_load_config_applies_overrides():
    config = load_config(DIGITS, ['--config.p_uncond=0.25', '--config.sweep.w=(0.5,)'])
    assert config.p_uncond == 0.25
    assert config.sweep.w == (0.5,)


@pytest.mark.parametrize(
    ('override', 'words'),
    [
        ('--config.p_uncnd=0.2', "did you mean 'p_uncond'?"),
        ('--config.modle.width=8', "did you mean 'model.width'?"),
        ('--config.width=8', "did you mean 'model.width'?"),
        (
            '--config.train.steps=many',
            "train.steps must be a whole number of at least 1; got 'many'",
        ),
        ('--config.data.flip=maybe', "data.flip must be True or False; got 'maybe'"),
        ('--config.p_uncond=1.5', 'p_uncond must be a number in [0, 1]'),
        ('--config.p_uncond', 'lacks a value'),
    ],
)
def test_load_config_refuses_overrides(override, words):
    assert words in user_error(load_config, DIGITS, [override])


def test_load_config_lists_the_files_of_the_folder():
    message = user_error(load_config, str(ROOT / 'configs' / 'digit.py'))
    assert 'configs/digit.py' in message
    assert 'digits.py' in message


def test_load_config_says_which_files_and_variants_there_are(monkeypatch):
    monkeypatch.chdir(ROOT)
    message = user_error(load_config, 'digits.py:table')
    assert message == "no config file 'digits.py'; did you mean 'configs/digits.py:table'?"
    assert user_error(load_config, 'none').endswith('those of ours are in configs/')
    for variant in ('foo', 'foo_classifier'):
        message = user_error(load_config, f'configs/digits.py:{variant}')
        assert message.startswith(f"configs/digits.py: no variant '{variant}'; there are: table")


def test_load_config_refuses_what_is_no_config(tmp_path):
    (tmp_path / 'broken.py').write_text('def get_config(:\n')
    assert 'broken.py' in user_error(load_config, str(tmp_path / 'broken.py'))
    (tmp_path / 'dictionary.py').write_text('def get_config():\n    return {}\n')
    assert 'ConfigDict' in user_error(load_config, str(tmp_path / 'dictionary.py'))


def test_a_value_of_another_type_in_a_file_names_its_line(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(
        'from configs import digits\n\n\ndef get_config():\n    config = digits.get_config()\n'
        '    config.model.remat = True\n    return config\n'
    )
    sentence = user_error(load_config, path)
    assert f'{path}, line 6: ' in sentence
    assert "'remat'" in sentence


def test_a_frozen_config_does_not_follow_that_it_was_made_from():
    config = config_lib.base_config()
    fixed = config_lib.frozen(config)
    config.sampler.num_steps = 1
    copy = config_lib.thawed(fixed)
    copy.sampler.num_steps += 1
    again = config_lib.thawed(fixed)
    assert again.sampler.num_steps == fixed.sampler.num_steps == copy.sampler.num_steps - 1 > 1
