"""Messages of an async function run beside each other in a child, as many as the function's concurrency allows."""

from __future__ import annotations

import asyncio
import itertools

from dts.wire.dts_pb2 import FAILED, SUCCEEDED, Options
from dts.wire.queues import TOPIC_CANCELLED
from dts.worker.worker import Worker
from tests.services.waiting import until, within
from tests.services.worker_bench import Bench, bench, value

__all__ = ["bench"]

NAP = "import asyncio, os\nasync def main(seconds=0.5): await asyncio.sleep(seconds); return os.getpid()"
MEET = (
    "import asyncio, os\n"
    "there = []\n"
    "async def main(n, wanted):\n"
    "    there.append(n)\n"
    "    while len(there) < wanted: await asyncio.sleep(0.001)\n"
    "    return n\n"
)


async def test_single_jobs_of_an_async_function_overlap(bench: Bench) -> None:
    bench.write(
        "own/nap",
        "import asyncio, os\nnow = most = 0\nasync def main():\n    global now, most\n"
        "    now += 1; most = max(now, most)\n    await asyncio.sleep(0.5)\n"
        "    now -= 1\n    return [os.getpid(), most]\n",
    )
    async with Worker(bench.settings(processes=2), bench.broker) as worker:
        await bench.run("text/upper", ["a"], ["b"])
        runs = [await bench.send("own/nap", []) for _ in range(40)]
        found = [value(result) for run in runs for result in await bench.wait(run, 1)]
        assert len({pid for pid, _ in found}) == 2
        assert max(most for _, most in found) >= 5
        await until(lambda: worker.idle)
        await until(lambda: worker.free_slots == 2)
    await bench.wait_empty()


async def test_a_child_serves_on_when_what_ran_beside_each_other_is_over(bench: Bench) -> None:
    bench.write("own/nap", NAP)
    async with Worker(bench.settings(), bench.broker):
        pids = {value((await bench.run("own/nap", [0.01]))[0]) for _ in range(5)}
    assert len(pids) == 1


async def test_large_results_of_async_jobs_wait_for_the_worker_to_read_them(bench: Bench) -> None:
    bench.write("own/big", "import asyncio\nasync def main(n): await asyncio.sleep(0); return 'x' * n")
    async with Worker(bench.settings(), bench.broker):
        runs = [await bench.send("own/big", *([3_000_000] for _ in range(4))) for _ in range(3)]
        for run in runs:
            assert [len(value(result)) for result in await bench.wait(run, 4)] == [3_000_000] * 4
    assert sum(len(batch.results) for batch in bench.batches) == 12


async def test_a_worker_that_had_much_in_hand_keeps_nothing_from_others_afterwards(bench: Bench) -> None:
    bench.write("own/nap", NAP)
    bench.write("own/slow", "import time\ndef main(): time.sleep(0.3)")
    async with Worker(bench.settings(name="one"), bench.broker), Worker(bench.settings(name="two"), bench.broker):
        await asyncio.gather(*(bench.send("own/nap", []) for _ in range(60)))
        slow = [await bench.send("own/slow", []) for _ in range(14)]
        for run in slow:
            await bench.wait(run, 1)
        at = {
            worker: sum(batch.worker == worker and batch.run in slow for batch in bench.batches)
            for worker in ("one", "two")
        }
    assert min(at.values()) >= 4, at


async def test_leased_jobs_of_an_async_function_overlap(bench: Bench) -> None:
    bench.write("own/meet", MEET)
    async with Worker(bench.settings(), bench.broker):
        runs = [await bench.send("own/meet", [n, 30], lease=True) for n in range(30)]
        assert [value((await bench.wait(run, 1))[0]) for run in runs] == list(range(30))
    await bench.wait_empty()


