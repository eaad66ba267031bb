"""What functions do to their process that is seen when their message has ended: no later job finds anything of it."""

from __future__ import annotations

import psutil
import pytest

from dts.wire.dts_pb2 import FAILED, Options
from dts.worker.worker import Worker
from tests.services.worker_bench import Bench, bench, until, value

__all__ = ["bench"]

LOOK = """
import builtins, json, os, resource, signal, socket, subprocess, sys, threading
def main():
    subprocess.run(["true"], check=True)
    return json.dumps([
        str(builtins.print), len(json.dumps([1])), sys.getswitchinterval(), str(sys.gettrace()), str(sys.getprofile()),
        socket.getdefaulttimeout(), sorted(os.sched_getaffinity(0)), os.getpriority(0, 0), signal.getitimer(1)[0],
        signal.getitimer(2)[0], [resource.getrlimit(n) for n in range(10)], str(threading.gettrace()),
    ])
"""
DEEDS = {
    "default_timeout": "import socket; socket.setdefaulttimeout(0.001)",
    "builtins": "import builtins; builtins.print = builtins.len = None",
    "json": "import json; json.dumps = None",
    "module": "sys.modules['subprocess'] = None",
    "modules": "sys.modules.clear()",
    "own_modules": "sys.modules = {}",
    "switch_interval": "sys.setswitchinterval(10)",
    "trace": "sys.settrace(lambda *_: None)",
    "profile": "sys.setprofile(lambda *_: None)",
    "thread_trace": "import threading; threading.settrace(lambda *_: None)",
    "affinity": "os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])",
    "nice": "os.nice(5)",
    "timers": "signal.setitimer(signal.ITIMER_PROF, 1000); signal.setitimer(signal.ITIMER_VIRTUAL, 1000)",
    "data_limit": "import resource; resource.setrlimit(resource.RLIMIT_DATA, (10**9, 10**9))",
}


@pytest.mark.parametrize("how", DEEDS)
async def test_no_later_message_finds_anything_of_it(bench: Bench, how: str) -> None:
    bench.write("own/deed", f"import os, signal, sys\ndef main():\n    {DEEDS[how]}\n")
    bench.write("own/look", LOOK)
    async with Worker(bench.settings(), bench.broker):
        before = value((await bench.run("own/look", []))[0])
        await bench.run("own/deed", [])
        assert value((await bench.run("own/look", []))[0]) == before


async def test_descriptors_that_functions_leak_run_out_for_nobody_else(bench: Bench) -> None:
    """Each job leaves a few hundred; the process is replaced before, or at the latest when modules cannot be read."""
    bench.write("own/leak", "import os\nkept = []\ndef main(n): kept.extend(os.dup(0) for _ in range(n))\n")
    bench.write("own/next", "def main(): return open('/dev/null') is not None\n")
    async with Worker(bench.settings(), bench.broker):
        for _ in range(6):
            await bench.run("own/leak", [300])
            assert value((await bench.run("own/next", []))[0]) is True
        await bench.run("own/leak", [100_000])
        assert value((await bench.run("own/next", []))[0]) is True


async def test_a_child_without_descriptors_gives_its_job_to_a_fresh_one(bench: Bench) -> None:
    """A thread that a job has left behind takes them away, after the process was looked at."""
    bench.write(
        "own/leak",
        "import os, resource, threading, time\n"
        "def take():\n"
        "    time.sleep(0.2)\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (4, 1000))\n"
        "def main(): threading.Thread(target=take).start(); return os.getpid()\n",
    )
    bench.write("own/next", "import os\ndef main(n): return os.getpid()\n")
    async with Worker(bench.settings(), bench.broker) as worker:
        pid = value((await bench.run("own/leak", []))[0])
        await until(lambda: psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE)[0] == 4)
        results = await bench.run("own/next", [1], [2], [3])
        assert pid not in {value(result) for result in results}
        assert worker.executor.pids != [pid]


async def test_ended_orphans_do_not_pile_up(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import os\ndef main(n):\n    for _ in range(n):\n"
        "        if (pid := os.fork()) == 0:\n            os.fork()\n            os._exit(0)\n"
        "        os.waitpid(pid, 0)\n    return os.getpid()\n",
    )
    async with Worker(bench.settings(), bench.broker):
        few = {value((await bench.run("own/f", [1]))[0]) for _ in range(5)}
        assert len(few) == 1, "a few are no reason for a fresh process"
        await bench.run("own/f", [50])
        assert value((await bench.run("own/f", [0]))[0]) not in few


async def test_a_program_that_a_module_keeps_is_left_to_it(bench: Bench) -> None:
    """How it ended is asked for by a later job."""
    bench.write(
        "own/f",
        "import subprocess\nkept = []\ndef main(how):\n"
        "    if how == 'start': kept.append(subprocess.Popen(['false']))\n"
        "    else: return kept[0].wait()\n",
    )
    async with Worker(bench.settings(), bench.broker):
        await bench.run("own/f", ["start"])
        assert value((await bench.run("own/f", ["ask"]))[0]) == 1


async def test_a_memory_limit_holds_after_a_function_has_lifted_it(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import resource\ndef main(how):\n"
        "    if how == 'lift': resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))\n"
        "    else: x = bytearray(2**28)\n",
    )
    async with Worker(bench.settings(), bench.broker):
        options = Options(memory_limit=100 * 2**20, max_attempts=1)
        await bench.run("own/f", ["lift"], options=options)
        (result,) = await bench.run("own/f", ["take"], options=options)
        assert (result.status, result.error.type) == (FAILED, "MemoryLimit")
