"""What jobs of one child do not share: context variables, tasks, alarms; and how the child lets functions clean up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dts.wire.dts_pb2 import FAILED, LogRecord, Options
from dts.worker.worker import Worker
from tests.services.waiting import until
from tests.services.worker_bench import Bench, bench, value

__all__ = ["bench"]

PLAIN = (
    "import contextvars\nvar = contextvars.ContextVar('var')\nat_import = contextvars.ContextVar('at_import')\n"
    "at_import.set('there')\n"
    "def main(n):\n    seen = var.get(None)\n    var.set(n)\n    return [seen, var.get(), at_import.get()]\n"
)


async def test_no_job_sees_the_context_variables_of_another(bench: Bench) -> None:
    bench.write("own/plain", PLAIN)
    bench.write(
        "own/many",
        PLAIN.replace("def main", "import asyncio\nasync def main").replace(
            "    var.set(n)\n", "    var.set(n)\n    await asyncio.sleep(0.001 * (n % 7))\n"
        ),
    )
    bench.write("own/yields", PLAIN.replace("    return [", "    yield n\n    return ["))
    async with Worker(bench.settings(), bench.broker):
        for name in ("own/plain", "own/many", "own/yields"):
            for _ in range(2):
                results = await bench.run(name, *([n] for n in range(100)))
                assert [value(result) for result in results] == [[None, n, "there"] for n in range(100)], name


async def test_each_async_job_is_a_task_of_its_own(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import asyncio\ntasks, done = [], []\n"
        "async def main(n):\n"
        "    task = asyncio.current_task()\n    tasks.append(task)\n"
        "    task.add_done_callback(lambda task: done.append(n))\n"
        "    await asyncio.sleep(0)\n"
        "    if n == 5: task.cancel()\n"
        "    return None\n"
        "async def look(): pass\n",
    )
    bench.write(
        "own/look",
        "import asyncio\nfrom . import f\nasync def main():\n    await asyncio.sleep(0.01)\n"
        "    return [len(set(map(id, f.tasks))), sorted(f.done)]\n",
    )
    async with Worker(bench.settings(concurrency=10), bench.broker):
        results = await bench.run("own/f", *([n] for n in range(30)))
        assert not any(result.status == FAILED for result in results)
        assert value((await bench.run("own/look", []))[0]) == [30, list(range(30))]


async def test_a_cancel_that_a_job_leaves_pending_hits_no_other(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import asyncio\nasync def main(n):\n"
        "    if n % 3 == 0:\n        for task in asyncio.all_tasks():\n"
        "            if task is not asyncio.current_task(): task.cancel()\n"
        "    return n\n",
    )
    async with Worker(bench.settings(concurrency=5), bench.broker):
        results = await bench.run("own/f", *([n] for n in range(40)))
    assert [value(result) for result in results] == list(range(40)), "those cancelled had not begun, and begin again"


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_an_alarm_that_a_job_leaves_armed_goes_off_in_no_other(bench: Bench, kind: str) -> None:
    bench.write(
        "own/f",
        "import asyncio, signal, time\n"
        f"{kind} main(n):\n"
        "    if n == 0: signal.setitimer(signal.ITIMER_REAL, 0.05)\n"
        f"    else: {'time.sleep(0.15)' if kind == 'def' else 'await asyncio.sleep(0.15)'}\n"
        "    return n\n",
    )
    async with Worker(bench.settings(concurrency=1), bench.broker):
        results = await bench.run("own/f", [0], [1])
        assert [value(result) for result in results] == [0, 1]
        assert value((await bench.run("own/f", [2]))[0]) == 2
    assert bench.retries == []


async def test_a_timer_that_a_module_sets_goes_on(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import signal, time\nticks = []\nsignal.signal(signal.SIGALRM, lambda *_: ticks.append(1))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)\n"
        "def main():\n"
        "    seen = len(ticks)\n"
        "    while len(ticks) < seen + 2: time.sleep(0.01)\n"
        "    return True\n",
    )
    async with Worker(bench.settings(), bench.broker):
        for _ in range(3):
            assert value((await bench.run("own/f", [], []))[0]) is True


@pytest.mark.parametrize("how", ["recycled", "changed", "crowded_out", "stopped"])
async def test_atexit_handlers_run_when_a_child_is_replaced_in_order(bench: Bench, tmp_path: Path, how: str) -> None:
    mark = tmp_path / "mark"
    code = (
        f"import atexit, pathlib\natexit.register(lambda: pathlib.Path({str(mark)!r}).touch())\ndef main(): return 1\n"
    )
    bench.write("own/f", code)
    for name in ("other/f", "third/f"):
        bench.write(name, "def main(): return 2\n")
    settings = bench.settings(recycle_after=1 if how == "recycled" else 0, warm_children=0)
    async with Worker(settings, bench.broker):
        await bench.run("own/f", [])
        if how == "changed":
            bench.write("own/f", "def main(): return 3\n")
            await asyncio.sleep(0.15)  # until then it might be in the middle of being written
            await bench.run("own/f", [])
        if how == "crowded_out":
            await bench.run("other/f", [])
            await bench.run("third/f", [])
        if how != "stopped":
            await until(mark.exists)
    assert mark.exists()


CONFIGURES = {
    "dict": "logging.config.dictConfig({'version': 1, 'disable_existing_loggers': True})",
    "root": "logging.basicConfig(force=True, level=logging.ERROR)",
    "disable": "logging.disable(logging.CRITICAL)",
    "level": "logging.getLogger('dts').setLevel(logging.CRITICAL)",
}


@pytest.mark.parametrize("how", CONFIGURES)
async def test_logging_that_is_set_up_at_import_does_not_hide_the_logger_of_jobs(bench: Bench, how: str) -> None:
    bench.write(
        "own/f",
        f"import logging, logging.config\nfrom dts.worker import context\n{CONFIGURES[how]}\n"
        "def main(): context.logger.info('from the job')\n",
    )
    records: list[bytes] = []
    async with Worker(bench.settings(), bench.broker) as worker:
        worker.send_logs_to(records.append)
        await bench.run("own/f", [])
        await until(lambda: bool(records))
    assert LogRecord.FromString(records[0]).message == "from the job"


async def test_the_working_directory_may_be_gone(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    async with Worker(bench.settings(), bench.broker):
        assert value((await bench.run("text/upper", ["a"]))[0]) == "A"
        (result,) = await bench.run("own/f", [], options=Options(max_attempts=1))
        assert result.error.type == "FunctionMissing"


async def test_the_folder_of_functions_may_go_and_come_back(bench: Bench) -> None:
    away = bench.functions.with_name("away")
    bench.write("own/f", "def main(): return 1\n")
    async with Worker(bench.settings(), bench.broker):
        bench.functions.rename(away)
        assert value((await bench.run("text/upper", ["a"]))[0]) == "A"
        (result,) = await bench.run("own/f", [], options=Options(max_attempts=1))
        assert result.error.type == "FunctionMissing"
        away.rename(bench.functions)
        assert value((await bench.run("own/f", []))[0]) == 1


async def test_the_wait_for_a_file_that_was_just_written_is_no_time_of_the_jobs(bench: Bench) -> None:
    path = bench.functions / "own" / "fresh.py"
    path.parent.mkdir(exist_ok=True)
    async with Worker(bench.settings(), bench.broker):
        path.write_text("def main(n):\n    return n\n")  # is used when it has not been written for a second
        results = await bench.run("own/fresh", [1], [2], options=Options(timeout=0.3))
        assert [value(result) for result in results] == [1, 2]