async def test_no_more_run_at_a_time_than_the_function_allows(bench: Bench) -> None:
    bench.write(
        "own/count",
        "import asyncio\n"
        "now = most = 0\n"
        "async def main():\n"
        "    global now, most\n"
        "    now += 1; most = max(now, most)\n"
        "    await asyncio.sleep(0.02)\n"
        "    now -= 1\n"
        "    return most\n",
    )
    async with Worker(bench.settings(), bench.broker):
        runs = [await bench.send("own/count", [], options=Options(concurrency=5)) for _ in range(40)]
        assert 1 < max([value((await bench.wait(run, 1))[0]) for run in runs]) <= 5
    await bench.wait_empty()


async def test_each_of_them_tells_that_it_runs_and_what_it_has_yielded(bench: Bench) -> None:
    bench.write(
        "own/gate",
        "import asyncio, pathlib\n"
        "async def main(gate, n):\n"
        "    yield n\n"
        "    while not pathlib.Path(gate).exists(): await asyncio.sleep(0.01)\n",
    )
    gate = bench.functions / "gate"
    async with Worker(bench.settings(), bench.broker):
        runs = [await bench.send("own/gate", [str(gate), n]) for n in range(4)]
        async with within():
            while len(told := {batch.run: each.partials for batch in bench.batches for each in batch.progress}) < 4:
                await bench.receive()
        gate.touch()
        assert [told[run] for run in runs] == [b"[0]", b"[1]", b"[2]", b"[3]"]
        assert all([batch.running == [0] for batch in bench.batches if batch.running])
        for run in runs:
            await bench.wait(run, 1)


async def test_jobs_of_a_plain_function_run_one_at_a_time(bench: Bench) -> None:
    bench.write("own/slow", "import time\ndef main(): began = time.monotonic(); time.sleep(0.05); return began")
    async with Worker(bench.settings(), bench.broker) as worker:
        runs = [await bench.send("own/slow", []) for _ in range(6)]
        begins = sorted([value((await bench.wait(run, 1))[0]) for run in runs])
        assert all(after - before >= 0.05 for before, after in itertools.pairwise(begins))
        assert not any(child.extra for child in worker.executor.children)


async def test_another_function_waits_for_no_more_than_what_has_begun(bench: Bench) -> None:
    bench.write("own/nap", NAP)
    async with Worker(bench.settings(), bench.broker):
        naps = [await bench.send("own/nap", [0.3]) for _ in range(10)]
        other = await bench.send("text/upper", ["a"])
        more = [await bench.send("own/nap", [0.3]) for _ in range(10)]
        assert value((await bench.wait(other, 1))[0]) == "A"
        first = {batch.run for batch in bench.batches if batch.results}
        assert first.isdisjoint(more)
        for run in (*naps, *more):
            await bench.wait(run, 1)


async def test_a_changed_function_is_used_for_what_comes_then(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import asyncio, pathlib\n"
        "async def main(gate):\n"
        "    pathlib.Path(gate + 'begun').touch()\n"
        "    while not pathlib.Path(gate).exists(): await asyncio.sleep(0.01)\n"
        "    return 'old'\n",
    )
    gate = bench.functions / "gate"
    async with Worker(bench.settings(), bench.broker):
        old = await bench.send("own/f", [str(gate)])
        await until((bench.functions / "gatebegun").exists)
        bench.write("own/f", "async def main(gate): return 'new'")
        await asyncio.sleep(0.15)  # a change counts when it is a tenth of a second old
        new = await bench.send("own/f", [str(gate)])
        gate.touch()
        assert value((await bench.wait(old, 1))[0]) == "old"
        assert value((await bench.wait(new, 1))[0]) == "new"
    assert len({batch.version for batch in bench.batches if batch.results}) == 2


