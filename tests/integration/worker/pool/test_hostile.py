"""Functions that do their worst: each costs its own job at most, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from dts.broker import open_broker
from dts.wire.dts_pb2 import FAILED, SUCCEEDED, Options
from dts.wire.queues import RESULTS
from dts.worker.worker import Worker
from tests.services import rabbitmq
from tests.services.hostile import HOSTILE, hostile_module
from tests.services.waiting import until
from tests.services.worker_bench import Bench, bench, is_alive, value

__all__ = ["bench"]

OPTIONS = Options(timeout=1.0, memory_limit=200 * 2**20, max_attempts=1)
PATIENT = Options(timeout=20.0, memory_limit=200 * 2**20, max_attempts=1)
"""For what ends otherwise than by a timeout, on a busy machine, too."""


def descendants() -> set[int]:
    """Process ids below this process."""
    return {process.pid for process in psutil.Process().children(recursive=True)}


def sleepers() -> list[psutil.Process]:
    """The programs that hostile functions have left behind."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cmdline() == ["sleep", "4321"]:
                found.append(process)
    return found


async def test_a_hostile_job_costs_itself_alone(bench: Bench) -> None:
    """Each deed in the middle of a message and a namespace of its own."""
    for how in HOSTILE:
        bench.write(f"h_{how}/hostile", hostile_module())
    before = descendants()
    async with Worker(bench.settings(poison_after=1, processes=4), bench.broker):
        runs = {
            how: await bench.send(
                f"h_{how}/hostile",
                *(["a"], ["b"], [how], ["c"], ["d"]),
                options=OPTIONS if says == "timeout" else PATIENT,
            )
            for how, (_, says) in HOSTILE.items()
        }
        for how, run in runs.items():
            results = await bench.wait(run, 5)
            others = [result for result in results if result.index != 2]
            assert [value(result) for result in others] == ["a", "b", "c", "d"], how
            says = HOSTILE[how][1]
            if says is not None:
                error = results[2].error
                assert results[2].status == FAILED, how
                assert says in f"{error.type}: {error.message}", how
        assert value((await bench.run("text/upper", ["next"]))[0]) == "NEXT", "and the worker goes on"
    await until(lambda: descendants() <= before)
    await until(lambda: not sleepers())
    await bench.wait_empty()


async def test_a_run_with_hostile_jobs_in_it_completes(bench: Bench) -> None:
    """A thousand jobs, one in twenty hostile; the worker's own memory does not grow by it."""
    bench.write("own/hostile", hostile_module())
    quick = [how for how in HOSTILE if HOSTILE[how][1] != "timeout" and how not in ("flood", "memory", "huge_result")]
    hostile = {20 * k: quick[k % len(quick)] for k in range(50)}
    before = descendants()
    async with Worker(bench.settings(processes=2), bench.broker):
        await bench.run("own/hostile", ["a"])
        memory = psutil.Process().memory_info().rss
        calls = [[hostile.get(n, f"line {n}")] for n in range(1000)]
        runs = [
            await bench.send("own/hostile", *calls[first : first + 50], options=OPTIONS) for first in range(0, 1000, 50)
        ]
        for first, run in enumerate(runs):
            for result in await bench.wait(run, 50):
                number = 50 * first + result.index
                if number not in hostile:
                    assert value(result) == f"line {number}"
                elif HOSTILE[hostile[number]][1] is not None:
                    assert result.status == FAILED, (number, hostile[number])
        assert psutil.Process().memory_info().rss - memory < 20 * 2**20
    await until(lambda: descendants() <= before)
    await until(lambda: not sleepers())
    await bench.wait_empty()


async def test_a_child_that_crashes_is_replaced_in_no_time(bench: Bench) -> None:
    bench.write("own/f", "import os\ndef main(how):\n    if how == 'die': os._exit(1)\n    return os.getpid()\n")
    async with Worker(bench.settings(poison_after=1), bench.broker) as worker:
        before = value((await bench.run("own/f", ["live"]))[0])
        results = await bench.run("own/f", *(["die"] for _ in range(20)), ["live"])
        assert [result.status for result in results] == [FAILED] * 20 + [SUCCEEDED]
        assert value(results[-1]) != before
        assert len(worker.executor.pids) == 1


async def test_the_template_may_die(bench: Bench) -> None:
    bench.write("own/f", "import os\ndef main(): return os.getppid()\n")
    async with Worker(bench.settings(), bench.broker) as worker:
        template = value((await bench.run("own/f", []))[0])
        before = {child.pid for child in worker.executor.children}
        os.kill(template, 9)
        await until(lambda: bool({child.pid for child in worker.executor.children} - before))
        assert value((await bench.run("own/f", []))[0]) != template


async def test_a_job_that_kills_the_template_is_found_out(bench: Bench) -> None:
    bench.write("own/f", "import os, time\ndef main(how):\n    if how: os.kill(os.getppid(), 9); time.sleep(60)\n")
    async with Worker(bench.settings(poison_after=1), bench.broker):
        results = await bench.run("own/f", [0], [1], [0])
    assert [result.status for result in results] == [SUCCEEDED, FAILED, SUCCEEDED]


async def test_a_template_that_a_job_has_stopped_is_replaced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dts.worker.pool.spawner._ASK_EVERY", 0.2)
    monkeypatch.setattr("dts.worker.pool.spawner._PATIENCE", 3)
    bench.write(
        "own/f",
        "import os, signal\n"
        "def main(how):\n"
        "    if how == 'stop': os.kill(os.getppid(), signal.SIGSTOP)\n"
        "    if how == 'exit': os._exit(3)\n"
        "    return os.getppid()\n",
    )
    async with Worker(bench.settings(poison_after=1, processes=2), bench.broker):
        template = value((await bench.run("own/f", ["good"]))[0])
        assert value((await bench.run("own/f", ["stop"]))[0]) == template
        runs = [await bench.send("own/f", [how]) for how in ("exit", "exit", "good", "good")]
        results = [(await bench.wait(run, 1))[0] for run in runs]
        assert [result.status for result in results] == [FAILED, FAILED, SUCCEEDED, SUCCEEDED]
        assert results[0].error.reason == "poison"
        assert value((await bench.run("own/f", ["good"]))[0]) != template
        assert "has not answered" in caplog.text
        await until(lambda: not is_alive(template))


# the same on RabbitMQ


@pytest.fixture
async def rabbit_bench(tmp_path: Path) -> AsyncIterator[Bench]:
    if not rabbitmq.available():
        pytest.skip("no RabbitMQ")
    functions = tmp_path / "functions"
    functions.mkdir()
    with rabbitmq.RabbitServer() as server:
        async with open_broker(server.url) as broker, await broker.consume(RESULTS, prefetch=1000) as results:
            yield Bench(broker, results, functions)


async def test_hostile_jobs_on_rabbitmq(rabbit_bench: Bench) -> None:
    rabbit_bench.write("own/hostile", hostile_module())
    async with Worker(rabbit_bench.settings(processes=2), rabbit_bench.broker):
        for how in ("sys_exit", "os_exit", "segfault", "endless", "closed_all", "memory", "daemon"):
            results = await rabbit_bench.run("own/hostile", ["a"], [how], ["b"], options=OPTIONS)
            assert [value(results[0]), value(results[2])] == ["a", "b"]
            if HOSTILE[how][1] is not None:
                assert results[1].status == FAILED
    await until(lambda: not sleepers())
    assert (await rabbit_bench.broker.depth("dts.jobs.default")).ready == 0
