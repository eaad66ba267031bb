"""What jobs tell before they end, what they are told, and how they are stopped."""

from __future__ import annotations

import asyncio

import msgspec

from dts.wire.dts_pb2 import FAILED, SUCCEEDED, LogRecord, Options, Progress
from dts.wire.queues import RESULTS, TOPIC_CANCELLED
from dts.worker.worker import Worker
from tests.services.waiting import until, within
from tests.services.worker_bench import Bench, bench, value

__all__ = ["bench"]


def told(bench: Bench) -> list[Progress]:
    return [progress for batch in bench.batches for progress in batch.progress]


async def test_a_function_knows_its_job(bench: Bench) -> None:
    code = "    return [context.job_id, context.run, context.function, context.attempt]\n"
    bench.write("own/f", "from dts.worker import context\ndef main(n):\n" + code)
    bench.write(
        "own/g",
        f"import asyncio\nfrom dts.worker import context\nasync def main(n):\n    await asyncio.sleep(0)\n{code}",
    )
    async with Worker(bench.settings(), bench.broker):
        for function in ("own/f", "own/g"):
            run = await bench.send(function, [0], [1])
            found = [value(result) for result in await bench.wait(run, 2)]
            assert found == [[f"{run}-{n}", run, function, 1] for n in (0, 1)]


async def test_values_that_a_generator_yields_are_partial_results(bench: Bench) -> None:
    bench.write("own/plain", "def main(n):\n    for i in range(n): yield {'i': i}\n    return 'end'")
    bench.write(
        "own/other",
        "import asyncio\nasync def main(n):\n    for i in range(n):\n        await asyncio.sleep(0)\n        yield i\n",
    )
    bench.write("own/bad", "def main(n):\n    yield 1\n    raise ValueError(n)")
    async with Worker(bench.settings(), bench.broker):
        plain = await bench.run("own/plain", [0], [2])
        assert [value(result) for result in plain] == ["end", "end"]
        assert [result.partials for result in plain] == [b"", b'[{"i":0},{"i":1}]']
        (other,) = await bench.run("own/other", [3])
        assert (value(other), other.partials) == (None, b"[0,1,2]")
        (bad,) = await bench.run("own/bad", [3])
        assert (bad.status, bad.partials) == (FAILED, b"[1]")
        assert "partials.py" not in bad.error.traceback


async def test_what_a_killed_process_had_told_is_on_record_with_the_functions_version(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import os, pathlib, time\n"
        "def main(gate):\n"
        "    yield from (1, {'two': 2})\n"
        "    while not pathlib.Path(gate).exists(): time.sleep(0.01)\n"
        "    os._exit(3)\n",
    )
    bench.write("own/g", "import os\nasync def main(): os._exit(3)")
    gate = bench.functions / "gate"
    async with Worker(bench.settings(poison_after=1), bench.broker):
        run = await bench.send("own/f", [str(gate)])
        async with within():
            while not told(bench):
                await bench.receive()
        version = bench.batches[-1].version
        gate.touch()
        (killed,) = await bench.wait(run, 1)
        assert (killed.error.type, killed.partials) == ("ProcessDied", b'[1,{"two":2}]')
        assert bench.batches[-1].version == version != ""

        gate.unlink()
        (late,) = await bench.run("own/f", [str(gate)], options=Options(timeout=1.5))
        assert (late.error.type, late.partials) == ("Timeout", b'[1,{"two":2}]')
        assert bench.batches[-1].version == version

        (sudden,) = await bench.run("own/g", [])
        assert (sudden.error.type, sudden.partials) == ("ProcessDied", b"")
        assert bench.batches[-1].version not in ("", version)


async def test_partial_results_are_bounded(bench: Bench) -> None:
    bench.write("own/f", "def main():\n    for i in range(1000): yield 'x' * 100 + str(i)")
    async with Worker(bench.settings(max_partials=1000), bench.broker):
        (result,) = await bench.run("own/f", [])
    kept = msgspec.json.decode(result.partials)
    assert len(result.partials) <= 1002
    assert kept[-1].endswith("999")


