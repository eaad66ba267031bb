"""Logs of functions reach the system whatever they set up, and say which job they come from."""

from __future__ import annotations

import socket
import time

import pytest

from dts.wire.dts_pb2 import LogRecord
from dts.worker.child.joblog import MAX_OF_JOB, MAX_RECORDS
from dts.worker.worker import Worker
from tests.services.waiting import until, within
from tests.services.worker_bench import Bench, bench, value

__all__ = ["bench"]

SILENCERS = [
    "logging.basicConfig(force=True)",
    "logging.config.dictConfig({'version': 1, 'root': {'level': 'CRITICAL', 'handlers': []}})",
    "logging.disable(logging.CRITICAL)",
    "logging.getLogger('dts.job').handlers.clear()",
    "logging.getLogger('dts.job').setLevel('CRITICAL')",
]


class Records:
    """What a worker's functions have logged."""

    def __init__(self, worker: Worker) -> None:
        self.all: list[LogRecord] = []
        worker.send_logs_to(lambda body: self.all.append(LogRecord.FromString(body)))

    async def of(self, text: str) -> list[LogRecord]:
        """Those with a text, once there are any."""
        await until(lambda: any(text in record.message for record in self.all))
        return [record for record in self.all if text in record.message]


@pytest.mark.parametrize("silencer", SILENCERS)
async def test_no_configuration_of_logging_silences_other_functions(bench: Bench, silencer: str) -> None:
    rude = f"import logging, logging.config, os\ndef main():\n    {silencer}\n    return os.getpid()\n"
    bench.write("own/rude", rude)
    bench.write(
        "own/f",
        "import logging, os\nfrom dts.worker import context\n"
        "def main():\n"
        "    context.logger.info('still here')\n"
        "    logging.getLogger('library').warning('and here')\n"
        "    return os.getpid()\n",
    )
    async with Worker(bench.settings(log_level="WARNING"), bench.broker) as worker:
        records = Records(worker)
        [first] = await bench.run("own/rude", [])
        run = await bench.send("own/f", [])
        [fine] = await bench.wait(run, 1)
        assert value(first) == value(fine), "in the same child"
        assert [record.job for record in await records.of("still here")] == [f"{run}-0"]
        assert len(await records.of("and here")) == 1


async def test_a_flood_is_counted_without_a_later_record_and_takes_no_room_from_errors(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import time, types\n"
        "from dts.worker import context\n"
        "from dts.worker.child import joblog\n"
        # All of it happens in one second, however slow the machine is.
        "joblog.time = types.SimpleNamespace(monotonic=lambda: 5.0, time=time.time)\n"
        "def main(level, count):\n"
        "    for n in range(count): context.logger.log(level, 'record of level %d', level)\n",
    )
    async with Worker(bench.settings(), bench.broker) as worker:
        records = Records(worker)
        run = await bench.send("own/f", [20, 1000], [40, 1000], [40, 1])
        await bench.wait(run, 3)

        def notes() -> list[LogRecord]:
            return [record for record in records.all if "records were dropped" in record.message]

        def dropped() -> int:
            return sum(int(note.message.split()[0]) for note in notes())

        await until(lambda: len(records.all) - len(notes()) + dropped() == 2001)
        seen = [(record.level, record.job) for record in records.all]
        assert seen.count((20, f"{run}-0")) == MAX_RECORDS
        assert seen.count((40, f"{run}-1")) == MAX_OF_JOB
        assert (40, f"{run}-2") in seen, "one job's errors do not take the room of another's"


STRANGE = [
    ("{'created': float('nan')}", "dts.job", 40),
    ("{'created': float('inf')}", "dts.job", 40),
    ("{'created': 1e300}", "dts.job", 40),
    ("{'created': -1e18}", "dts.job", 40),
    ("{'created': 'yesterday'}", "dts.job", 40),
    ("{'levelno': 10**30}", "dts.job", 1000),
    ("{'name': 'n' * 20_000_000}", "n" * 255 + "…", 40),
    ("{'name': chr(0xDC00)}", chr(92) + "udc00", 40),
    ("{'job': 'x' * 20_000_000}", "dts.job", 40),
]


@pytest.mark.parametrize(("fields", "name", "level"), STRANGE)
async def test_a_record_is_made_finite_whatever_a_function_puts_into_it(
    bench: Bench, fields: str, name: str, level: int
) -> None:
    bench.write(
        "own/f",
        "import logging\nfrom dts.worker import context\n"
        "def main():\n"
        f"    fields = {{'name': 'dts.job', 'msg': 'strange', 'levelno': 40, **{fields}}}\n"
        "    context.logger.handle(logging.makeLogRecord(fields))\n",
    )
    async with Worker(bench.settings(), bench.broker) as worker:
        records = Records(worker)
        run = await bench.send("own/f", [])
        await bench.wait(run, 1)
        [record] = await records.of("strange")
    assert abs(record.time - time.time()) < 60
    assert (record.logger, record.level, record.job) == (name, level, f"{run}-0")


