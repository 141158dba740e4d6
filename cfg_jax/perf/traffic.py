"""What an optimised program reads, writes, sends and, on TPU, is estimated to take."""

import re
from typing import Any, NamedTuple

from cfg_jax.perf.program_text import Computation, Instruction, Program, array_bytes, arrays
from cfg_jax.perf.scopes import scope_of

COLLECTIVES = (
    'all-reduce',
    'all-gather',
    'reduce-scatter',
    'all-to-all',
    'collective-permute',
    'collective-broadcast',
)
PRODUCTS = ('convolution', 'matrix product', 'attention')
# What moves nothing: names, views, and the ends of what another instruction has begun.
_FREE = {'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all', 'while'}
_FREE |= {'partition-id', 'replica-id', 'opt-barrier', 'conditional', 'call', 'async-start'}
_SLICES = ('slice', 'dynamic-slice', 'gather')
_MOVES = {'copy', 'copy-start', 'transpose', 'reshape', 'reverse', 'bitcast', 'broadcast', 'iota'}
_MOVES |= {'slice', 'slice-start', 'dynamic-slice', 'dynamic-update-slice'}
_MOVES |= {'concatenate', 'pad'}
_TARGETS = (
    (re.compile('fmha|flash|attention|tpu_custom_call', re.I), 'attention'),  # TPUs' kernel is one
    (re.compile('conv', re.I), 'convolution'),
    (re.compile('gemm|matmul|dot', re.I), 'matrix product'),
)
_NAMES = {'AllocateBuffer', 'ConcatBitcast'}  # targets of TPUs that name memory, no libraries
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_WORKSPACE = re.compile(r', [su]8\[\d+\]\S*\)')  # scratch memory of a library's call
_TARGET = re.compile(r'custom_call_target="([^"]+)"')


class Traffic(NamedTuple):
    """Of one device in one run of the program.

    Attributes:
      bytes: read and written in its memory, by kind of instruction.
      calls: how many of them ran, by kind.
      collectives: by opcode, {'count', 'bytes'}.
      cycles: the compiler's own estimates, summed, of all but kernels; 0 where it gives none.
      kernels: targets of its calls of libraries, and how many.
      scopes: bytes by pass and module, see `scopes.scope_of`.
    """

    bytes: dict[str, int]
    calls: dict[str, int]
    collectives: dict[str, dict[str, int]]
    cycles: int
    kernels: dict[str, int]
    scopes: dict[str, int]


def measure(program: Program) -> Traffic:
    """What a program moves.

    An instruction reads its operands and writes its result once, whatever the caches do; of an
    operand that a fusion only takes slices of, the slices count.
    """
    found = Traffic({}, {}, {}, 0, {}, {})
    cycles = 0
    for instruction, computation, times in program.executed():
        opcode = instruction.opcode
        estimate = _CYCLES.search(instruction.attributes)
        cycles += times * int(estimate[1]) if estimate else 0
        if opcode in _FREE or opcode.endswith(('-done', '-update')):
            continue
        base = opcode.removesuffix('-start')
        if base in COLLECTIVES:
            sent = found.collectives.setdefault(base, {'count': 0, 'bytes': 0})
            sent['count'] += times
            sent['bytes'] += times * _sent(instruction, computation)
            kind = 'collective'
        else:
            kind = kind_of(instruction, program)
        target = _target_of(instruction)
        if target:
            found.kernels[target] = found.kernels.get(target, 0) + times
        moved = times * _moved(instruction, computation, program)
        found.bytes[kind] = found.bytes.get(kind, 0) + moved
        scope = scope_of(instruction)
        found.scopes[scope] = found.scopes.get(scope, 0) + moved
        found.calls[kind] = found.calls.get(kind, 0) + times
    return found._replace(cycles=cycles)


def kind_of(instruction: Instruction, program: Program) -> str:
    """What an instruction mostly is: 'convolution', 'reduction', 'elementwise', 'copy', ..."""
    target = _target_of(instruction)
    if target:
        matches = (kind for pattern, kind in _TARGETS if pattern.search(target))
        return next(matches, 'other library')
    inside = [instruction, *_all_inside(instruction, program)]
    opcodes = {one.opcode for one in inside}
    if 'convolution' in opcodes:
        return 'convolution' if any(_has_windows(one) for one in inside) else 'matrix product'
    if 'dot' in opcodes:
        return 'matrix product'
    if opcodes & {'reduce', 'reduce-window'}:
        return 'reduction'
    if opcodes & {'gather', 'scatter', 'sort'}:
        return 'gather, scatter, sort'
    views = {'fusion', 'parameter', 'constant', 'tuple', 'get-tuple-element'}
    return 'copy' if opcodes <= _MOVES | views else 'elementwise'