async def test_progress_is_told_while_the_job_runs(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import pathlib, time\n"
        "from dts.worker import context\n"
        "def main(gate):\n"
        "    n = 0\n"
        "    while not pathlib.Path(gate).exists():\n"
        "        n += 1\n"
        "        context.progress(n, 100)\n"
        "        if n == 1: yield 'begun'\n"
        "        time.sleep(0.01)\n",
    )
    gate = bench.functions / "gate"
    async with Worker(bench.settings(), bench.broker):
        run = await bench.send("own/f", [str(gate)])
        async with within():
            while len(told(bench)) < 2:
                await bench.receive()
        gate.touch()
        await bench.wait(run, 1)
    first, second = told(bench)[:2]
    assert first.total == 100
    assert first.partials == b'["begun"]'
    assert first.done < second.done
    assert second.partials == b'["begun"]', "the last ones, each time: an event may be lost"


async def test_what_is_told_of_yielded_values_while_the_job_runs_is_the_last_ones_that_fit_in_an_event(
    bench: Bench,
) -> None:
    bench.write(
        "own/f",
        "import asyncio, pathlib\n"
        "async def main(gate):\n"
        "    for n in range(1000): yield n\n"
        "    yield 'x' * 1000\n"
        "    while not pathlib.Path(gate).exists(): await asyncio.sleep(0.01)\n",
    )
    gate = bench.functions / "gate"
    async with Worker(bench.settings(), bench.broker):
        run = await bench.send("own/f", [str(gate)])
        async with within():
            while not told(bench):
                await bench.receive()
        gate.touch()
        (result,) = await bench.wait(run, 1)
    (progress,) = told(bench)
    assert 2000 < len(progress.partials) <= 2048
    assert msgspec.json.decode(progress.partials)[-3:] == [998, 999, "x" * 1000]
    assert len(msgspec.json.decode(result.partials)) == 1001


async def test_what_a_function_logs_carries_its_job(bench: Bench) -> None:
    bench.write(
        "own/f",
        "from dts.worker import context\n"
        "def main(n):\n"
        "    context.logger.debug('too low')\n"
        "    context.logger.info('at %d', n)\n"
        "    for i in range(500): context.logger.info('flood')\n",
    )
    records: list[bytes] = []
    async with Worker(bench.settings(), bench.broker) as worker:
        worker.send_logs_to(records.append)
        run = await bench.send("own/f", [7])
        await bench.wait(run, 1)
    first = LogRecord.FromString(records[0])
    assert (first.message, first.level, first.job, first.logger) == ("at 7", 20, f"{run}-0", "dts.job")
    assert len(records) <= 200


async def test_a_job_that_blocks_the_event_loop_is_named(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import asyncio, time\n"
        "async def main(n):\n"
        "    await asyncio.sleep(0.01)\n"
        "    if n == 1: time.sleep(0.8)\n"
        "    return n\n",
    )
    records: list[bytes] = []
    async with Worker(bench.settings(blocked_after=0.3), bench.broker) as worker:
        worker.send_logs_to(records.append)
        run = await bench.send("own/f", [0], [1], [2])
        await bench.wait(run, 3)
        await until(lambda: bool(records))
    record = LogRecord.FromString(records[0])
    assert record.job == f"{run}-1"
    assert "time.sleep(0.8)" in record.message
    assert len(records) == 1


# cancel


async def cancel(bench: Bench, what: str) -> None:
    await bench.broker.broadcast(TOPIC_CANCELLED, what)


SLOW = (
    "import pathlib, time\n"
    "from dts.worker import Cancelled\n"
    "def main(mark, n, stubborn=False):\n"
    "    if n == 0:\n"
    "        pathlib.Path(mark).touch()\n"
    "        for _ in range(3):\n"
    "            try: time.sleep(1000)\n"
    "            except Cancelled:\n"
    "                if not stubborn: raise\n"
    "    return n\n"
)


async def test_a_cancelled_run_is_stopped(bench: Bench) -> None:
    bench.write("own/f", SLOW)
    mark = bench.functions / "mark"
    async with Worker(bench.settings(), bench.broker) as worker:
        run = await bench.send("own/f", *([str(mark), n] for n in range(3)))
        await until(mark.exists)
        (pid,) = worker.executor.pids
        await cancel(bench, f"user:somebody {run} function:own/g")
        await until(lambda: worker.idle)
        assert value((await bench.run("text/upper", ["next"]))[0]) == "NEXT"
        assert pid in worker.executor.pids, "an exception was enough"
    assert not any(batch.results for batch in bench.batches if batch.run == run and batch.results[0].index == 0)
    await bench.wait_empty()


