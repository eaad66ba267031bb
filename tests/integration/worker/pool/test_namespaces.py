"""A child runs functions of one namespace; those of namespaces used lately stay warm, and no message waits for one."""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import Any

import pytest

from dts.broker import Message
from dts.wire import codec
from dts.wire.dts_pb2 import JobBatch
from dts.wire.queues import jobs_queue
from dts.worker.pool import executor
from dts.worker.pool.child_process import ChildProcess
from dts.worker.worker import Worker
from tests.services.waiting import PATIENCE, until
from tests.services.worker_bench import Bench, bench, is_alive, value

__all__ = ["bench"]

PID = "import os\ndef main(*_): return os.getpid()\n"
GATE = (
    "import os, pathlib, time\n"
    "def main(gate):\n"
    "    pathlib.Path(gate + '.begun').touch()\n"
    "    while not pathlib.Path(gate).exists(): time.sleep(0.005)\n"
    "    return os.getpid()\n"
)

SPOILS = {
    "builtins": ("import builtins; builtins.secret = 1", "import builtins; return hasattr(builtins, 'secret')"),
    "environment": ("os.environ['SECRET'] = 'x'", "return os.environ.get('SECRET')"),
    "folder": ("os.chdir('/usr')", "return os.getcwd() == '/usr'"),
    "path": ("sys.path.insert(0, '/secret')", "return '/secret' in sys.path"),
    "timezone": ("import time; os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()", "import time; return time.tzname[0]"),
    "socket": ("import socket; socket.socket = None", "import socket; return socket.socket is None"),
    "ssl": (
        "import ssl; ssl._create_default_https_context = ssl._create_unverified_context",
        "import ssl; return ssl._create_default_https_context is ssl._create_unverified_context",
    ),
    "hashlib": ("import hashlib; hashlib.sha256 = hashlib.md5", "import hashlib; return hashlib.sha256().name"),
    "decimal": ("import decimal; decimal.getcontext().prec = 3", "import decimal; return decimal.getcontext().prec"),
    "random": ("import random; random.seed(1)", "import random; return random.random() == 0.13436424411240122"),
    "warnings": ("import warnings; warnings.simplefilter('error')", "import warnings; return len(warnings.filters)"),
    "logging": (
        "import logging; logging.disable(50); logging.getLogger('a').setLevel(50)",
        "import logging; return [logging.root.manager.disable, logging.getLogger('a').level]",
    ),
    "contextvars": (
        "import contextvars; sys.modules['shared'] = contextvars.ContextVar('v')",
        "return 'shared' in sys.modules",
    ),
    "recursion": ("sys.setrecursionlimit(333)", "return sys.getrecursionlimit()"),
    "timeout": ("import socket; socket.setdefaulttimeout(0.001)", "import socket; return socket.getdefaulttimeout()"),
    "signals": ("import signal; signal.signal(17, signal.SIG_IGN)", "import signal; return str(signal.getsignal(17))"),
    "umask": ("os.umask(0o777)", "return os.umask(0o22)"),
    "limits": (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))",
        "import resource; return resource.getrlimit(resource.RLIMIT_NOFILE)[0]",
    ),
    "nice": ("os.nice(5)", "return os.nice(0)"),
    "meta_path": ("sys.meta_path.clear()", "import colorsys; return len(sys.meta_path) > 2"),
    "thread": (
        "import threading, time; threading.Thread(target=time.sleep, args=(100,), daemon=True, name='left').start()",
        "import threading; return 'left' in [thread.name for thread in threading.enumerate()]",
    ),
}


@pytest.mark.parametrize("how", SPOILS)
async def test_no_namespace_sees_what_another_one_did(bench: Bench, how: str) -> None:
    deed, look = SPOILS[how]
    bench.write("bad/deed", f"import os, sys\ndef main():\n    {deed}\n")
    bench.write("good/look", f"import os, sys\ndef main():\n    {look}\n")
    bench.write("late/look", f"import os, sys\ndef main():\n    {look}\n")
    async with Worker(bench.settings(), bench.broker):
        before = value((await bench.run("good/look", []))[0])
        await bench.run("bad/deed", [])
        for name in ("good/look", "late/look"):
            assert value((await bench.run(name, []))[0]) == before


async def test_helpers_of_the_same_name_in_two_namespaces_are_two_modules(bench: Bench) -> None:
    for name in ("one", "two"):
        bench.write(f"{name}/utils", f"NAME = {name!r}\n")
        path = "import os, sys\nsys.path.insert(0, os.path.dirname(__file__))\nimport utils\n"
        bench.write(f"{name}/f", f"{path}def main(): return utils.NAME\n")
    async with Worker(bench.settings(), bench.broker):
        for _ in range(3):
            for name in ("one", "two"):
                assert value((await bench.run(f"{name}/f", []))[0]) == name


async def test_functions_of_a_namespace_share_a_child_which_stays_warm(bench: Bench) -> None:
    for name in ("one/f", "one/g", "two/f"):
        bench.write(name, PID)
    async with Worker(bench.settings(), bench.broker):
        pids = {name: value((await bench.run(name, []))[0]) for name in ("one/f", "one/g", "two/f")}
        assert pids["one/f"] == pids["one/g"] != pids["two/f"]
        for name, pid in pids.items():
            assert value((await bench.run(name, []))[0]) == pid


