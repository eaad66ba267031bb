"""Tasks are ended and waited for on every way out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dts.runtime.tasks import end_tasks, wait_first


async def test_a_wait_that_is_cancelled_leaves_no_task_behind() -> None:
    waiting = asyncio.create_task(wait_first(asyncio.Event(), asyncio.Event()))
    while len(asyncio.all_tasks()) < 4:  # this one, the wait, and one for each event
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("which", [0, 1, 2])
async def test_the_first_of_several_ends_the_wait_and_futures_stay(which: int) -> None:
    event, future = asyncio.Event(), asyncio.get_running_loop().create_future()
    if which == 0:
        event.set()
    if which == 1:
        future.set_result(None)
    await wait_first(event, future, timeout=0 if which == 2 else None)
    assert (event.is_set(), future.done(), future.cancelled()) == (which == 0, which == 1, False)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_tasks_have_ended_whatever_they_do_about_it() -> None:
    ended = []

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("stubborn")
            raise ValueError("on its way out")

    async def done() -> str:
        return "done"

    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(stubborn()), asyncio.create_task(done())]
    await asyncio.wait([tasks[1]])
    await end_tasks(tasks)
    assert ended == ["stubborn"]
    assert tasks[1].result() == "done"
