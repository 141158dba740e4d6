"""What compilations found, as tables: of one machine in the terminal, of all in a page."""

from collections.abc import Sequence
from typing import Any

from etils import epath

from cfg_jax import files
from cfg_jax.errors import UserError
from cfg_jax.perf.compiled_programs import KEYS
from cfg_jax.perf.memory import gib

Result = dict[str, Any]
BEGIN = '<!-- generated: python scripts/compile_for.py --tables=docs/launching.md -->'
END = '<!-- end of what is generated -->'

_TRAINING = (
    'machine',
    'remat',
    'images at once a chip',
    'grad_accum',
    'peak, GiB of',
    'GFLOP an image',
    'all-reduced, GiB',
    'read and written, GiB',
    'estimate, images/s',
    'cycles, M',
    'attention',
    'compiled in',
)
_SCOPES = 16  # modules that move the most, of each program
_SAMPLING = ('machine', 'images', 'peak, GiB of', 'read and written, GiB', 'estimate, images/s')
_SAMPLING += ('cycles, M', 'attention', 'compiled in')


def of_one(content: Result) -> str:
    """Everything that was compiled of a config for a machine, for people."""
    lines = [f'{content["config"]} on {content["topology"]}']
    for name, program in content['programs'].items():
        lines += ['', f'{name}: {_verdict(program)}']
        if not program['compiles']:
            continue
        memory, line = program['memory'], program['roofline']
        lines += [
            f'  memory a chip   arguments {gib(memory["arguments"])}, temporaries'
            f' {gib(memory["temporaries"])}, peak {gib(memory["peak"])} of'
            f' {gib(memory["usable"])}',
            f'  operations      {program["gflop_per_image"]:,.1f} GFLOP an image,'
            f' {line["operations_ms"]:,.2f} ms at the peak',
            f'  attention       {program["attention"]}',
        ]
        moved = program['traffic']
        calls = sum(found['instructions'] for found in moved['bytes_by_kind'].values())
        lines += [f'  instructions    {calls:,}, of which a GPU makes a kernel or more each']
        lines += [
            f'  {kind:<24} {found["bytes"] / 2**30:10,.3f} GiB in {found["instructions"]:,}'
            for kind, found in moved['bytes_by_kind'].items()
        ]
        most = list(moved.get('bytes_by_scope', {}).items())[:_SCOPES]  # kept ones may lack it
        lines += ['  of these, by module'] if most else []
        lines += [f'    {scope:<22} {amount / 2**30:10,.3f} GiB' for scope, amount in most]
        lines += [
            f'  {kind} x {found["count"]}: {found["bytes"] / 2**30:,.3f} GiB,'
            f' {line["collectives_ms"]:,.2f} ms'
            for kind, found in moved['collectives'].items()
        ]
        if moved['estimated_cycles']:
            kernels = moved['library_calls'].get('tpu_custom_call', 0)
            without = f', without {kernels} calls of kernels' if kernels else ''
            cycles = moved['estimated_cycles'] / 1e6
            lines.append(f'  estimated cycles {cycles:,.1f} M{without}')
        lines.append(
            f'  estimate        {line["estimated_images_per_second"]:,.1f} images/s'
            f' ({line["estimated_ms"]:,.1f} ms): a bound, not a measurement'
        )
    best = best_trainings(content['programs'].values())
    for remat, program in best.items():
        lines += ['', f'remat={remat}: {_advice(program)}']
    return '\n'.join(lines)


def best_trainings(programs: Any) -> dict[str, Result]:
    """By policy of remat the training of the config's batch with the most images that fits.

    Where none fits, the smallest that was tried.
    """
    found: dict[str, Result] = {}
    for program in programs:
        if program['program'] != 'training' or program['batch_size'] != program['config_batch']:
            continue
        before = found.get(program['remat'])
        if before is None or _rank(program) > _rank(before):
            found[program['remat']] = program
    return found


