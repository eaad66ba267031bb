"""Jobs that are over and do not let go: of what they leave behind something blocks, and it costs nobody else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dts.wire.dts_pb2 import FAILED, SUCCEEDED, JobBatch, Options
from dts.worker.queues.publisher import Publisher
from dts.worker.worker import Worker
from tests.services.waiting import until
from tests.services.worker_bench import Bench, bench, is_alive, value

__all__ = ["bench"]

BLOCKING = (
    "import asyncio, time\nclass Conn:\n    def __del__(self): time.sleep(100000)\nclass Kept(dict):\n    conn = None\n"
)
LEFT = {
    "local": "c = Conn(); raise ValueError('x')",
    "cycle": "c = Conn()\n    try: 1 / 0\n    except Exception as error: kept = error; raise",
    "result": "kept = Kept(); kept.conn = Conn(); return kept",
    "no_result": "return {1: Conn()}",
    "argument": "given.append(Conn()); return 1",
    "exit": "c = Conn(); raise SystemExit",
}


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("how", LEFT)
async def test_what_blocks_when_it_is_let_go_takes_of_its_own_jobs_time(bench: Bench, how: str, kind: str) -> None:
    code = f"{BLOCKING}{kind} main(n, given):\n    if n != 1: return n\n    {LEFT[how]}\n"
    bench.write("own/f", code)
    async with Worker(bench.settings(cancel_grace=0.2), bench.broker):
        results = await bench.run("own/f", *([n, []] for n in range(5)), options=Options(timeout=1.0))
    assert [result.status for result in results] == [SUCCEEDED, FAILED] + [SUCCEEDED] * 3
    assert results[1].error.type == "Timeout"
    assert [value(result) for result in results if result.index != 1] == [0, 2, 3, 4]


def shorten(monkeypatch: pytest.MonkeyPatch, seconds: float = 1.5) -> None:
    """Have a stuck child found out sooner."""
    monkeypatch.setattr("dts.worker.pool.stuck.STILL", seconds)


HOLD = (
    "import asyncio, re, threading, time\n"
    "def hold(delay):\n    time.sleep(delay)\n    re.match('(a+)+$', 'a' * 60 + 'b')\n"
    "def leave(delay): threading.Thread(target=hold, args=(delay,), daemon=True).start()\n"
)
STUCK = {
    # what becomes of the job, and its code, after which its process does nothing any more
    "silent": (FAILED, "Outbox.finish = lambda self: None"),
    "waits": (SUCCEEDED, "Outbox.finish = lambda self: threading.Event().wait()"),
    "spins": (SUCCEEDED, "Outbox.finish = lambda self: [None for _ in iter(int, 1)]"),
}


@pytest.mark.parametrize("how", STUCK)
async def test_a_process_that_is_stuck_after_a_job_is_killed_and_what_has_come_of_it_is_kept(
    bench: Bench, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shorten(monkeypatch)
    status, deed = STUCK[how]
    head = "import threading\nfrom dts.worker.child.outbox import Outbox\n"
    bench.write("own/f", f"{head}def main(n):\n    if n != 1: return n\n    {deed}\n")
    async with Worker(bench.settings(poison_after=2), bench.broker):
        results = await bench.run("own/f", [0], [1], [2])
        assert value((await bench.run("text/upper", ["next"]))[0]) == "NEXT"
    assert [result.status for result in results] == [SUCCEEDED, status, SUCCEEDED]
    if status == FAILED:
        assert (results[1].error.type, results[1].error.reason, results[1].kills) == ("ProcessDied", "poison", 2)
        assert "stood still for 1.5 s" in results[1].error.message
        assert "most recent call first" in results[1].error.traceback, "where it stood"
    assert "stood still for 1.5 s" in caplog.text
    await bench.wait_empty()


async def test_a_process_that_does_not_end_by_itself_is_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its functions have left keeps it from going away after it has said that it does."""
    shorten(monkeypatch)
    bench.write(
        "own/f", "import os, threading\ndef main():\n    os._exit = threading.Event().wait\n    return os.getpid()\n"
    )
    async with Worker(bench.settings(), bench.broker) as worker:
        pid = value((await bench.run("own/f", []))[0])
        assert value((await bench.run("text/upper", ["next"]))[0]) == "NEXT"
        assert pid not in worker.executor.pids
        await until(lambda: not is_alive(pid))


async def test_a_slow_import_and_a_lease_that_is_waited_for_are_nothing_to_be_killed_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, 0.3)
    bench.write("own/f", "import time\ntime.sleep(1.2)\ndef main(): time.sleep(0.8); return 'done'\n")
    put = Publisher.put

    def put_later(self: Publisher, *post: Any) -> None:
        asyncio.get_running_loop().call_later(0.8, put, self, *post)

    async with Worker(bench.settings(), bench.broker) as worker:
        await bench.run("text/upper", ["a"])
        before = {child.pid for child in worker.executor.children}
        monkeypatch.setattr(Publisher, "put", put_later)
        assert value((await bench.run("own/f", [], lease=True))[0]) == "done"
        assert before <= {child.pid for child in worker.executor.children}


