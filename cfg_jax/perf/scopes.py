"""Where in the source an instruction of an optimised program comes from."""

import re

from cfg_jax.perf.program_text import Instruction

_NAME = re.compile(r'op_name="([^"]*)"')
_WRAPPERS = {'shard_map', 'while', 'body', 'cond', 'closed_call', 'checkpoint', 'scan'}
_WRAPPERS |= {'rematted_computation', 'custom_jvp_call', 'branch_0_fun', 'branch_1_fun'}
OUTSIDE = 'outside the network'
UNNAMED = 'without a name'


def scope_of(instruction: Instruction) -> str:
    """'backward norm_in': the pass, and the innermost module's name without its numbers.

    A fusion is where its result is. Outside of networks are the update of the parameters and the
    sampler; without a name is what the compiler adds, such as what it fetches ahead of its use.
    """
    found = _NAME.search(instruction.attributes)
    if not found:
        return UNNAMED
    name = found[1]
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
