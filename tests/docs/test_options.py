"""docs/options.md has every option of every rule and sampler, with its default."""

import dataclasses

import pytest
from support import ROOT

from cfg_jax.guidance import RULES
from cfg_jax.samplers import SAMPLERS

OF_ALL = {'inner', 'num_steps', 'grid', 'clip'}
OTHERS = {('ancestral', 'v'): '0.3', ('composition', 'labels'): 'none'}  # the config's; ''


def listed():
    """(name, option) -> default, of the tables."""
    found, names = {}, ()
    for line in (ROOT / 'docs' / 'options.md').read_text().splitlines():
        if not line.startswith('| `') and not line.startswith('| |'):
            continue
        name, option, default, meaning = (cell.strip() for cell in line.strip('|').split('|'))
        names = name.replace('`', '').split(', ') if name else names
        assert meaning
        found |= {(each, option.strip('`')): default for each in names}
    return found


@pytest.mark.parametrize('registry', [RULES, SAMPLERS], ids=['rules', 'samplers'])
def test_every_option_is_listed_with_its_default(registry):
    expected = {
        (name, field.name): OTHERS.get((name, field.name), str(field.default))
        for name in registry
        for field in dataclasses.fields(registry.load(name))
        if field.name not in OF_ALL
    }
    assert {key: value for key, value in listed().items() if key[0] in registry} == expected