async def test_what_a_job_has_left_behind_costs_no_job_beside_it(bench: Bench) -> None:
    """A thread that holds the interpreter's lock, so that the next job passes its timeout."""
    bench.write("own/f", f"{HOLD}def main(n):\n    if n == 1: leave(0.03)\n    else: time.sleep(0.02)\n    return n\n")
    async with Worker(bench.settings(), bench.broker):
        results = await bench.run("own/f", *([n] for n in range(6)), options=Options(timeout=1.0))
        assert {result.index for result in results if result.status == FAILED} <= {1}
        assert value((await bench.run("own/f", [7], options=Options(timeout=1.0)))[0]) == 7


async def test_it_costs_no_function_that_is_imported_then(bench: Bench) -> None:
    bench.write("own/f", f"{HOLD}def main(): leave(0.3)\n")
    bench.write("own/slow", "import time\ntime.sleep(0.6)\ndef main(): return 'done'\n")
    async with Worker(bench.settings(), bench.broker):
        await bench.run("own/f", [])
        (result,) = await bench.run("own/slow", [], options=Options(timeout=1.5))
    assert value(result) == "done"


BLOCKS = {
    "sleeps": "while True: time.sleep(0.01)",
    "spins": "while True: pass",
    "holds": "re.match('(a+)+$', 'a' * 60 + 'b')",
    "task": "await asyncio.create_task(block())",
}


@pytest.mark.parametrize("how", BLOCKS)
async def test_of_async_jobs_that_are_late_only_the_one_that_blocks_their_loop_is_to_blame(
    bench: Bench, how: str
) -> None:
    code = f"{HOLD}async def block(): time.sleep(1000)\nasync def main(n):\n    await asyncio.sleep(0.02)\n"
    bench.write("own/f", f"{code}    if n == 5:\n        {BLOCKS[how]}\n    await asyncio.sleep(0.05)\n    return n\n")
    async with Worker(bench.settings(cancel_grace=0.3), bench.broker):
        results = await bench.run("own/f", *([n] for n in range(10)), options=Options(timeout=1.0))
    assert [result.index for result in results if result.status == FAILED] == [5]
    assert results[5].error.type == "Timeout"
    assert not any(result.attempt for result in results), "none of them is another attempt"


async def test_a_callback_that_a_job_leaves_on_the_loop_costs_no_job_beside_it(bench: Bench) -> None:
    code = f"{HOLD}async def main(n):\n    if n == 1: asyncio.get_running_loop().call_later(0.05, time.sleep, 1000)\n"
    bench.write("own/f", f"{code}    else: await asyncio.sleep(0.1)\n    return n\n")
    async with Worker(bench.settings(cancel_grace=0.3), bench.broker):
        results = await bench.run("own/f", *([n] for n in range(5)), options=Options(timeout=1.0))
    assert [value(result) for result in results] == [0, 1, 2, 3, 4]


async def test_a_job_without_a_limit_that_blocks_the_loop_runs_on_alone(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import asyncio, time\n"
        "async def main(n):\n"
        "    await asyncio.sleep(0.02)\n"
        "    if n == 2: time.sleep(2.5)\n"
        "    await asyncio.sleep(0.05)\n"
        "    return n\n",
    )
    batch = JobBatch(block="r1-0", run="r1", function="own/f", options=Options(timeout=1.0))
    for n in range(5):
        batch.jobs.add(index=n, args=b"[%d]" % n)
    batch.jobs[2].options.timeout = 0
    async with Worker(bench.settings(cancel_grace=0.3), bench.broker):
        await bench.publish(batch)
        assert [value(result) for result in await bench.wait("r1", 5)] == [0, 1, 2, 3, 4]


async def test_a_loop_that_was_blocked_over_a_timeout_has_a_moment_for_those_beside(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import asyncio, time\n"
        "async def main(n):\n"
        "    await asyncio.sleep(0.02)\n"
        "    if n == 2:\n"
        "        time.sleep(1.3)\n"
        "        await asyncio.sleep(60)\n"
        "    await asyncio.sleep(0.05)\n"
        "    return n\n",
    )
    async with Worker(bench.settings(), bench.broker):
        results = await bench.run("own/f", *([n] for n in range(5)), options=Options(timeout=1.0))
    assert [result.index for result in results if result.status == FAILED] == [2]
    assert results[2].error.type == "Timeout"
