"""What functions do to their process: the child stays able to work or is replaced, the namespace shares the rest."""

from __future__ import annotations

import pytest

from dts.wire.dts_pb2 import FAILED, Options
from dts.worker.worker import Worker
from tests.services.worker_bench import Bench, bench, value

__all__ = ["bench"]

DEEDS = {
    "builtins": "import builtins; builtins.print = builtins.len = None",
    "json": "import json; json.dumps = None",
    "module": "sys.modules['subprocess'] = None",
    "modules": "sys.modules.clear()",
    "own_modules": "sys.modules = {}",
    "time": "import time; time.sleep = time.monotonic = None",
    "stdout_closed": "sys.stdout.close()",
    "stdout_descriptor": "os.close(1)",
    "stderr_moved": "os.dup2(os.open('/dev/null', os.O_WRONLY), 2)",
    "data_limit": "import resource; resource.setrlimit(resource.RLIMIT_DATA, (10**9, 10**9))",
}
LOOK = """
import json, os, resource, sys, time
def main():
    import subprocess
    print("x", file=sys.stderr)
    time.sleep(0.0)
    return [json.dumps([len("a")]), resource.getrlimit(resource.RLIMIT_DATA)[1], os.fstat(1)[1] == os.fstat(2)[1]]
"""


@pytest.mark.parametrize("how", DEEDS)
async def test_a_child_that_a_function_has_broken_is_replaced_after_its_message(bench: Bench, how: str) -> None:
    """Functions of its own namespace find a fresh process, and lose nothing."""
    bench.write("own/deed", f"import os, sys\ndef main():\n    {DEEDS[how]}\n")
    bench.write("own/look", LOOK)
    async with Worker(bench.settings(), bench.broker) as worker:
        before = value((await bench.run("own/look", []))[0])
        broken = worker.executor.pids
        await bench.run("own/deed", [])
        assert value((await bench.run("own/look", []))[0]) == before
        assert worker.executor.pids != broken


SHARED = {
    "environment": ("os.environ['MARK'] = 'x'", "return os.environ.get('MARK')", "x"),
    "folder": ("os.chdir('/usr')", "return os.getcwd()", "/usr"),
    "path": ("sys.path.append('/mark')", "return sys.path[-1]", "/mark"),
    "handler": ("signal.signal(25, signal.SIG_IGN)", "return signal.getsignal(25) == signal.SIG_IGN", True),
}


@pytest.mark.parametrize("how", SHARED)
async def test_functions_of_a_namespace_share_a_process_as_modules_of_a_package_do(bench: Bench, how: str) -> None:
    deed, look, seen = SHARED[how]
    bench.write("own/deed", f"import os, signal, sys\ndef main():\n    {deed}\n")
    bench.write("own/look", f"import os, signal, sys\ndef main():\n    {look}\n")
    async with Worker(bench.settings(), bench.broker) as worker:
        assert (await bench.run("own/deed", []))[0].error.type == ""
        pids = worker.executor.pids
        assert value((await bench.run("own/look", []))[0]) == seen
        assert worker.executor.pids == pids


async def test_what_a_module_sets_while_it_is_imported_is_there_for_every_message(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import os, socket\nos.environ['OWN'] = 'quiet'\nsocket.setdefaulttimeout(12)\nos.chdir('/')\n"
        "def main(): return [os.environ['OWN'], socket.getdefaulttimeout(), os.getcwd()]\n",
    )
    async with Worker(bench.settings(), bench.broker):
        for _ in range(3):
            assert value((await bench.run("own/f", []))[0]) == ["quiet", 12.0, "/"]


async def test_the_signals_that_the_child_needs_are_let_through_again(bench: Bench) -> None:
    bench.write(
        "own/f",
        "import signal, time\ndef main(how):\n"
        "    if how: signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "    else: time.sleep(60)\n",
    )
    async with Worker(bench.settings(), bench.broker):
        await bench.run("own/f", [1])
        (result,) = await bench.run("own/f", [0], options=Options(soft_timeout=0.3))
        assert result.error.type == "SoftTimeout"


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