async def test_when_their_child_dies_the_culprit_is_found_and_what_had_ended_stays(bench: Bench) -> None:
    bench.write(
        "own/meet",
        "import asyncio, os, pathlib\n"
        "async def main(log, n):\n"
        "    with open(log, 'a') as file: file.write(f'{n}\\n')\n"
        "    if n < 5: return n\n"
        "    await asyncio.sleep(0.3)\n"
        "    if n == 7: os._exit(3)\n"
        "    await asyncio.sleep(0.3)\n"
        "    return n\n",
    )
    log = bench.functions / "log"
    async with Worker(bench.settings(), bench.broker):
        runs = [await bench.send("own/meet", [str(log), n]) for n in range(12)]
        results = [(await bench.wait(run, 1))[0] for run in runs]
    assert [result.status for result in results] == [SUCCEEDED] * 7 + [FAILED] + [SUCCEEDED] * 4
    assert (results[7].error.type, results[7].error.reason, results[7].kills) == ("ProcessDied", "poison", 3)
    times = log.read_text().split()
    assert all(times.count(str(n)) == 1 for n in range(5)), "what had ended did not run again"
    assert times.count("7") <= 4
    assert all(times.count(str(n)) <= 3 for n in (5, 6, 8, 9, 10, 11)), "it ran alone once it was suspected"
    await bench.wait_empty()


async def test_one_of_them_is_cancelled_and_the_others_go_on(bench: Bench) -> None:
    bench.write(
        "own/gate",
        "import asyncio, pathlib\n"
        "async def main(gate, n):\n"
        "    pathlib.Path(f'{gate}{n}').touch()\n"
        "    try:\n"
        "        while not pathlib.Path(gate).exists(): await asyncio.sleep(0.01)\n"
        "    except asyncio.CancelledError: pathlib.Path(f'{gate}cancelled{n}').touch(); raise\n"
        "    return n\n",
    )
    gate = bench.functions / "gate"
    async with Worker(bench.settings(), bench.broker):
        runs = [await bench.send("own/gate", [str(gate), n]) for n in range(5)]
        await until(lambda: all((bench.functions / f"gate{n}").exists() for n in range(5)))
        await bench.broker.broadcast(TOPIC_CANCELLED, f"{runs[1]} {runs[3]}-0")
        await until((bench.functions / "gatecancelled1").exists)
        await until((bench.functions / "gatecancelled3").exists)
        gate.touch()
        for n in (0, 2, 4):
            assert value((await bench.wait(runs[n], 1))[0]) == n
    assert not {runs[1], runs[3]} & {batch.run for batch in bench.batches if batch.results}
    assert not (bench.functions / "gatecancelled0").exists()
    await bench.wait_empty()


async def test_one_that_passes_its_timeout_and_blocks_costs_the_others_another_start(bench: Bench) -> None:
    bench.write(
        "own/mixed",
        "import asyncio, time\n"
        "async def main(n):\n"
        "    await asyncio.sleep(0.1)\n"
        "    if n == 2: time.sleep(60)\n"
        "    await asyncio.sleep(0.2)\n"
        "    return n\n",
    )
    async with Worker(bench.settings(cancel_grace=0.2), bench.broker):
        runs = [await bench.send("own/mixed", [n], options=Options(timeout=1.0 if n == 2 else 20.0)) for n in range(5)]
        results = [(await bench.wait(run, 1))[0] for run in runs]
    assert [result.status for result in results] == [SUCCEEDED, SUCCEEDED, FAILED, SUCCEEDED, SUCCEEDED]
    assert results[2].error.type == "Timeout"


async def test_a_loop_that_is_blocked_keeps_no_work_from_another_child(bench: Bench) -> None:
    bench.write("own/block", "import os, time\nasync def main(): time.sleep(0.4); return os.getpid()")
    async with Worker(bench.settings(processes=3), bench.broker):
        for run in [await bench.send("own/block", []) for _ in range(3)]:  # so that there is a child for each slot
            await bench.wait(run, 1)
        runs = [await bench.send("own/block", []) for _ in range(9)]
        pids = [value((await bench.wait(run, 1))[0]) for run in runs]
    assert min([pids.count(pid) for pid in set(pids)]) >= 2, "no child has taken what another one could have begun"
