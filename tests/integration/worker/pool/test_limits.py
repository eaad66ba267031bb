"""Time limits, memory limits, attempts: what a function's record or a job asks for, and what the worker does."""

from __future__ import annotations

import time

import pytest

from dts.wire.dts_pb2 import FAILED, RETRY, SUCCEEDED, JobBatch, Options
from dts.worker.worker import Worker
from tests.services.worker_bench import Bench, bench, value

__all__ = ["bench"]

LOOP = "import time\ndef main(how):\n    if how == 'loop':\n        while True: pass\n    return how\n"
REGEX = "import re\ndef main(how):\n    if how == 'loop': re.match('(a+)+$', 'a' * 60 + 'b')\n    return how\n"
FAST = {"backoff_base": 0.01}


@pytest.mark.parametrize("code", [LOOP, REGEX])
async def test_a_job_past_its_timeout_is_killed_and_the_rest_goes_on(bench: Bench, code: str) -> None:
    bench.write("own/f", code)
    async with Worker(bench.settings(), bench.broker):
        results = await bench.run("own/f", ["a"], ["loop"], ["b"], options=Options(timeout=0.5))
    assert [result.status for result in results] == [SUCCEEDED, FAILED, SUCCEEDED]
    error = results[1].error
    assert (error.type, error.reason) == ("Timeout", "timeout")
    assert "0.5 s" in error.message
    assert 0.4 < results[1].duration < 3.0, "the time for which it ran"
    await bench.wait_empty()


async def test_a_timeout_of_an_async_job_costs_the_others_nothing(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import asyncio, time\n"
        "async def main(n):\n"
        "    await asyncio.sleep(0.01)\n"
        "    if n == 2: time.sleep(1000)\n"
        "    await asyncio.sleep(0.05)\n"
        "    return n\n",
    )
    async with Worker(bench.settings(), bench.broker):
        batch = make_batch("own/f", 4)
        batch.jobs[2].options.timeout = 0.5
        await bench.publish(batch)
        results = await bench.wait(batch.run, 4)
    assert [result.status for result in results] == [SUCCEEDED, SUCCEEDED, FAILED, SUCCEEDED]
    assert results[2].error.type == "Timeout"


async def test_async_jobs_beside_one_that_times_out_are_not_run_again(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import asyncio\n"
        "async def main(log, n):\n"
        "    with open(log, 'a') as file: file.write(f'{n}\\n')\n"
        "    try:\n"
        "        await asyncio.sleep(60 if n == 1 else 0.6)\n"
        "    finally:\n"
        "        await asyncio.sleep(0)\n"
        "    return n\n",
    )
    log = bench.functions / "log"
    async with Worker(bench.settings(), bench.broker):
        options = Options(timeout=0.3)
        (late,) = await bench.run("own/f", [str(log), 1], options=options)
        assert (late.error.type, late.error.reason) == ("Timeout", "timeout")
        batch = make_batch("own/f", 3, args=b'["%s", 0]' % str(log).encode())
        batch.jobs[1].args = b'["%s", 1]' % str(log).encode()
        batch.jobs[1].options.timeout = 0.3
        await bench.publish(batch)
        results = await bench.wait(batch.run, 3)
    assert [result.status for result in results] == [SUCCEEDED, FAILED, SUCCEEDED]
    assert log.read_text().split() == ["1", "0", "1", "0"]


@pytest.mark.parametrize("swallow", [False, True])
async def test_a_soft_timeout_is_an_exception_in_the_function(bench: Bench, swallow: bool) -> None:
    bench.write(
        "own/f",
        "import time\n"
        "from dts.worker import SoftTimeout\n"
        "def main(seconds, swallow):\n"
        "    try:\n"
        "        time.sleep(seconds)\n"
        "    except SoftTimeout:\n"
        "        if not swallow: raise\n"
        "        return 'cleaned up'\n"
        "    return 'in time'\n",
    )
    async with Worker(bench.settings(), bench.broker):
        calls = ([0, swallow], [60, swallow], [0.01, swallow])
        results = await bench.run("own/f", *calls, options=Options(soft_timeout=0.3))
    assert value(results[0]) == value(results[2]) == "in time"
    if swallow:
        assert value(results[1]) == "cleaned up"
    else:
        assert (results[1].error.type, results[1].error.reason) == ("SoftTimeout", "timeout")
    assert 0.25 < results[1].duration < 10


