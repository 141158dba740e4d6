"""The guidance rule and the sampler that a config names."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from cfg_jax import guidance as guidance_lib
from cfg_jax.errors import UserError
from cfg_jax.guidance import Rule
from cfg_jax.models import networks as networks_lib
from cfg_jax.registry import parse_options
from cfg_jax.samplers import GRIDS, SAMPLERS, Sampler


def make_rule(config: ConfigDict) -> Rule:
    """The guidance rule of a config, see `guidance.make_rule`."""
    options = f':{config.guidance.options}' if config.guidance.options else ''
    return guidance_lib.make_rule(config.guidance.rule + options)


def make_sampler(config: ConfigDict) -> Sampler:
    """The sampler of a config, on the levels of its grid and schedule."""
    options = f':{config.sampler.options}' if config.sampler.options else ''
    return named_sampler(config, config.sampler.name + options)


def named_sampler(config: ConfigDict, spec: str | Sampler) -> Sampler:
    """The sampler 'NAME' or 'NAME:OPTION=VALUE,...', with the config's settings that it has; a
    sampler itself as it is.

    Raises:
      UserError: no such sampler or option, the number of steps among the options, or neither a text
        nor a sampler.
    """
    if isinstance(spec, Sampler):
        return spec
    if not isinstance(spec, str):
        raise UserError(f"a sampler is a text such as 'ancestral:v=0.3'; got {spec!r}")
    name, _, options = spec.partition(':')
    if 'num_steps' in parse_options(SAMPLERS.load(name), options, f'sampler {name!r}'):
        raise UserError(
            f'{spec}: the number of steps is no option here; give it as num_steps (--num_steps)'
        )
    grid = GRIDS.make(config.sampler.grid, schedule=networks_lib.make_schedule(config))
    settings = config.sampler.to_dict() | {'grid': grid}
    known = {field.name for field in dataclasses.fields(SAMPLERS.load(name))}
    return SAMPLERS.make(
        name, options, **{key: value for key, value in settings.items() if key in known}
    )


def record_of(sampler: Sampler, config: ConfigDict) -> dict[str, Any]:
    """The config's groups `sampler` and `diffusion`, as its `options` change them; of another
    sampler than theirs its type, and the instance as `options`."""
    recorded = config.sampler.to_dict() | config.diffusion.to_dict()
    recorded |= {'revision': sampler.revision} if sampler.revision else {}
    if sampler == make_sampler(config):
        return recorded | {k: v for k, v in vars(sampler).items() if k in ('v', 'clip')}
    name, steps = type(sampler).__name__, sampler.num_steps
    return recorded | {'name': name, 'num_steps': steps, 'options': repr(sampler)}
