"""A worker with real children on the embedded broker: jobs in, results out, and every delivery settled."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import Sequence

import pytest

from dts.broker import Delivery, Message
from dts.errors import BrokerUnavailable, ConfigError
from dts.model import new_id
from dts.wire import codec
from dts.wire.dts_pb2 import FAILED, SUCCEEDED, JobBatch
from dts.wire.queues import DEAD, RESULTS, TOPIC_CANCELLED, jobs_queue
from dts.worker.events import Events
from dts.worker.worker import InternationalWorker, Worker
from tests.services.waiting import within
from tests.services.worker_bench import Bench, bench, value

__all__ = ["bench"]


async def test_results_come_back_and_the_delivery_is_acked(bench: Bench) -> None:
    async with Worker(bench.settings(), bench.broker) as worker:
        results = await bench.run("text/upper", *([f"line {i}"] for i in range(256)))
        assert [value(result) for result in results] == [f"LINE {i}" for i in range(256)]
        assert worker.events.count("text/upper", Events.RECV) == 256
        assert worker.events.count("text/upper", Events.DONE) == 256
        assert worker.events.total(Events.FAIL) == 0
    batch = bench.batches[0]
    assert (batch.function, batch.worker) == ("text/upper", "bench")
    assert len(batch.version) == 12
    assert batch.started > 1_600_000_000
    assert all(0 <= result.duration < 1 for result in results)
    await bench.wait_empty()


async def test_many_messages_on_several_children_each_end_once(bench: Bench) -> None:
    bench.write("own/pid", "import os, time\ndef main(n): time.sleep(0.003); return os.getpid()")
    async with Worker(bench.settings(processes=3), bench.broker):
        runs = [await bench.send("own/pid", *([n] for n in range(10))) for _ in range(40)]
        pids = {value(result) for run in runs for result in await bench.wait(run, 10)}
    assert len(pids) == 3
    assert os.getpid() not in pids
    assert sum(len(batch.results) for batch in bench.batches) == 400
    await bench.wait_empty()


async def test_keyword_arguments_and_attempts_are_passed_through(bench: Bench) -> None:
    bench.write("own/f", "def main(a, b=0, *, c): return [a, b, c]")
    run = new_id()
    batch = JobBatch(block=f"{run}-7", run=run, function="own/f")
    batch.jobs.add(index=300, args=b"[1]", kwargs=b'{"c": {"x": null}}', attempt=2)
    batch.jobs.add(index=301, kwargs=b'{"a": "\xc3\xa4", "c": 12345678901234567890123}', attempt=2)
    headers: dict[str, str | int] = {"block": batch.block, "run": run, "function": "own/f", "count": 2}
    async with Worker(bench.settings(), bench.broker):
        await bench.broker.publish(jobs_queue("default"), [Message(*codec.encode(batch), headers)])
        first, second = await bench.wait(run, 2)
    assert (first.index, first.attempt, value(first)) == (300, 2, [1, 0, {"x": None}])
    assert (second.index, value(second)) == (301, ["ä", 0, 12345678901234567890123])


async def test_a_failing_job_is_one_failed_result(bench: Bench) -> None:
    bench.write(
        "own/picky",
        "import sys\n"
        "def main(what):\n"
        "    if what == 'exit': sys.exit('bye')\n"
        "    if what == 'interrupt': raise KeyboardInterrupt\n"
        "    if what == 'set': return {1}\n"
        "    if what == 'surrogate': raise ValueError('\\ud800')\n"
        "    if what == 'big': return 'x' * 5000\n"
        "    return 1 / what\n",
    )
    calls: list[list[object]] = [[2], [0], ["exit"], ["interrupt"], ["set"], ["surrogate"], ["big"], [], [1]]
    async with Worker(bench.settings(max_result=4096), bench.broker) as worker:
        results = await bench.run("own/picky", *calls)
        assert worker.events.count("own/picky", Events.FAIL) == 7
    assert [result.status for result in results] == [SUCCEEDED, *[FAILED] * 7, SUCCEEDED]
    assert [result.error.type for result in results[1:-1]] == [
        "ZeroDivisionError",
        "SystemExit",
        "KeyboardInterrupt",
        "ResultNotJSON",
        "ValueError",
        "ResultTooLarge",
        "TypeError",
    ]
    assert "own/picky.py" in results[1].error.traceback
    assert "running.py" not in results[1].error.traceback
    assert "bye" in results[2].error.message


async def test_async_jobs_run_at_the_same_time(bench: Bench) -> None:
    bench.write(
        "own/meet",
        "import asyncio\n"
        "there = []\n"
        "async def main(n):\n"
        "    there.append(n)\n"
        "    while len(there) < 50: await asyncio.sleep(0.001)\n"
        "    if n == 7: raise ValueError(n)\n"
        "    if n == 8: asyncio.current_task().cancel(); await asyncio.sleep(1)\n"
        "    if n == 9: raise SystemExit(n)\n"
        "    return n\n",
    )
    async with Worker(bench.settings(concurrency=50), bench.broker):
        results = await bench.run("own/meet", *([n] for n in range(60)))
    failed = {result.index: result.error.type for result in results if result.status == FAILED}
    assert failed == {7: "ValueError", 8: "asyncio.exceptions.CancelledError", 9: "SystemExit"}
    assert [value(result) for result in results if result.status == SUCCEEDED] == [
        n for n in range(60) if n not in failed
    ]


async def test_async_jobs_at_work_are_bounded(bench: Bench) -> None:
    bench.write(
        "own/count",
        "import asyncio\n"
        "now = 0\n"
        "async def main():\n"
        "    global now\n"
        "    now += 1\n"
        "    seen = now\n"
        "    await asyncio.sleep(0)\n"
        "    now -= 1\n"
        "    return seen\n",
    )
    async with Worker(bench.settings(concurrency=3), bench.broker):
        results = await bench.run("own/count", *([] for _ in range(20)))
    assert max(value(result) for result in results) == 3


async def test_async_jobs_may_do_their_worst_to_the_event_loop(bench: Bench) -> None:
    bench.write(
        "own/vandal",
        "import asyncio\n"
        "async def quit(): raise SystemExit(1)\n"
        "async def main(n):\n"
        "    if n == 0:\n"
        "        for task in asyncio.all_tasks(): task.cancel()\n"
        "    if n == 1: asyncio.get_running_loop().stop()\n"
        "    if n == 2: asyncio.create_task(quit())\n"
        "    await asyncio.sleep(0.01)\n"
        "    return n\n",
    )
    async with Worker(bench.settings(concurrency=4), bench.broker):
        results = await bench.run("own/vandal", *([n] for n in range(12)))
        assert len(results) == 12
        assert [value(result) for result in await bench.run("text/upper", ["a"])] == ["A"]


async def test_what_cannot_be_loaded_fails_with_its_own_error(bench: Bench) -> None:
    bench.write("own/broken", "import no_such_package")
    bench.write("own/empty", "")
    expected = {
        "own/missing": "FunctionMissing",
        "own/broken": "ImportFailed",
        "own/empty": "MainMissing",
        "../etc/passwd": "InvalidName",
    }
    async with Worker(bench.settings(), bench.broker):
        for function, kind in expected.items():
            results = await bench.run(function, [1], [2])
            assert [result.error.type for result in results] == [kind, kind]
            assert function.rpartition("/")[2] in results[0].error.message
    broken = next(batch for batch in bench.batches if batch.function == "own/broken")
    assert "line 1" in broken.results[0].error.traceback
    assert "loader.py" not in broken.results[0].error.traceback


async def test_a_changed_file_is_picked_up_between_messages(bench: Bench) -> None:
    bench.write("own/f", "def main(): return 1")
    async with Worker(bench.settings(), bench.broker):
        assert value((await bench.run("own/f", []))[0]) == 1
        bench.write("own/f", "def main(): return 2")
        await asyncio.sleep(0.15)  # until then it might be in the middle of being written
        assert value((await bench.run("own/f", []))[0]) == 2
    first, second = bench.batches
    assert first.version != second.version


async def test_finished_jobs_do_not_wait_for_a_slow_one(bench: Bench) -> None:
    bench.write(
        "own/gate",
        "import pathlib, time\n"
        "def main(gate):\n"
        "    while gate and not pathlib.Path(gate).exists(): time.sleep(0.005)\n"
        "    return gate\n",
    )
    gate = bench.functions / "open"
    async with Worker(bench.settings(), bench.broker):
        await bench.run("own/gate", [""])
        began = asyncio.get_running_loop().time()
        run = await bench.send("own/gate", [""], [""], [str(gate)], [""])
        assert len(await bench.wait(run, 2)) == 2, "while the third is still at work"
        assert bench.times[-1] - began < 1.0, "0.1 s, on a machine that has time"
        async with within():
            while not bench.batches[-1].running:
                await bench.receive()
        assert list(bench.batches[-1].running) == [2], "reported after a second of work"
        gate.touch()
        assert len(await bench.wait(run, 4)) == 4
    assert sum(len(batch.results) for batch in bench.batches if batch.run == run) == 4, "each result is sent once"
    await bench.wait_empty()


async def test_large_results_are_sent_in_parts(bench: Bench) -> None:
    bench.write("own/big", "import random\ndef main(n): return random.randbytes(n).hex()")
    async with Worker(bench.settings(), bench.broker):
        results = await bench.run("own/big", *([400_000] for _ in range(8)))
    assert all(len(value(result)) == 800_000 for result in results)
    assert len(bench.batches) >= 4


async def test_a_short_message_does_not_wait_behind_a_long_one_while_a_child_is_free(bench: Bench) -> None:
    bench.write(
        "own/gate",
        "import pathlib, time\n"
        "def main(gate):\n"
        "    while gate and not pathlib.Path(gate).exists(): time.sleep(0.005)\n"
        "    return gate\n",
    )
    first, second = bench.functions / "first", bench.functions / "second"
    async with Worker(bench.settings(processes=2), bench.broker) as worker:
        async with within():
            while worker.free_slots < 4:  # until both children are given messages ahead
                for quick in [await bench.send("text/upper", ["a"]) for _ in range(20)]:
                    await bench.wait(quick, 1)
        bench.batches.clear()
        runs = [await bench.send("own/gate", [str(gate)]) for gate in (first, second)]
        waiting = [await bench.send("text/upper", ["a"]) for _ in range(2)]
        first.touch()
        for run in (runs[0], *waiting):
            await bench.wait(run, 1)
        second.touch()
        await bench.wait(runs[1], 1)
    assert sum(len(batch.results) for batch in bench.batches) == 4


async def test_results_wait_for_a_broker_that_is_away(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    publish, refused = bench.broker.publish, 0

    async def away(queue: str, messages: Sequence[Message], *, timeout: float = 30.0) -> None:
        nonlocal refused
        if queue == RESULTS and refused < limit:
            refused += 1
            raise BrokerUnavailable
        await publish(queue, messages, timeout=timeout)

    monkeypatch.setattr(bench.broker, "publish", away)
    limit = 3
    async with Worker(bench.settings(), bench.broker):
        assert value((await bench.run("text/upper", ["a"]))[0]) == "A"
    assert refused == 3
    assert sum(len(batch.results) for batch in bench.batches) == 1

    refused, limit = 0, sys.maxsize  # it stays away: the worker ends all the same, and the jobs go back
    async with Worker(bench.settings(drain_timeout=0.5), bench.broker) as worker:
        run = await bench.send("text/upper", ["b"])
        async with within():
            while not refused:
                await asyncio.sleep(0.01)
        assert worker.events.count("text/upper", Events.DONE) == 1
    limit = 0
    async with Worker(bench.settings(), bench.broker):
        assert value((await bench.wait(run, 1))[0]) == "B"
    await bench.wait_empty()


async def test_messages_of_a_cancelled_run_are_passed_over(bench: Bench) -> None:
    cancelled = new_id()
    async with Worker(bench.settings(), bench.broker) as worker:
        await bench.broker.broadcast(TOPIC_CANCELLED, f"{new_id()} {cancelled}")
        async with within():
            for number in itertools.count():  # a broadcast may take a moment
                await bench.send("text/upper", [f"{number}"], run=cancelled)
                await bench.run("text/upper", ["after it in the queue"])
                if worker.events.count("text/upper", Events.RECV) < 2 * (number + 1):
                    break
    assert sum(batch.run == cancelled for batch in bench.batches) == number
    await bench.wait_empty()


async def test_a_message_that_does_not_decode_goes_to_the_dead_letters(bench: Bench) -> None:
    bad = [
        Message(b"\xff\xff not protobuf", "", {"run": "x", "function": "text/upper", "count": 1}),
        Message(b"not deflate", "deflate", {}),
        Message(b"", "brotli", {}),
        Message(JobBatch(jobs=[{"index": 1}] * 3000).SerializeToString(), "", {}),
    ]
    async with Worker(bench.settings(), bench.broker) as worker:
        await bench.broker.publish(jobs_queue("default"), bad)
        async with await bench.broker.consume(DEAD, prefetch=10) as dead, within():
            found: list[Delivery] = []
            while len(found) < len(bad):
                found += await dead.receive(10)
            assert {letter.message.body for letter in found} == {message.body for message in bad}
            assert all(letter.message.headers["x-dts-reason"] for letter in found)
        assert [value(result) for result in await bench.run("text/upper", ["a"])] == ["A"]
        assert len(worker.executor.pids) == 1
    await bench.wait_empty()


async def test_an_international_worker_serves_its_own_route(bench: Bench) -> None:
    run = await bench.send("text/upper", ["a"], route="international")
    async with InternationalWorker(bench.settings(), bench.broker):
        assert len(await bench.wait(run, 1)) == 1
    async with Worker(bench.settings(routes=("default", "special")), bench.broker):
        for route in ("default", "special"):
            assert len(await bench.wait(await bench.send("text/upper", ["a"], route=route), 1)) == 1


async def test_a_functions_directory_that_is_not_there_is_refused(bench: Bench) -> None:
    worker = Worker(bench.settings(functions=str(bench.functions / "gone")), bench.broker)
    with pytest.raises(ConfigError, match="gone"):
        await worker.start()
    await worker.stop()


async def test_what_functions_print_does_not_disturb(bench: Bench) -> None:
    bench.write(
        "own/noisy",
        "import os, sys\n"
        "def main(n):\n"
        "    print('x' * 100)\n"
        "    sys.stdout.flush()\n"
        "    os.write(1, b'raw\\n')\n"
        "    os.system('echo from a shell; ls /proc/self/fd >&2')\n"
        "    return sys.stdin.read()\n",
    )
    async with Worker(bench.settings(), bench.broker):
        assert [value(result) for result in await bench.run("own/noisy", [1], [2])] == ["", ""]


async def test_a_worker_that_starts_begins_nothing_that_was_cancelled_before(bench: Bench) -> None:
    bench.write("own/touch", "import pathlib\ndef main(path): pathlib.Path(path).touch()")
    touched = bench.functions / "touched"
    cancelled = await bench.send("own/touch", [str(touched)])
    bench.cancelled = cancelled
    async with Worker(bench.settings(), bench.broker):
        await bench.run("text/upper", ["a"])
        await bench.wait_empty()
    assert not touched.exists()


async def test_a_worker_that_gets_no_answer_about_cancelled_runs_says_so_and_works(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.cancelled = None
    async with Worker(bench.settings(timekeeper_timeout=0.3), bench.broker):
        assert value((await bench.run("text/upper", ["a"]))[0]) == "A"
    assert caplog.text.count("no timekeeper has said within 0.3 s which runs and jobs are cancelled") == 1
