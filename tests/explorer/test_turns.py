"""A queue of one: who draws, who waits, who is told that a newer one came."""

import asyncio
import contextlib

import pytest

from cfg_jax.explorer.turns import Superseded, Turns


class Visitors:
    """Tasks that take a turn each, and what happened to them in order."""

    def __init__(self):
        self.turns, self.log, self.doors = Turns(), [], {}

    async def _visit(self, name):
        try:
            async with self.turns.turn():
                self.log.append(f'{name} in')
                await self.doors[name].wait()
                if name.startswith('failing'):
                    raise ValueError
        except Superseded:
            self.log.append(f'{name} superseded')
        else:
            self.log.append(f'{name} out')

    async def come(self, name):
        self.doors[name] = asyncio.Event()
        task = asyncio.create_task(self._visit(name))
        await settled()
        return task


async def settled():
    for _ in range(10):
        await asyncio.sleep(0)


def play(scene):
    """What the visitors of an async function have logged."""
    visitors = Visitors()

    async def whole():
        await asyncio.wait_for(scene(visitors), 5)

    asyncio.run(whole())
    return visitors.log


def test_the_newest_waits_and_the_one_before_is_told():
    async def scene(visitors):
        tasks = [await visitors.come(name) for name in 'abcd']
        assert visitors.log == ['a in', 'b superseded', 'c superseded']
        for name in 'ad':
            visitors.doors[name].set()
        await asyncio.gather(*tasks)

    log = play(scene)
    assert log[3:] in (['a out', 'd in', 'd out'], ['d in', 'a out', 'd out'])


def test_one_at_a_time():
    async def scene(visitors):
        for name in 'abc':
            task = await visitors.come(name)
            visitors.doors[name].set()
            await task

    assert play(scene) == ['a in', 'a out', 'b in', 'b out', 'c in', 'c out']


@pytest.mark.parametrize('end', ['error', 'cancelled'])
def test_a_turn_is_released_however_it_ends(end):
    async def scene(visitors):
        first = await visitors.come('failing')
        second = await visitors.come('b')
        if end == 'error':
            visitors.doors['failing'].set()
        else:
            first.cancel()
        with contextlib.suppress(ValueError, asyncio.CancelledError):
            await first
        visitors.doors['b'].set()
        await second

    assert play(scene) == ['failing in', 'b in', 'b out']


def test_who_leaves_while_waiting_leaves_nothing_behind():
    async def scene(visitors):
        first = await visitors.come('a')
        waiting = await visitors.come('b')
        waiting.cancel()
        await asyncio.wait([waiting])
        visitors.doors['a'].set()
        await first
        third = await visitors.come('c')
        visitors.doors['c'].set()
        await third

    assert play(scene) == ['a in', 'a out', 'c in', 'c out']


def test_who_comes_at_the_moment_of_a_release_is_newer():
    """The one who waited has been woken, but has not run yet."""

    async def scene(visitors):
        tasks = [await visitors.come('a'), await visitors.come('b')]
        for name in 'bc':
            visitors.doors[name] = asyncio.Event()
            visitors.doors[name].set()
        visitors.doors['a'].set()
        tasks.append(asyncio.create_task(visitors._visit('c')))
        await asyncio.gather(*tasks)

    log = play(scene)
    assert 'b superseded' in log
    assert 'c out' in log
    assert 'b in' not in log