async def test_a_soft_timeout_cancels_an_async_job(bench: Bench) -> None:
    bench.write("own/f", "import asyncio\nasync def main(seconds): await asyncio.sleep(seconds); return seconds")
    async with Worker(bench.settings(), bench.broker):
        results = await bench.run("own/f", [60], [0], [0.01], options=Options(soft_timeout=0.3, concurrency=2))
    assert results[0].error.type == "SoftTimeout"
    assert [value(result) for result in results[1:]] == [0, 0.01]


CATCHES = {
    "returns": "return 'late'",
    "raises": "raise ValueError('late')",
    "goes_on": "await asyncio.sleep(0.05); return 'late'",
    "not_json": "return {1}",
}


@pytest.mark.parametrize("how", CATCHES)
async def test_an_async_job_past_its_timeout_has_failed_of_that_whatever_it_catches(bench: Bench, how: str) -> None:
    bench.write(
        "own/f",
        "import asyncio\nasync def main(n):\n    try: await asyncio.sleep(60 if n == 1 else 0.01)\n"
        f"    except BaseException: {CATCHES[how]}\n    return n\n",
    )
    async with Worker(bench.settings(cancel_grace=20), bench.broker):
        results = await bench.run("own/f", [0], [1], [2], options=Options(timeout=0.3))
    assert [result.error.type for result in results] == ["", "Timeout", ""]
    assert "longer than its timeout of 0.3 s" in results[1].error.message


async def test_a_module_that_is_imported_for_ever_fails_its_jobs(bench: Bench) -> None:
    bench.write("own/f", "import time\nwhile True: time.sleep(1)")
    async with Worker(bench.settings(), bench.broker):
        results = await bench.run("own/f", [1], [2], options=Options(timeout=0.3))
    assert [result.error.type for result in results] == ["Timeout", "Timeout"]
    assert "imported" in results[0].error.message


async def test_a_job_over_its_memory_limit_fails_and_says_so(bench: Bench) -> None:
    bench.write("own/f", "def main(size): return len(bytearray(size * 2**20)) // 2**20")
    async with Worker(bench.settings(), bench.broker):
        results = await bench.run("own/f", [1], [400], [2], options=Options(memory_limit=100 * 2**20))
        assert [result.status for result in results] == [SUCCEEDED, FAILED, SUCCEEDED]
        assert (results[1].error.type, results[1].error.reason) == ("MemoryLimit", "memory")
        assert str(100 * 2**20) in results[1].error.message
        assert value((await bench.run("own/f", [400]))[0]) == 400, "only where there is a limit"


@pytest.mark.parametrize("more", [0, 96, 192, 256, 288, 320])
async def test_memory_that_is_taken_to_the_last_byte_is_still_reported(bench: Bench, more: int) -> None:
    bench.write("own/f", "def main(n):\n    kept = [n]\n    while n: kept = [kept, 'x' * 100 + str(n)]\n    return n\n")
    async with Worker(bench.settings(), bench.broker):
        limit = 50 * 2**20 + more * 2**10  # where it ends matters: nothing may be left of an arena, or of a stack
        results = await bench.run("own/f", [0], [1], [0], options=Options(memory_limit=limit))
    assert [result.status for result in results] == [SUCCEEDED, FAILED, SUCCEEDED]
    assert results[1].error.type == "MemoryLimit"


async def test_memory_that_escapes_the_limit_is_seen_by_the_worker(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import resource, time\n"
        "def main(size):\n"
        "    resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "    kept = b'x' * (size * 2**20)\n"
        "    if size > 100: time.sleep(60)\n"
        "    return size\n",
    )
    async with Worker(bench.settings(), bench.broker):
        results = await bench.run("own/f", [1], [400], [2], options=Options(memory_limit=100 * 2**20))
    assert [result.status for result in results] == [SUCCEEDED, FAILED, SUCCEEDED]
    assert results[1].error.type == "MemoryLimit"


# attempts


