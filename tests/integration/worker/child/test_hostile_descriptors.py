"""Functions that read and write descriptors which are not theirs: their jobs are found, and nobody waits for ever."""

from __future__ import annotations

import pytest

from dts.wire.dts_pb2 import FAILED, SUCCEEDED
from dts.worker.pool import stuck
from dts.worker.worker import Worker
from tests.services.worker_bench import Bench, bench, value

__all__ = ["bench"]

GARBAGE = """
import os
def main(how):
    if how == "write":
        for fd in range(3, 40):
            try:
                os.write(fd, b"x" * 64)
            except OSError:
                pass
    return how
"""


async def test_garbage_to_all_descriptors_costs_the_job_that_wrote_it(bench: Bench) -> None:
    bench.write("own/f", GARBAGE)
    async with Worker(bench.settings(poison_after=2), bench.broker):
        results = await bench.run("own/f", *(["a"] for _ in range(20)), ["write"], *(["b"] for _ in range(20)))
        assert [result.index for result in results if result.status == FAILED] == [20]
        assert "wrote to the descriptor of its socket to the worker" in results[20].error.message
        assert results[20].error.reason == "poison"
        assert [value(result) for result in results if result.index != 20] == ["a"] * 20 + ["b"] * 20
        assert value((await bench.run("text/upper", ["next"]))[0]) == "NEXT", "and the worker goes on"
    await bench.wait_empty()


async def test_garbage_of_an_async_function_costs_no_other_job(bench: Bench) -> None:
    bench.write("own/f", GARBAGE.replace("def main", "import asyncio\nasync def main"))
    async with Worker(bench.settings(poison_after=2), bench.broker):
        runs = [await bench.send("own/f", [how], ["c"]) for how in ("a", "write", "b")]
        found = [await bench.wait(run, 2) for run in runs]
    assert [[result.status for result in results] for results in found] == [
        [SUCCEEDED, SUCCEEDED],
        [FAILED, SUCCEEDED],
        [SUCCEEDED, SUCCEEDED],
    ]


async def test_a_message_that_a_function_has_read_away_is_run_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that a job left behind takes what the worker sends next."""
    monkeypatch.setattr(stuck, "STILL", 0.5)
    bench.write(
        "own/thief",
        "import os, stat, threading\n"
        "def steal(fd):\n"
        "    while True: os.read(fd, 1000000)\n"
        "def main():\n"
        "    for fd in range(3, 40):\n"
        "        try:\n"
        "            if stat.S_ISSOCK(os.fstat(fd).st_mode): threading.Thread(target=steal, args=(fd,)).start()\n"
        "        except OSError: pass\n",
    )
    async with Worker(bench.settings(), bench.broker):
        await bench.run("own/thief", [])
        for _ in range(3):
            assert value((await bench.run("text/upper", ["next"]))[0]) == "NEXT"
