"""`main_many`: many jobs in one call, each with a row, an error and attempts of its own."""

from __future__ import annotations

import msgspec

from dts.wire.dts_pb2 import FAILED, SUCCEEDED, JobBatch, Options
from dts.worker.worker import Worker
from tests.services.worker_bench import Bench, bench, value

__all__ = ["bench"]

MANY = "from dts.worker import Fail, Retry\n"


async def test_a_call_gets_as_many_jobs_as_batch_says_and_each_has_a_row(bench: Bench) -> None:
    bench.write("own/f", "def main_many(items): return [[item[0] * 2, len(items)] for item in items]")
    async with Worker(bench.settings(), bench.broker):
        results = await bench.run("own/f", *([n] for n in range(10)), options=Options(batch=4))
    assert [value(result) for result in results] == [[2 * n, 4 if n < 8 else 2] for n in range(10)]
    assert results[0].duration == results[3].duration > 0, "each has its share of the call's time"


async def test_main_beside_it_runs_a_job_that_is_alone_and_async_calls_are_awaited(bench: Bench) -> None:
    bench.write(
        "own/both",
        "def main(n): return ['main', n]\nasync def main_many(items): return [['many', *item] for item in items]",
    )
    bench.write("own/only", "async def main_many(items): return [[*item, item.kwargs] for item in items]")
    async with Worker(bench.settings(), bench.broker):
        assert [value(each) for each in await bench.run("own/both", [1])] == [["main", 1]]
        assert [value(each) for each in await bench.run("own/both", [1], [2])] == [["many", 1], ["many", 2]]
        assert [value(each) for each in await bench.run("own/only", [1])] == [[1, {}]]
        batch = JobBatch(block="named-0", run="named", function="own/only")
        for index in range(2):
            batch.jobs.add(index=index, args=b"[0]", kwargs=msgspec.json.encode({"n": index}))
        await bench.publish(batch)
        assert [value(each) for each in await bench.wait("named", 2)] == [[0, {"n": 0}], [0, {"n": 1}]]


async def test_an_exception_in_the_list_is_that_of_its_own_job(bench: Bench) -> None:
    bench.write(
        "own/f",
        MANY + "ODD = {1: ValueError('one'), 2: Fail('two'), 3: Retry(delay=0), 4: object(), 5: SystemExit(5)}\n"
        "def one(n): return ODD.get(n, n)\n"
        "def main_many(items): return [one(n) for (n,) in items]\n",
    )
    async with Worker(bench.settings(), bench.broker):
        results = await bench.run("own/f", *([n] for n in range(7)), options=Options(max_attempts=2))
    kinds = ["", "ValueError", "Fail", "Retry", "ResultNotJSON", "SystemExit", ""]
    assert [result.error.type for result in results] == kinds
    assert [max(result.attempt, 1) for result in results] == [1, 2, 1, 2, 1, 2, 1]
    assert (value(results[0]), value(results[6])) == (0, 6)


async def test_a_call_that_raises_dies_or_hangs_costs_the_job_at_fault_alone(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import os, signal, time\n"
        "def main_many(items):\n"
        "    for (n,) in items:\n"
        "        if n == 'raises': raise KeyError(n)\n"
        "        if n == 'exits': raise SystemExit(3)\n"
        "        if n == 'dies': os.kill(os.getpid(), signal.SIGSEGV)\n"
        "        while n == 'hangs': time.sleep(0.01)\n"
        "    return [n for (n,) in items]\n",
    )
    async with Worker(bench.settings(poison_after=2), bench.broker):
        for given, options, kind in [
            ("raises", Options(), "KeyError"),
            ("exits", Options(), "SystemExit"),
            ("dies", Options(), "ProcessDied"),
            ("hangs", Options(timeout=3), "Timeout"),
            ("hangs", Options(soft_timeout=3), "SoftTimeout"),
        ]:
            results = await bench.run("own/f", [0], [1], [given], [3], options=options)
            assert [result.error.type for result in results] == ["", "", kind, ""], given
            assert [value(results[n]) for n in (0, 1, 3)] == [0, 1, 3]


async def test_a_list_of_another_length_or_no_list_fails_all_jobs_of_the_call(bench: Bench) -> None:
    bench.write("own/f", "def main_many(items): return [1] if items[0] == ['few'] else 'ab'")
    async with Worker(bench.settings(), bench.broker):
        few = await bench.run("own/f", ["few"], [0], options=Options(max_attempts=3))
        text = await bench.run("own/f", [0], [0])
        [single] = await bench.run("own/f", [0])
    assert {result.status for result in (*few, *text, single)} == {FAILED}
    assert {result.error.type for result in (*few, *text, single)} == {"WrongResults"}
    assert {result.error.message.partition(":")[0] for result in few} == {"main_many returned 1 results for 2 items"}
    assert {max(result.attempt, 1) for result in few} == {1}


async def test_what_a_slow_call_has_not_begun_goes_to_others_in_whole_batches(bench: Bench) -> None:
    """Two workers: the first call of each ends when both are at one."""
    bench.write(
        "own/f",
        "import os, pathlib, time\n"
        "def main_many(items):\n"
        "    folder = pathlib.Path(items[0][1])\n"
        "    folder.mkdir(exist_ok=True)\n"
        "    (folder / str(os.getpid())).touch()\n"
        "    while len(os.listdir(folder)) < 2: time.sleep(0.01)\n"
        "    return [len(items)] * len(items)\n",
    )
    async with Worker(bench.settings(processes=2), bench.broker):
        here = str(bench.functions / "here")
        results = await bench.run("own/f", *([n, here] for n in range(64)), options=Options(batch=8))
    assert {result.status for result in results} == {SUCCEEDED}
    assert [value(result) for result in results] == [8] * 64