async def test_a_function_cannot_log_for_the_job_of_somebody_else(bench: Bench) -> None:
    """Neither by a field of its records, nor by what the worker itself uses, nor by frames of its own make."""
    bench.write(
        "own/f",
        "from dts.worker import context\nfrom dts.worker.child import joblog\n"
        "def main(other):\n"
        "    context.logger.warning('by a field', extra={'job': other})\n"
        "    context.logger.warning('by an attribute', extra={joblog._ABOUT: other})\n"
        "    context.logger.warning('my own', extra={joblog._ABOUT: context.job_id})\n"
        "    handler = next(each for each in context.logger.handlers if hasattr(each, '_joblog'))\n"
        "    handler._joblog._host = 'elsewhere'\n"
        "    context.logger.warning('by another host')\n",
    )
    async with Worker(bench.settings(), bench.broker) as worker:
        records = Records(worker)
        others = await bench.send("own/f", [""])
        await bench.wait(others, 1)
        run = await bench.send("own/f", [f"{others}-0"])
        await bench.wait(run, 1)
        await until(lambda: len([each for each in records.all if "by another host" in each.message]) == 2)
    seen = {record.message: (record.job, record.host) for record in records.all[4:]}
    here = socket.gethostname()
    assert seen == {
        "by a field": (f"{run}-0", here),
        "by an attribute": ("", here),
        "my own": (f"{run}-0", here),
        "by another host": (f"{run}-0", here),
    }


async def test_threads_of_the_default_executor_know_their_job(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import asyncio, threading\nfrom dts.worker import context\n"
        "def work(n):\n"
        "    context.progress(n)\n"
        "    return context.job_id\n"
        "async def main(n):\n"
        "    await asyncio.sleep(0.01)\n"
        "    loop = asyncio.get_running_loop()\n"
        "    bare = threading.Thread(target=work, args=[99])\n"
        "    bare.start(); bare.join()\n"
        "    ids = [await loop.run_in_executor(None, work, n), await asyncio.to_thread(work, n)]\n"
        "    while n: await asyncio.sleep(0.01)\n"
        "    return ids\n",
    )
    async with Worker(bench.settings(drain_timeout=0.1), bench.broker):  # one job never ends
        run = await bench.send("own/f", [0], [7], [0])
        found = await bench.wait(run, 2)
        assert [value(result) for result in found] == [[f"{run}-0"] * 2, [f"{run}-2"] * 2]
        async with within():
            while not (told := [each for batch in bench.batches for each in batch.progress if each.done]):
                await bench.receive()
    assert {(each.index, each.done) for each in told} == {(1, 7.0)}, "what no job is known for is told of none"


@pytest.mark.parametrize(
    "how",
    [
        "await asyncio.wait_for(block(), 10)",
        "await asyncio.gather(asyncio.sleep(0), block())",
        "await asyncio.create_task(block())",
        "await asyncio.gather(asyncio.create_task(asyncio.wait_for(block(), 9)))",
    ],
)
async def test_a_job_that_blocks_in_a_task_of_its_own_is_named(bench: Bench, how: str) -> None:
    bench.write(
        "own/f",
        "import asyncio, time\n"
        "async def block(): time.sleep(0.6)\n"
        f"async def main(n):\n    await asyncio.sleep(0.05)\n    if n == 1:\n        {how}\n",
    )
    async with Worker(bench.settings(blocked_after=0.2), bench.broker) as worker:
        records = Records(worker)
        run = await bench.send("own/f", [0], [1], [2])
        await bench.wait(run, 3)
        [record] = await records.of("has blocked the event loop")
    assert record.job == f"{run}-1"
    assert record.message.startswith(f"the job {run}-1 of own/f has blocked")
    assert "time.sleep(0.6)" in record.message


@pytest.mark.parametrize(
    ("begin", "named"),
    [
        ("context.kept = asyncio.create_task(block())", "a task left behind by the job {run}-0 of own/f"),
        ("loop = asyncio.get_running_loop(); loop.call_later(0.3, time.sleep, 0.6)", "something that own/f has left"),
    ],
)
async def test_what_a_job_left_behind_is_named_when_it_blocks(bench: Bench, begin: str, named: str) -> None:
    bench.write(
        "own/f",
        "import asyncio, time\nfrom dts.worker import context\n"
        "async def block():\n    await asyncio.sleep(0.3)\n    time.sleep(0.6)\n"
        "async def main(n):\n"
        f"    if n == 0:\n        {begin}\n"
        "    else:\n        await asyncio.sleep(1.5)\n",
    )
    async with Worker(bench.settings(blocked_after=0.2), bench.broker) as worker:
        records = Records(worker)
        run = await bench.send("own/f", [0], [1])
        await bench.wait(run, 2)
        [record] = await records.of("has blocked the event loop")
    assert record.message.startswith(named.format(run=run))