def tables(contents: Sequence[Result]) -> str:
    """Markdown of all configs and machines."""
    text = []
    for config in dict.fromkeys(content['config'] for content in contents):
        own = [content for content in contents if content['config'] == config]
        rows = [
            _training_row(content['topology'], remat, program)
            for content in own
            for remat, program in best_trainings(content['programs'].values()).items()
        ]
        text += [f'**`{config}`**, the training step', '', _markdown(_TRAINING, rows), '']
        rows = [
            _sampling_row(content['topology'], program)
            for content in own
            for program in content['programs'].values()
            if program['program'] != 'training'
        ]
        if rows:
            text += [f'**`{config}`**, guided sampling', '', _markdown(_SAMPLING, rows), '']
    return '\n'.join(text)


def replaced(page: str, directory: epath.Path) -> str:
    """The page with the tables of all results of a directory between its two marks.

    Raises:
      UserError: a page without the marks, or no results.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise UserError(f'the page lacks the lines {BEGIN!r} and {END!r}')
    if not any(directory.glob('*.json')):
        raise UserError(f'{directory} holds no results of compile_for.py; name them with --out')
    advice = 'move what is not of compile_for.py away'
    contents = [
        files.read_json(file, keys=KEYS, advice=advice) for file in sorted(directory.glob('*.json'))
    ]
    return f'{head}{BEGIN}\n\n{tables(contents)}\n{END}{tail}'


def _rank(program: Result) -> tuple[bool, int]:
    at_once = program['images_at_once_a_chip']
    return program['fits'], at_once if program['fits'] else -at_once


def _verdict(program: Result) -> str:
    if not program['compiles']:
        return f'does not compile: {program["why"]}'
    fits = 'fits' if program['fits'] else 'does not fit'
    return f'compiles in {program["compile_seconds"]:,.0f} s, {fits}'


def _advice(program: Result) -> str:
    at_once, accum = program['images_at_once_a_chip'], program['grad_accum']
    if not program['fits']:
        return f'{at_once} images at once a chip do not fit'
    return f'{at_once} images at once a chip fit: train.grad_accum={accum}'


def _training_row(machine: str, remat: str, program: Result) -> list[str]:
    cells = [machine, remat, str(program['images_at_once_a_chip']), str(program['grad_accum'])]
    if not program['compiles']:
        return [*cells, _needed(program), *[''] * 7]
    reduced = program['traffic']['collectives'].get('all-reduce', {'bytes': 0, 'count': 0})
    sent = f'{reduced["bytes"] / 2**30:.2f} in {reduced["count"]}'
    flops = f'{program["gflop_per_image"]:,.1f}'
    return [*cells, _peak(program), flops, sent, *_common(program)]


def _sampling_row(machine: str, program: Result) -> list[str]:
    cells = [machine, str(program['batch_size'])]
    if not program['compiles']:
        return [*cells, _needed(program), *[''] * 5]
    return [*cells, _peak(program), *_common(program)]


def _common(program: Result) -> list[str]:
    cycles = program['traffic']['estimated_cycles']
    return [
        f'{program["traffic"]["bytes"] / 2**30:,.0f}',
        f'{program["roofline"]["estimated_images_per_second"]:,.0f}',
        f'{cycles / 1e6:,.0f}' if cycles else '',
        program['attention'],
        f'{program["compile_seconds"]:.0f} s',
    ]


def _peak(program: Result) -> str:
    memory = program['memory']
    fits = '' if program['fits'] else '**does not fit**: '
    return f'{fits}{memory["peak"] / 2**30:.1f} of {memory["usable"] / 2**30:.1f}'


def _needed(program: Result) -> str:
    needed = program['needed_bytes']
    amount = f'{needed / 2**30:.1f}' if needed else 'more'
    return f'**does not compile**: {amount} of {program["usable_bytes"] / 2**30:.1f}'


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)
