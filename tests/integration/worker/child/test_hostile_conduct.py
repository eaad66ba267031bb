"""Jobs that leave their process other than they found it: they fail and say how, and the others never notice."""

from __future__ import annotations

from typing import Any

import pytest

from dts.wire.dts_pb2 import FAILED, Options, Result
from dts.worker.worker import Worker
from tests.services.worker_bench import Bench, bench, value

__all__ = ["bench"]

DEEDS = {
    "folder": ("os.chdir('/usr')", "the working directory, from "),
    "folder_gone": ("import tempfile; os.chdir(tempfile.mkdtemp()); os.rmdir(os.getcwd())", "to one that is gone"),
    "folder_by_descriptor": ("os.fchdir(os.open('/', os.O_RDONLY))", "use contextlib.chdir"),
    "folder_in_c": ("import ctypes; ctypes.CDLL(None).chdir(b'/usr')", "use contextlib.chdir"),
    "handler": ("signal.signal(signal.SIGCHLD, signal.SIG_IGN)", "the handler of SIGCHLD"),
    "handlers": ("for n in (1, 2, 10, 12, 13, 14, 15): signal.signal(n, signal.SIG_IGN)", "the handler of SIGUSR1"),
    "blocked": ("signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])", "signals are blocked (SIGTERM)"),
    "stdout_closed": ("sys.stdout.close()", "sys.stdout, which it closed"),
    "stderr_closed": ("sys.stderr.close()", "sys.stderr, which it closed"),
    "stdin_closed": ("sys.stdin.close()", "sys.stdin, which it closed"),
    "stdout_detached": ("sys.stdout.detach()", "sys.stdout, which it closed"),
    "stdout_buffer": ("sys.stdout.buffer.close()", "sys.stdout, which it closed"),
    "stdout_replaced": ("import io; sys.stdout = io.StringIO()", "use contextlib.redirect_stdout"),
    "stderr_none": ("sys.stderr = None", "sys.stderr"),
    "descriptor_closed": ("os.close(1)", "descriptor 1 (stdout), which it closed"),
    "descriptor_moved": (
        "os.dup2(os.open('/dev/null', os.O_WRONLY), 2)",
        "descriptor 2 (stderr), which it pointed else",
    ),
    "limit": ("resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))", "RLIMIT_NOFILE"),
    "cpu_limit": ("resource.setrlimit(resource.RLIMIT_CPU, (9, 9))", "RLIMIT_CPU"),
}
GOOD = {
    "folder_and_back": "import contextlib\nwith contextlib.chdir('/usr'): pass",
    "handler_and_back": "signal.signal(signal.SIGALRM, signal.signal(signal.SIGALRM, signal.SIG_IGN))",
    "stdout_and_back": "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()): print(1)",
    "program": "import subprocess; subprocess.run(['echo', 'hi'], check=True, cwd='/usr')",
    "event_loop": "asyncio.run(asyncio.sleep(0))",
    "event_loop_program": "async def run(): return await (await asyncio.create_subprocess_exec('true')).wait()\n"
    "assert asyncio.run(run()) == 0",
    "processes": "import multiprocessing\nwith multiprocessing.Pool(1) as pool: assert pool.map(abs, [-1]) == [1]",
    "prints": "print('a' * 100); print('b', file=sys.stderr)",
}


def module(kind: str) -> str:
    """A function that does a deed, or tells of its surroundings: `def` or `async def`."""
    lines = ["import asyncio, os, resource, signal, sys, time", f"{kind} main(how, pause=0.0):"]
    for name, code in {**{name: code for name, (code, _) in DEEDS.items()}, **GOOD}.items():
        lines += [f"    if how == '{name}':", *(f"        {line}" for line in code.split("\n"))]
    lines += ["    await asyncio.sleep(pause)"] if kind == "async def" else ["    time.sleep(pause)"]
    lines += [
        "    import subprocess",
        "    if how == 'look':",
        "        print('x', flush=True)",
        "        code = subprocess.run(['false']).returncode",
        "        return [os.getcwd(), str(signal.getsignal(10)), code, len(os.listdir('.')) >= 0]",
        "    return how",
    ]
    return "\n".join(lines) + "\n"


def failed(results: list[Result]) -> list[int]:
    return [result.index for result in results if result.status == FAILED]


@pytest.mark.parametrize("how", DEEDS)
async def test_a_job_that_leaves_its_process_changed_fails_and_no_other_notices(bench: Bench, how: str) -> None:
    bench.write("own/f", module("def"))
    calls: list[list[Any]] = [["a"]] * 30 + [["look"], [how], ["look"]] + [["b"]] * 30 + [["look"]]
    async with Worker(bench.settings(), bench.broker):
        (before,) = await bench.run("own/f", ["look"])
        results = await bench.run("own/f", *calls)
        assert failed(results) == [31]
        error = results[31].error
        assert error.type == "ProcessChanged"
        assert DEEDS[how][1] in error.message
        looks = [value(result) for result in results if calls[result.index] == ["look"]]
        assert looks == [value(before)] * 3
        assert not bench.retries, "it is not tried again"
        again = await bench.run("own/f", [how])
        assert failed(again) == [0], "also when it is all of its message"
        assert value((await bench.run("own/f", ["look"]))[0]) == value(before)