async def test_the_least_recently_used_idle_children_end_first(bench: Bench) -> None:
    for n in range(5):
        bench.write(f"n{n}/f", PID)
    async with Worker(bench.settings(warm_children=3), bench.broker) as worker:
        pids = [value((await bench.run(f"n{n}/f", []))[0]) for n in (0, 1, 2)]
        assert value((await bench.run("n0/f", []))[0]) == pids[0]
        await bench.run("n3/f", [])
        await until(lambda: not is_alive(pids[1]))
        assert value((await bench.run("n0/f", []))[0]) == pids[0], "used after that of n1"
        assert value((await bench.run("n2/f", []))[0]) == pids[2]
        assert len(worker.executor.pids) == 3


async def test_idle_children_end_when_memory_is_short(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(4):
        bench.write(f"n{n}/f", PID)
    monkeypatch.setattr(executor, "_MEASURE_EVERY", 0.05)
    async with Worker(bench.settings(), bench.broker) as worker:
        pids = [value((await bench.run(f"n{n}/f", []))[0]) for n in range(4)]
        assert worker.executor.pids == pids
        monkeypatch.setattr(executor, "free_memory_percent", lambda: 5.0)
        await until(lambda: worker.executor.pids == [])
        assert worker.free_slots == 1, "there is a blank child still"
        monkeypatch.setattr(executor, "free_memory_percent", lambda: 50.0)
        assert value((await bench.run("n0/f", []))[0]) not in pids


async def test_no_more_work_at_a_time_than_there_are_processes_whatever_is_warm(bench: Bench) -> None:
    for n in range(4):
        bench.write(f"n{n}/f", GATE)
    gates = [bench.functions / f"gate{n}" for n in range(4)]
    async with Worker(bench.settings(processes=2), bench.broker) as worker:
        runs = [await bench.send(f"n{n}/f", [str(gates[n])]) for n in range(4)]
        begun = [gate.with_name(f"{gate.name}.begun") for gate in gates]
        for n in range(4):
            await until(lambda n=n: sum(mark.exists() for mark in begun) == min(n + 2, 4))  # type: ignore[misc]
            assert sum(bool(child.given) for child in worker.executor.children) <= 2
            gates[next(at for at, mark in enumerate(begun) if mark.exists() and not gates[at].exists())].touch()
        for run in runs:
            await bench.wait(run, 1)


async def test_a_message_is_not_overtaken_for_ever_by_those_with_a_warm_child(bench: Bench) -> None:
    bench.write("warm/f", "import time\ndef main(): began = time.monotonic(); time.sleep(0.03); return began\n")
    bench.write("cold/f", "import time\ndef main(): return time.monotonic()\n")
    async with Worker(bench.settings(), bench.broker):
        await bench.run("warm/f", [])
        first = [await bench.send("warm/f", []) for _ in range(3)]
        cold = await bench.send("cold/f", [])
        more = [await bench.send("warm/f", []) for _ in range(30)]
        begun = value((await bench.wait(cold, 1))[0])
        before = [run for run in more if value((await bench.wait(run, 1))[0]) < begun]
        assert len(before) <= 4 + 2, "those that may overtake it, and what was given ahead"
        for run in first:
            await bench.wait(run, 1)


async def test_a_namespace_whose_event_loop_is_full_lets_others_in(bench: Bench) -> None:
    bench.write("many/f", "import asyncio\nasync def main(): await asyncio.sleep(0.05)\n")
    bench.write("other/f", PID)
    async with Worker(bench.settings(), bench.broker):
        runs = [await bench.send("many/f", []) for _ in range(100)]
        other = await bench.send("other/f", [])
        runs += [await bench.send("many/f", []) for _ in range(300)]
        await bench.wait(other, 1)
        done = {batch.run for batch in bench.batches if batch.results}
        assert len(done & set(runs[200:])) < 100
        for run in runs:
            await bench.wait(run, 1)


@pytest.mark.parametrize("header", ["one/f", "", 7])
@pytest.mark.parametrize("used", [True, False], ids=["used", "blank"])
async def test_a_message_whose_header_names_another_namespace_than_its_body_is_a_dead_letter(
    bench: Bench, caplog: pytest.LogCaptureFixture, header: str | int, used: bool
) -> None:
    """Also as the first message of a child, which it must not bind to a namespace that the worker knows nothing of."""
    bench.write("one/f", PID)
    bench.write("two/f", PID)
    batch = JobBatch(block="b-0", run="b", function="two/f", jobs=[{"index": 0}])
    headers: dict[str, str | int] = {"block": "b-0", "run": "b", "function": header, "count": 1}
    with caplog.at_level(logging.ERROR):
        async with Worker(bench.settings(processes=1), bench.broker):
            if used:
                await bench.run("one/f", [])
            await bench.broker.publish(jobs_queue("default"), [Message(*codec.encode(batch), headers)])
            await until(lambda: "another namespace or version than its body, two/f" in caplog.text)
            for name in ("one/f", "two/f", "one/f"):
                value((await asyncio.wait_for(bench.run(name, []), PATIENCE))[0])


async def test_a_child_that_cannot_be_started_takes_the_place_of_idle_ones(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without that a worker at its limit of descriptors or processes would hold its messages for ever."""
    names = [f"n{number}/f" for number in range(6)]
    for name in names:
        bench.write(name, PID)
    async with Worker(bench.settings(processes=1), bench.broker) as worker:
        for name in names[:5]:
            await bench.run(name, [])
        start = ChildProcess.start

        async def start_if_few_live(*arguments: Any) -> ChildProcess:
            if len(worker.executor.children) >= 3:
                raise OSError(errno.EMFILE, "Too many open files")
            return await start(*arguments)

        monkeypatch.setattr(ChildProcess, "start", start_if_few_live)
        for name in [*names, *names]:
            value((await asyncio.wait_for(bench.run(name, []), PATIENCE))[0])