def collective_seconds(traffic: Traffic, chips: int, rate: float) -> float:
    """2 (n - 1) / n bytes over `rate` [bytes/s] for a reduction over n chips in a ring."""
    steps = {'all-reduce': 2.0, 'collective-permute': chips / max(chips - 1, 1)}
    return sum(
        steps.get(kind, 1.0) * (chips - 1) / chips * sent['bytes'] / rate
        for kind, sent in traffic.collectives.items()
    )


def to_json(traffic: Traffic) -> dict[str, Any]:
    """The largest kinds first."""
    kinds = sorted(traffic.bytes, key=lambda kind: -traffic.bytes[kind])
    by_kind = {
        kind: {'bytes': traffic.bytes[kind], 'instructions': traffic.calls[kind]} for kind in kinds
    }
    return {
        'bytes': sum(traffic.bytes.values()),
        'bytes_by_kind': by_kind,
        'bytes_by_scope': dict(sorted(traffic.scopes.items(), key=lambda item: -item[1])),
        'collectives': traffic.collectives,
        'estimated_cycles': traffic.cycles or None,
        'library_calls': dict(sorted(traffic.kernels.items(), key=lambda item: -item[1])),
    }


def _target_of(instruction: Instruction) -> str:
    """What a call of a library calls; '' of other instructions."""
    found = _TARGET.search(instruction.attributes)
    return found[1] if found else ''


def _moved(instruction: Instruction, computation: Computation, program: Program) -> int:
    if instruction.opcode in _SLICES:
        return 2 * array_bytes(instruction.result)
    if instruction.opcode == 'slice-start':  # its result names the whole, then the slice
        whole, taken, *_ = arrays(instruction.result)
        return taken.bytes * (2 - whole.on_chip - taken.on_chip)
    if _target_of(instruction) in _NAMES:
        return 0
    if instruction.opcode == 'dynamic-update-slice':
        return 2 * _bytes_of(instruction.operands[1], computation)
    if instruction.opcode == 'copy-start':  # its result names both ends
        return array_bytes(instruction.result)
    result = instruction.result
    if instruction.opcode == 'custom-call':
        result = _WORKSPACE.sub(')', result)
    body = program.body(instruction)
    parameters = {_number(one): one for one in body.values() if one.opcode == 'parameter'}
    read = 0
    for i, operand in enumerate(instruction.operands):
        whole = _bytes_of(operand, computation)
        read += min(whole, _read_of(parameters.get(i), body, whole))
    root = next((one for one in body.values() if one.root), None)
    if root is not None and root.opcode == 'dynamic-update-slice':
        return read + _bytes_of(root.operands[1], body)
    return read + array_bytes(result)


def _read_of(array: Instruction | None, body: Computation, whole: int) -> int:
    """Bytes that a fusion reads of an array: slices of it, if nothing else uses it.

    Args:
      array: a parameter, or what only views or converts one.
      body: the fusion's.
      whole: the array's bytes.
    """
    if array is None or array.root:
        return whole
    total = 0
    for user in body.values():
        if array.name not in user.operands:
            continue
        if user.opcode == 'dynamic-update-slice' and user.operands[0] == array.name:
            continue  # written in place
        if user.opcode in ('bitcast', 'convert'):
            size = array_bytes(user.result, everywhere=True)
            total += whole * _read_of(user, body, size) // size
        elif user.opcode in _SLICES and user.operands[0] == array.name:
            total += array_bytes(user.result)
        else:
            return whole
    return total


def _sent(instruction: Instruction, computation: Computation) -> int:
    return sum(
        array_bytes(computation[operand].result, everywhere=True)
        for operand in instruction.operands
        if operand in computation
    )


def _bytes_of(name: str, computation: Computation) -> int:
    return array_bytes(computation[name].result) if name in computation else 0


def _number(parameter: Instruction) -> int:
    return int(parameter.line.partition('parameter(')[2].partition(')')[0])


def _all_inside(instruction: Instruction, program: Program) -> list[Instruction]:
    inside: list[Instruction] = []
    for one in program.body(instruction).values():
        inside += [one, *_all_inside(one, program)]
    return inside


def _has_windows(instruction: Instruction) -> bool:
    """Whether a convolution has spatial dimensions of its own; TPUs write products as ones."""
    labels = re.search(r'dim_labels=(\w+)_', instruction.attributes)
    return instruction.opcode == 'convolution' and bool(labels and re.search(r'\d', labels[1]))