async def test_an_attempt_that_failed_is_reported_as_one_until_they_are_used_up(bench: Bench) -> None:
    bench.write("own/f", "from dts.worker import context\ndef main(n): return 1 / (context.attempt - n)")
    async with Worker(bench.settings(**FAST), bench.broker):
        results = await bench.run("own/f", [0], [1], [2], [-7], options=Options(max_attempts=2))
        assert [(result.status, result.attempt or 1) for result in results] == [
            (SUCCEEDED, 1),
            (SUCCEEDED, 2),
            (SUCCEEDED, 1),
            (SUCCEEDED, 1),
        ]
        assert [(retry.index, retry.status) for retry in bench.retries] == [(1, RETRY)]
        assert 0 <= bench.retries[0].delay <= 0.01
        bench.write("own/g", "def main(): raise ValueError('no')")
        (result,) = await bench.run("own/g", [], options=Options(max_attempts=3))
        assert (result.status, result.attempt, result.error.type) == (FAILED, 3, "ValueError")


@pytest.mark.parametrize(
    ("what", "options", "attempts"),
    [
        ("raise ValueError('x')", Options(), 1),
        ("raise ValueError('x')", Options(max_attempts=3, retry_on=["KeyError"]), 1),
        ("raise KeyError('x')", Options(max_attempts=3, retry_on=["LookupError"]), 3),
        ("raise Fail('never')", Options(max_attempts=3), 1),
        ("raise Retry(delay=0.125)", Options(max_attempts=2), 2),
        ("raise Retry()", Options(), 4),
        ("return {1}", Options(max_attempts=3), 1),
    ],
)
async def test_what_is_worth_another_attempt(bench: Bench, what: str, options: Options, attempts: int) -> None:
    bench.write("own/f", f"from dts.worker import Fail, Retry\ndef main(): {what}")
    async with Worker(bench.settings(retry_limit=4, **FAST), bench.broker):
        (result,) = await bench.run("own/f", [], options=options)
    assert result.status == FAILED
    assert (result.attempt or 1) == attempts
    if "delay" in what:
        assert bench.retries[0].delay == 0.125
        assert result.error.type == "Retry"


async def test_a_job_past_its_deadline_is_not_started(bench: Bench) -> None:
    mark = bench.functions / "mark"
    bench.write("own/f", "import pathlib\ndef main(mark): pathlib.Path(mark).touch()")
    async with Worker(bench.settings(), bench.broker):
        (late,) = await bench.run("own/f", [str(mark)], options=Options(deadline=time.time() - 1, max_attempts=5))
        assert late.error.reason == "deadline"
        assert not mark.exists()
        (early,) = await bench.run("own/f", [str(mark)], options=Options(deadline=time.time() + 60))
        assert early.status == SUCCEEDED


async def test_what_is_missing_is_not_tried_again_and_a_broken_import_is(bench: Bench) -> None:
    bench.write("own/broken", "import no_such_package")
    async with Worker(bench.settings(**FAST), bench.broker):
        (missing,) = await bench.run("own/missing", [1], options=Options(max_attempts=3))
        (broken,) = await bench.run("own/broken", [1], options=Options(max_attempts=3))
    assert (missing.error.type, missing.attempt) == ("FunctionMissing", 0)
    assert (broken.error.type, broken.attempt) == ("ImportFailed", 3)


async def test_poison_is_told_with_the_last_words_of_the_process(bench: Bench) -> None:
    bench.write("own/f", "import os\ndef main(): print('the end is near'); os.abort()")
    async with Worker(bench.settings(poison_after=2), bench.broker):
        (result,) = await bench.run("own/f", [], options=Options(max_attempts=1))
    assert (result.kills, result.error.reason) == (2, "poison")
    assert "SIGABRT" in result.error.message
    assert "the end is near" in result.error.traceback
    assert bench.retries[0].error.reason == "crashed"


async def test_a_message_that_came_back_too_often_is_broken_up(bench: Bench) -> None:
    batch = make_batch("text/upper", 5, args=b'["a"]')
    await bench.publish(batch)
    for _ in range(3):
        async with await bench.broker.consume("dts.jobs.default", prefetch=1) as consumer:
            assert await consumer.receive()
    async with Worker(bench.settings(), bench.broker):
        assert len(await bench.wait(batch.run, 5)) == 5
    assert len(bench.batches) == 5, "one message each"
    await bench.wait_empty()


def make_batch(function: str, jobs: int, args: bytes = b"") -> JobBatch:
    """Jobs whose argument is their index, unless another one is given."""
    batch = JobBatch(block="r1-0", run="r1", function=function)
    for index in range(jobs):
        batch.jobs.add(index=index, args=args or b"[%d]" % index)
    return batch