async def test_one_cancelled_job_is_stopped_and_killed_if_need_be(bench: Bench) -> None:
    bench.write("own/f", SLOW)
    for stubborn in (False, True):
        mark = bench.functions / f"mark {stubborn}"
        async with Worker(bench.settings(cancel_grace=0.2, split_after=60), bench.broker) as worker:
            run = await bench.send("own/f", *([str(mark), n, stubborn] for n in range(4)))
            await until(mark.exists)
            await cancel(bench, f"{run}-0 {run}-2")
            results = await bench.wait(run, 2)
            assert [result.index for result in results] == [1, 3]
            await until(lambda: worker.idle)
    await bench.wait_empty()


async def test_an_async_job_gets_the_cancel(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import asyncio, pathlib\n"
        "async def main(mark, n):\n"
        "    try:\n"
        "        if n == 1: await asyncio.sleep(1000)\n"
        "    except asyncio.CancelledError:\n"
        "        pathlib.Path(mark).touch()\n"
        "        raise\n"
        "    return n\n",
    )
    mark = bench.functions / "mark"
    async with Worker(bench.settings(cancel_grace=60), bench.broker) as worker:
        run = await bench.send("own/f", *([str(mark), n] for n in range(3)))
        assert len(await bench.wait(run, 2)) == 2
        await cancel(bench, f"{run}-1")
        await until(mark.exists)
        await until(lambda: worker.idle)
    assert all(batch.results[0].index != 1 for batch in bench.batches if batch.results)


async def test_what_is_cancelled_before_it_begins_never_does(bench: Bench) -> None:
    bench.write("own/f", SLOW)
    first, second = bench.functions / "first", bench.functions / "second"
    async with Worker(bench.settings(), bench.broker):
        blocking = await bench.send("own/f", [str(first), 0])
        waiting = await bench.send("own/f", [str(second), 0])
        await until(first.exists)
        await cancel(bench, waiting)
        await cancel(bench, blocking)
        await bench.wait_settled()
    assert not second.exists()
    await bench.wait_empty()


# leases


async def test_a_long_job_runs_under_a_lease_after_its_message_was_acked(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import pathlib, time\n"
        "def main(gate):\n"
        "    while not pathlib.Path(gate).exists(): time.sleep(0.01)\n"
        "    return 'done'\n",
    )
    gate = bench.functions / "gate"
    async with Worker(bench.settings(lease=1), bench.broker) as worker:
        run = await bench.send("own/f", [str(gate)], [str(gate)], lease=True)
        async with within():
            while sum(bool(batch.claims) for batch in bench.batches) < 3:
                await bench.receive()
        claims = [claim for batch in bench.batches for claim in batch.claims]
        assert {claim.index for claim in claims} == {0, 1}
        assert {claim.seconds for claim in claims} == {1.0}, "a duration, since this host's clock may be wrong"
        await bench.wait_empty()
        assert not worker.idle
        gate.touch()
        assert [value(result) for result in await bench.wait(run, 2)] == ["done", "done"]
        await until(lambda: worker.idle)


async def test_a_lease_is_on_record_before_its_job_begins(bench: Bench) -> None:
    mark = bench.functions / "mark"
    bench.write("own/f", "import pathlib\ndef main(mark): pathlib.Path(mark).touch(); return 1")
    asked, allowed = asyncio.Event(), asyncio.Event()
    publish = bench.broker.publish

    async def slowly(queue, messages, **rest):  # type: ignore[no-untyped-def]
        if queue == RESULTS:
            asked.set()
            await allowed.wait()
        await publish(queue, messages, **rest)

    bench.broker.publish = slowly  # type: ignore[method-assign]
    async with Worker(bench.settings(), bench.broker):
        run = await bench.send("own/f", [str(mark)], lease=True, options=Options(timeout=5))
        async with within():
            await asked.wait()
        assert not mark.exists()
        allowed.set()
        (result,) = await bench.wait(run, 1)
    assert result.status == SUCCEEDED
