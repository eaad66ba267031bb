"""A message that takes longer than was thought is shared out while it runs."""

from __future__ import annotations

from collections import Counter

from dts.wire.dts_pb2 import SUCCEEDED
from dts.worker.worker import Worker
from tests.services.worker_bench import Bench, bench, value

__all__ = ["bench"]


# Ends when so many processes have run a job of it.
TOGETHER = """
import os, pathlib, time

def together(folder, name, most):
    folder = pathlib.Path(folder)
    folder.mkdir(exist_ok=True)
    (folder / str(name)).touch()
    while len(os.listdir(folder)) < most: time.sleep(0.01)

"""


async def test_slow_jobs_in_one_message_spread_over_all_workers(bench: Bench) -> None:
    bench.write("own/slow", TOGETHER + "def main(n, folder, most): together(folder, os.getpid(), most); return n")
    async with (
        Worker(bench.settings(processes=2, name="one"), bench.broker),
        Worker(bench.settings(processes=2, name="two"), bench.broker),
    ):
        results = await bench.run("own/slow", *([n, str(bench.functions / "now"), 4] for n in range(32)))
    assert [value(result) for result in results] == list(range(32))
    assert len({batch.worker for batch in bench.batches}) == 2
    await bench.wait_empty()


async def test_nothing_is_both_run_and_given_away(bench: Bench) -> None:
    """Jobs that begin every few milliseconds, while the helper takes away what waits behind them."""
    bench.write(
        "own/log",
        "import os, time\n"
        "def main(path, n):\n"
        "    with open(path, 'a') as file: file.write(f'{n}\\n')\n"
        "    time.sleep(0.002)\n",
    )
    log = bench.functions / "log"
    async with Worker(bench.settings(processes=3), bench.broker):
        runs = [await bench.send("own/log", *([str(log), 1000 * k + n] for n in range(200))) for k in range(3)]
        for run in runs:
            assert {result.status for result in await bench.wait(run, 200)} == {SUCCEEDED}
    assert sorted(map(int, log.read_text().split())) == [1000 * k + n for k in range(3) for n in range(200)]
    assert sum(len(batch.results) for batch in bench.batches) == 600
    await bench.wait_empty()


async def test_async_jobs_beyond_the_concurrency_are_given_away(bench: Bench) -> None:
    (here := bench.functions / "here").mkdir()
    bench.write(
        "own/nap",
        "import asyncio, os, pathlib\n"
        "async def main(n, folder):\n"
        "    (pathlib.Path(folder) / str(n)).touch()\n"
        "    while len(os.listdir(folder)) < 20: await asyncio.sleep(0.01)\n"
        "    return os.getpid()\n",
    )
    async with Worker(bench.settings(processes=2, concurrency=10), bench.broker):
        results = await bench.run("own/nap", *([n, str(here)] for n in range(20)))
    assert Counter(Counter(value(result) for result in results).values()) == {10: 2}, "all twenty at the same time"


async def test_a_message_of_one_job_is_never_split_nor_one_whose_module_is_slow_to_import(bench: Bench) -> None:
    bench.write("own/slow", "import time\ntime.sleep(0.3)\ndef main(): time.sleep(0.4); return 1")
    async with Worker(bench.settings(), bench.broker):
        runs = [await bench.send("own/slow", []) for _ in range(2)]
        for run in runs:
            await bench.wait(run, 1)
    assert sum(len(batch.results) for batch in bench.batches) == 2


async def test_the_time_of_an_import_does_not_count(bench: Bench) -> None:
    bench.write("own/f", "import time\ntime.sleep(0.4)\ndef main(): time.sleep(0.003)")
    async with Worker(bench.settings(), bench.broker):
        await bench.run("own/f", *([] for _ in range(20)))
    assert len(bench.batches) <= 3, "not one for each job"
