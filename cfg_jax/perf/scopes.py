"""Where in the source an instruction of an optimised program comes from."""

import re

from cfg_jax.perf.program_text import Instruction

_NAME = re.compile(r'op_name="([^"]*)"')
_WRAPPERS = {'shard_map', 'while', 'body', 'cond', 'closed_call', 'checkpoint', 'scan'}
_WRAPPERS |= {'rematted_computation', 'custom_jvp_call', 'branch_0_fun', 'branch_1_fun'}
OUTSIDE = 'outside the network'


def scope_of(instruction: Instruction) -> str:
    """'backward norm_in': the pass, and the innermost module's name without its numbers.

    A fusion is where its result is. Outside of networks are the update of the parameters, the
    sampler, and what the compiler adds without a name.
    """
    found = _NAME.search(instruction.attributes)
    name = found[1] if found else ''
    *path, _primitive = name.split('/')
    # Neither transformations such as jvp(UNet), nor methods such as UNet.block.
    modules = [
        part for part in path if part and not re.search(r'[(.]', part) and part not in _WRAPPERS
    ]
    if not modules:
        return OUTSIDE
    direction = 'backward' if 'transpose(' in name else 'forward'
    module = re.sub(r'_\d+', '', modules[-1])
    return f'{direction} {module}'