async def test_what_is_put_back_is_nobodys_business(bench: Bench) -> None:
    bench.write("own/f", module("def"))
    async with Worker(bench.settings(), bench.broker) as worker:
        await bench.run("own/f", ["a"])
        (pid,) = worker.executor.pids
        for _ in range(3):
            results = await bench.run("own/f", *([how] for how in GOOD))
            assert [value(result) for result in results] == list(GOOD)
        assert worker.executor.pids == [pid], "and it is no reason for another process"


async def test_what_tells_of_itself_does_not_hide_what_does_not(bench: Bench) -> None:
    """The first job is found only with the second one, and a memory limit makes no difference to that."""
    bench.write("own/f", module("def"))
    async with Worker(bench.settings(), bench.broker):
        for limit in (0, 200 * 2**20):
            calls = [["descriptor_moved"], ["a"], ["stderr_none"], ["a"], ["descriptor_closed"], ["folder"]]
            results = await bench.run("own/f", *calls, options=Options(memory_limit=limit))
            assert failed(results) == [0, 2, 4, 5]


async def test_a_job_is_not_blamed_for_a_thread_of_another_one(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import os, threading, time\n"
        "def later():\n    time.sleep(0.1)\n    os.chdir('/usr')\n"
        "def main(how):\n"
        "    if how != 'wait': threading.Thread(target=later).start()\n"
        "    if how != 'leave': time.sleep(0.3)\n"
        "    return os.getpid()\n",
    )
    async with Worker(bench.settings(), bench.broker):
        assert failed(await bench.run("own/f", ["leave"], ["wait"])) == []
        assert failed(await bench.run("own/f", ["leave"])) == []
        assert failed(await bench.run("own/f", ["wait"])) == [], "nor in another message"
        assert failed(await bench.run("own/f", ["wait"], ["own"], ["wait"])) == [1], "but for its own"


async def test_jobs_under_a_lease_go_on_in_a_fresh_process_too(bench: Bench) -> None:
    bench.write("own/f", module("def"))
    async with Worker(bench.settings(), bench.broker):
        for how in ("folder", "descriptor_closed"):
            results = await bench.run("own/f", ["a"], [how], ["b"], ["c"], lease=True)
            assert failed(results) == [1]
    await bench.wait_empty()


async def test_what_is_given_to_others_is_run_once(bench: Bench) -> None:
    """A message that turns out slow is shared out, while a job of it changes its process."""
    bench.write("own/f", module("def"))
    async with Worker(bench.settings(processes=2, split_after=0.1), bench.broker):
        calls = [["folder" if n % 5 == 3 else "a", 0.04] for n in range(20)]
        assert failed(await bench.run("own/f", *calls)) == [3, 8, 13, 18]
    await bench.wait_empty()
    assert sum(len(batch.results) for batch in bench.batches) == 20


async def test_an_exception_is_told_before_what_was_left_changed(bench: Bench) -> None:
    bench.write("own/f", "import os\ndef main(how):\n    if how: os.chdir('/'); 1 / 0\n    return os.getcwd()\n")
    async with Worker(bench.settings(), bench.broker):
        results = await bench.run("own/f", [0], [1], [0], [0], options=Options(max_attempts=2))
        assert failed(results) == [1]
        assert results[1].error.type == "ZeroDivisionError"
        assert len({value(result) for result in results if result.index != 1}) == 1


async def test_every_job_may_do_it(bench: Bench) -> None:
    bench.write("own/f", module("def"))
    async with Worker(bench.settings(), bench.broker):
        for how in ("folder", "descriptor_moved"):
            results = await bench.run("own/f", *([[how]] * 20))
            assert failed(results) == list(range(20))
            assert {result.error.type for result in results} == {"ProcessChanged"}


async def test_what_a_module_sets_up_when_it_is_imported_is_nobodys_fault(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import os, signal\nsignal.signal(signal.SIGALRM, lambda *_: None)\nos.chdir('/usr')\n"
        "def main(): return os.getcwd()\n",
    )
    async with Worker(bench.settings(), bench.broker):
        assert [value(result) for result in await bench.run("own/f", [], [])] == ["/usr"] * 2


# async functions


@pytest.mark.parametrize("how", ["folder", "handler", "stdout_closed", "limit"])
async def test_an_async_job_is_found_among_those_beside_it(bench: Bench, how: str) -> None:
    bench.write("own/f", module("async def"))
    async with Worker(bench.settings(), bench.broker):
        pauses = [0.3, 0.0, 0.1, 0.2, 0.05]
        results = await bench.run("own/f", *([name, pause] for name, pause in zip("ab", pauses, strict=False)))
        assert failed(results) == []
        calls = [["a", 0.3], ["b", 0.01], [how, 0.1], ["folder_and_back", 0.2], ["c", 0.05]]
        results = await bench.run("own/f", *calls, options=Options(concurrency=3))
        assert failed(results) == [2]
        assert DEEDS[how][1] in results[2].error.message
        assert [value(result) for result in results if result.index != 2] == ["a", "b", "folder_and_back", "c"]


@pytest.mark.parametrize("how", ["folder_in_c", "descriptor_closed", "stdout_replaced"])
async def test_an_async_job_that_is_alone_has_done_whatever_was_done(bench: Bench, how: str) -> None:
    bench.write("own/f", module("async def"))
    async with Worker(bench.settings(), bench.broker):
        (before,) = await bench.run("own/f", ["look"])
        assert failed(await bench.run("own/f", [how])) == [0]
        assert value((await bench.run("own/f", ["look"]))[0]) == value(before)
