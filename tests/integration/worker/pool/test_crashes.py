"""A job that kills its process costs that job and that process; a worker that ends leaves nothing undone or running."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from dts.wire.dts_pb2 import FAILED, SUCCEEDED, Options
from dts.wire.queues import DEAD
from dts.worker.worker import Worker
from tests.services.waiting import PATIENCE, until, within
from tests.services.worker_bench import Bench, bench, is_alive, value

__all__ = ["bench"]

DEADLY = (
    "import ctypes, os, signal, sys, threading\n"
    "def main(how):\n"
    "    if how == 'exit': os._exit(7)\n"
    "    if how == 'segfault': ctypes.string_at(0)\n"
    "    if how == 'kill': os.kill(os.getpid(), signal.SIGKILL)\n"
    "    if how == 'abort': os.abort()\n"
    "    if how == 'close': os.closerange(0, 1000)\n"
    "    return how\n"
)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("exit", "exited with status 7"),
        ("segfault", "SIGSEGV"),
        ("kill", "SIGKILL"),
        ("abort", "SIGABRT"),
        ("close", "the process of the job"),
    ],
)
async def test_a_job_that_kills_its_process_is_the_only_one_to_fail(bench: Bench, how: str, said: str) -> None:
    bench.write("own/deadly", DEADLY)
    async with Worker(bench.settings(), bench.broker):
        results = await bench.run("own/deadly", ["a"], ["b"], [how], ["c"], ["d"])
        assert [result.status for result in results] == [SUCCEEDED, SUCCEEDED, FAILED, SUCCEEDED, SUCCEEDED]
        error = results[2].error
        assert (error.type, error.reason) == ("ProcessDied", "poison")
        assert said in error.message
        assert [retry.kills for retry in bench.retries] == [1, 2]
        assert results[2].kills == results[2].attempt == 3
        assert value((await bench.run("text/upper", ["next"]))[0]) == "NEXT"
    await bench.wait_empty()


async def test_every_job_may_be_a_deadly_one(bench: Bench) -> None:
    bench.write("own/deadly", DEADLY)
    async with Worker(bench.settings(), bench.broker):
        results = await bench.run("own/deadly", *(["exit"] for _ in range(5)))
    assert {result.error.type for result in results} == {"ProcessDied"}


async def test_the_culprit_among_async_jobs_is_found(bench: Bench) -> None:
    bench.write(
        "own/meet",
        "import asyncio, os\n"
        "async def main(n):\n"
        "    await asyncio.sleep(0.01)\n"
        "    if n == 3: os._exit(1)\n"
        "    return n\n",
    )
    async with Worker(bench.settings(concurrency=5), bench.broker):
        results = await bench.run("own/meet", *([n] for n in range(12)))
    assert [result.index for result in results if result.status == FAILED] == [3]
    assert results[3].error.type == "ProcessDied"


async def test_a_module_that_kills_its_process_fails_its_jobs_after_a_few_attempts(bench: Bench) -> None:
    bench.write("own/bomb", "import os; os._exit(9)")
    async with Worker(bench.settings(), bench.broker):
        results = await bench.run("own/bomb", [1], [2])
        assert {result.error.type for result in results} == {"ProcessDied"}
        assert "imported" in results[0].error.message
        assert value((await bench.run("text/upper", ["next"]))[0]) == "NEXT"
    await bench.wait_empty()


async def test_a_child_that_is_killed_from_outside_is_replaced(bench: Bench) -> None:
    async with Worker(bench.settings(), bench.broker) as worker:
        await bench.run("text/upper", ["a"])
        (before,) = worker.executor.pids
        os.kill(before, signal.SIGKILL)
        assert value((await bench.run("text/upper", ["b"]))[0]) == "B"
        assert worker.executor.pids != [before]


async def test_a_stop_finishes_what_is_begun_and_gives_back_the_rest(bench: Bench) -> None:
    bench.write(
        "own/slow",
        "import pathlib, time\n"
        "def main(begun, n):\n"
        "    pathlib.Path(begun).touch()\n"
        "    time.sleep(0.2)\n"
        "    return n\n",
    )
    begun = bench.functions / "begun"
    worker = Worker(bench.settings(split_after=10), bench.broker)
    await worker.start()
    runs = [await bench.send("own/slow", [str(begun), n], [str(begun), n]) for n in range(3)]
    await until(begun.exists)
    await worker.stop()
    await worker.stop()
    assert len(await bench.wait(runs[0], 2)) == 2
    assert {batch.run for batch in bench.batches} == {runs[0]}, "only what had begun was run"
    async with Worker(bench.settings(), bench.broker):
        for run in runs[1:]:
            assert len(await bench.wait(run, 2)) == 2
    await bench.wait_empty()


async def test_a_drain_ends_when_its_time_is_up_or_somebody_is_in_a_hurry(bench: Bench) -> None:
    bench.write(
        "own/endless",
        "import pathlib\ndef main(begun):\n    pathlib.Path(begun).touch()\n    while True: pass\n",
    )
    for number, timeout in enumerate((0.2, PATIENCE * 2)):
        hurry = asyncio.Event()
        begun = bench.functions / f"begun{number}"
        worker = Worker(bench.settings(drain_timeout=timeout), bench.broker, hurry=hurry)
        await worker.start()
        if number == 0:
            await bench.send("own/endless", [str(begun)])
        else:
            begun = bench.functions / "begun0"
        await until(begun.exists)
        (pid,) = worker.executor.pids
        if timeout > PATIENCE:
            hurry.set()
        async with within():
            await worker.stop()
        assert not is_alive(pid)
        begun.unlink()
    assert bench.batches == []


async def test_processes_that_a_function_forks_are_not_taken_for_the_child(bench: Bench) -> None:
    bench.write(
        "own/fork",
        "import multiprocessing, os\n"
        "def main(log):\n"
        "    with multiprocessing.get_context('fork').Pool(2) as pool: total = sum(pool.map(abs, [1, -2]))\n"
        "    pid = os.fork()\n"
        "    if pid: os.waitpid(pid, 0)\n"
        "    with open(log, 'a') as file: file.write('x')\n"
        "    return total\n",
    )
    log = bench.functions / "log"
    async with Worker(bench.settings(), bench.broker):
        results = await bench.run("own/fork", [str(log)], [str(log)])
    assert [value(result) for result in results] == [3, 3]
    assert log.read_text() == "x" * 4, "a fork ends with the job that made it"


async def test_a_process_that_is_started_afresh_can_import_the_functions_module(bench: Bench) -> None:
    bench.write(
        "own/pool",
        "import multiprocessing\n"
        "def helper(n): return 2 * n\n"
        "def main(how):\n"
        "    with multiprocessing.get_context(how).Pool(1) as pool: return pool.map(helper, [1, 2])\n",
    )
    async with Worker(bench.settings(), bench.broker):
        results = await bench.run("own/pool", ["spawn"], ["forkserver"], options=Options(timeout=20))
    assert [value(result) for result in results] == [[2, 4], [2, 4]]


async def test_a_process_that_a_function_forks_can_be_terminated_at_once(bench: Bench) -> None:
    bench.write(
        "own/fork",
        "import multiprocessing, time\n"
        "def main():\n"
        "    codes = set()\n"
        "    for _ in range(50):\n"
        "        process = multiprocessing.get_context('fork').Process(target=time.sleep, args=(100,))\n"
        "        process.start()\n"
        "        process.terminate()\n"
        "        process.join()\n"
        "        codes.add(process.exitcode)\n"
        "    return sorted(codes)\n",
    )
    async with Worker(bench.settings(), bench.broker):
        assert value((await bench.run("own/fork", []))[0]) == [-signal.SIGTERM]


# the real command


@pytest.fixture
async def command(bench: Bench, tmp_path: Path) -> AsyncIterator[Process]:
    """`python -m dts.worker` with two children."""
    root = Path(__file__).parents[4]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dts.worker", "--processes", "2", "--functions", str(bench.functions)),
        cwd=tmp_path,
        env=os.environ
        | {
            "DTS_BROKER_URL": f"sqlite:///{tmp_path}/queue.db",
            "DTS_FLEET_KEY_FILE": f"{tmp_path}/fleet.key",
            "PYTHONPATH": str(root),
        },
    )
    yield process
    if process.returncode is None:
        process.kill()
    await process.wait()


async def test_a_signal_drains_the_command(bench: Bench, command: Process) -> None:
    bench.write(
        "own/slow",
        "import pathlib, time\n"
        "def main(begun):\n"
        "    pathlib.Path(begun).touch()\n"
        "    time.sleep(0.5)\n"
        "    return 'finished'\n",
    )
    begun = bench.functions / "begun"
    run = await bench.send("own/slow", [str(begun)])
    await until(begun.exists)
    children = psutil.Process(command.pid).children(recursive=True)
    assert len(children) == 3, "two, and the template that they are forked from"
    for child in children:  # as a service manager does that signals all processes
        child.terminate()
    command.terminate()
    async with within():
        assert await command.wait() == 0
    assert value((await bench.wait(run, 1))[0]) == "finished"
    await until(lambda: not any(is_alive(child.pid) for child in children))
    await bench.wait_empty()


async def test_a_second_interrupt_ends_the_command_at_once(bench: Bench, command: Process) -> None:
    bench.write(
        "own/endless",
        "import pathlib\ndef main(begun):\n    pathlib.Path(begun).touch()\n    while True: pass\n",
    )
    begun = bench.functions / "begun"
    await bench.send("own/endless", [str(begun)])
    await until(begun.exists)
    command.send_signal(signal.SIGINT)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await command.wait()
    command.send_signal(signal.SIGINT)
    async with within():
        assert await command.wait() == 0


async def test_a_killed_command_leaves_no_process_and_no_job_behind(bench: Bench, command: Process) -> None:
    """Even one whose child holds the interpreter's lock for ever, or has started a program in a session of its own."""
    bench.write(
        "own/stuck",
        "import os, pathlib, re, subprocess\n"
        "def main(begun, how):\n"
        "    if not pathlib.Path(begun).exists():\n"
        "        program = subprocess.Popen(['sleep', '1000'], start_new_session=how == 'wait')\n"
        "        pathlib.Path(begun).write_text(f'{os.getpid()} {program.pid}\\n')\n"
        "        if how == 'regex': re.match('(a+)+$', 'a' * 60 + 'b')\n"
        "        program.wait()\n"
        "    return 'second time'\n",
    )
    notes = [bench.functions / how for how in ("regex", "wait")]
    runs = [await bench.send("own/stuck", [str(note), note.name]) for note in notes]
    await until(lambda: all(note.exists() and note.read_text().endswith("\n") for note in notes))
    pids = [int(pid) for note in notes for pid in note.read_text().split()]
    assert all(is_alive(pid) for pid in pids)
    command.kill()
    await command.wait()
    await until(lambda: not any(is_alive(pid) for pid in pids))
    async with Worker(bench.settings(), bench.broker):
        for run in runs:
            assert value((await bench.wait(run, 1))[0]) == "second time"


