"""XLA's text of an optimised program, read: which instructions run, how often, on what."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r'(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\) -> .*\{\s*$')
_INSTRUCTION = re.compile(
    r'\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<result>.*?) (?P<opcode>[a-z][\w\-]*)\('
)
_ARRAY = re.compile(r'\b(?P<type>pred|[a-z]+\d+\w*)\[(?P<shape>[\d,]*)\](?P<layout>\{[^}]*\})?')
_CALLED = re.compile(r'(?:calls|to_apply|body)=%?([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+)')
_CONDITION = re.compile(r'condition=%?([\w.\-]+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONSTANT = re.compile(r's32\[\]\S* constant\((\d+)\)')


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
      name: of its result.
      opcode: such as 'fusion'.
      result: type and layout of the result, as text.
      operands: names.
      attributes: what stands behind the operands.
      line: all of it.
      root: whether it is the computation's result.
    """

    name: str
    opcode: str
    result: str
    operands: tuple[str, ...]
    attributes: str
    line: str
    root: bool


Computation = dict[str, Instruction]


class Program(NamedTuple):
    """A program's computations by name, and the one that runs."""

    computations: dict[str, Computation]
    entry: str

    def executed(self, name: str | None = None, times: int = 1) -> Iterator[tuple]:
        """(instruction, its computation, how often it runs), loops and calls entered.

        The bodies of fusions are not: a fusion is one instruction. Of the branches of a condition
        the longest counts. A loop whose length the text does not tell counts once.
        """
        computation = self.computations[name or self.entry]
        for instruction in computation.values():
            yield instruction, computation, times
            if instruction.opcode == 'while':
                body = _CALLED.search(instruction.attributes)
                if body:
                    yield from self.executed(body[1], times * self.trips(instruction))
            elif instruction.opcode in ('call', 'async-start'):
                called = _CALLED.search(instruction.attributes)
                if called:
                    yield from self.executed(called[1], times)
            elif instruction.opcode == 'conditional':
                names = _branches(instruction)
                yield from self.executed(max(names, key=lambda n: len(self.computations[n])), times)

    def trips(self, loop: Instruction) -> int:
        """How often a loop runs: as the compiler says, else its condition's largest constant."""
        known = _TRIPS.search(loop.attributes)
        if known:
            return int(known[1])
        condition = _CONDITION.search(loop.attributes)
        lines = self.computations[condition[1]].values() if condition else ()
        constants = [int(n) for line in lines for n in _CONSTANT.findall(line.line)]
        return max(constants, default=1)

    def body(self, fusion: Instruction) -> Computation:
        """What a fusion computes; empty for other instructions."""
        called = _CALLED.search(fusion.attributes) if fusion.opcode == 'fusion' else None
        return self.computations.get(called[1], {}) if called else {}


def parse(text: str) -> Program:
    """The program of `Compiled.as_text()`.

    Raises:
      ValueError: a text without an ENTRY.
    """
    computations: dict[str, Computation] = {}
    current: Computation = {}
    entry = ''
    for line in text.splitlines():
        header = None if line.startswith(' ') else _COMPUTATION.match(line)
        if header:
            current = computations[header['name']] = {}
            entry = header['name'] if header['entry'] else entry
            continue
        found = _INSTRUCTION.match(line)
        if found:
            operands, attributes = _split_operands(line[found.end() :])
            current[found['name']] = Instruction(
                found['name'],
                found['opcode'],
                found['result'],
                tuple(re.findall(r'%([\w.\-]+)', operands)),
                attributes,
                line,
                found['root'] is not None,
            )
    if not entry:
        raise ValueError('a text without an ENTRY is no program')
    return Program(computations, entry)


class ArrayType(NamedTuple):
    """An array in a type's text, such as 'bf16[8,4]{1,0:T(8,128)(2,1)S(1)}'.

    Attributes:
      bytes: of its numbers.
      on_chip: whether it lies in another memory (S) than the chip's main one.
    """

    bytes: int
    on_chip: bool


def arrays(text: str) -> list[ArrayType]:
    """All arrays of a type's text, in its order."""
    found = []
    for array in _ARRAY.finditer(text):
        bits = 8 if array['type'] == 'pred' else int(re.findall(r'\d+', array['type'])[0])
        shape = [int(n) for n in array['shape'].split(',') if n]
        on_chip = re.search(r'S\([1-9]', array['layout'] or '') is not None
        found.append(ArrayType(math.prod(shape) * bits // 8, on_chip))
    return found


def array_bytes(text: str, everywhere: bool = False) -> int:
    """Bytes of all arrays of a type's text that lie in the chip's main memory, or `everywhere`."""
    return sum(array.bytes for array in arrays(text) if everywhere or not array.on_chip)


def _split_operands(rest: str) -> tuple[str, str]:
    """'a, b), c=d' -> ('a, b', ', c=d'); parentheses of layouts inside belong to the operands."""
    depth = 1
    for match in re.finditer(r'[()]', rest):
        depth += 1 if match[0] == '(' else -1
        if depth == 0:
            return rest[: match.start()], rest[match.end() :]
    return rest, ''


def _branches(conditional: Instruction) -> list[str]:
    names = []
    for several, one in _BRANCHES.findall(conditional.attributes):
        names += [one] if one else [name.strip(' %') for name in several.split(',')]
    return names
