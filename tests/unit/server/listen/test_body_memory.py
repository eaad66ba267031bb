"""Room for bodies: bounded in all, shared among users, given back."""

from __future__ import annotations

import asyncio

import pytest

from dts.server.listen.body_memory import BodyMemory


async def test_a_body_waits_until_another_one_is_done() -> None:
    memory = BodyMemory(100)
    await memory.reserve("ann", 60, 1)
    waiting = asyncio.create_task(memory.reserve("bob", 60, 10))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.05)
    memory.release("ann", 60)
    await waiting
    memory.release("bob", 60)
    await memory.reserve("ann", 100, 0.01)  # all of it is free again


async def test_one_user_does_not_take_it_all() -> None:
    memory = BodyMemory(100)
    await memory.reserve("ann", 40, 1)
    with pytest.raises(TimeoutError):
        await memory.reserve("ann", 20, 0.05)
    await memory.reserve("bob", 50, 0.05)


async def test_a_large_body_has_its_turn_among_small_ones() -> None:
    memory = BodyMemory(100)
    await memory.reserve("ann", 40, 1)
    await memory.reserve("bob", 40, 1)
    large = asyncio.create_task(memory.reserve("cat", 90, 10))
    await asyncio.sleep(0)
    small = asyncio.create_task(memory.reserve("dan", 10, 10))
    await asyncio.sleep(0)
    memory.release("ann", 40)
    assert not small.done()
    memory.release("bob", 40)
    await large
    await small


async def test_who_gives_up_waiting_leaves_no_trace() -> None:
    memory = BodyMemory(100)
    await memory.reserve("ann", 100, 1)
    tasks = [asyncio.create_task(memory.reserve("bob", 50, 10)) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()  # in the queue
    memory.release("ann", 100)
    tasks[1].cancel()  # granted in the same moment
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [True, True, False]
    memory.release("bob", 50)
    await memory.reserve("ann", 100, 0.01)


async def test_who_waits_for_their_own_share_holds_nobody_up() -> None:
    memory = BodyMemory(100)
    await memory.reserve("ann", 40, 1)
    own = asyncio.create_task(memory.reserve("ann", 20, 10))
    await asyncio.sleep(0)
    await memory.reserve("bob", 10, 0.05)
    assert not own.done()
    memory.release("ann", 40)
    await own


async def test_who_gives_up_lets_those_behind_in() -> None:
    memory = BodyMemory(100)
    await memory.reserve("ann", 60, 1)
    large = asyncio.create_task(memory.reserve("bob", 50, 10))
    await asyncio.sleep(0)
    small = asyncio.create_task(memory.reserve("cat", 10, 10))
    await asyncio.sleep(0)
    assert not small.done()
    large.cancel()
    await small