async def test_children_that_cannot_start_do_not_spin(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    async with Worker(bench.settings(), bench.broker) as worker:
        run = await bench.send("text/upper", ["a"])
        await until(lambda: "before it was ready" in caplog.text)
        monkeypatch.undo()
        assert value((await bench.wait(run, 1))[0]) == "A"
        assert len(worker.executor.pids) == 1
    assert len(caplog.records) < 10


async def test_what_kills_its_process_before_any_job_is_a_dead_letter(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body that takes all memory when it is decoded, say; here a child that dies of any."""
    folder = bench.functions / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os\nfrom dts.wire import codec\ncodec.decode = lambda *_: os._exit(5)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(Path(__file__).parents[4])]))
    async with Worker(bench.settings(), bench.broker):
        await bench.send("text/upper", ["a"])
        async with await bench.broker.consume(DEAD, prefetch=1) as dead, within():
            (letter,) = await dead.receive()
    assert "processes died" in str(letter.message.headers["x-dts-reason"])


async def test_a_job_whose_child_is_killed_from_outside_runs_again_and_is_told_why(bench: Bench) -> None:
    """As by an operator, or by the kernel for want of memory."""
    bench.write(
        "own/gate",
        "import os, pathlib, time\n"
        "def main(folder):\n"
        "    pathlib.Path(folder, str(os.getpid())).touch()\n"
        "    while not pathlib.Path(folder, 'gate').exists(): time.sleep(0.01)\n"
        "    return 'at last'\n",
    )
    folder = bench.functions / "begun"
    folder.mkdir()
    async with Worker(bench.settings(), bench.broker) as worker:
        receiving = asyncio.create_task(bench.run("own/gate", [str(folder)]))
        for _ in range(2):
            await until(lambda: any((folder / str(pid)).exists() for pid in worker.executor.pids))
            (pid,) = worker.executor.pids
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: pid not in worker.executor.pids)  # type: ignore[misc]
        (folder / "gate").touch()
        (result,) = await receiving
    assert (value(result), result.attempt) == ("at last", 3)
    assert [(retry.kills, retry.error.reason) for retry in bench.retries] == [(1, "killed"), (2, "killed")]
    assert "SIGKILL from outside, perhaps by the kernel" in bench.retries[0].error.message
