"""What a module sets for its process while it is imported holds for all messages of its function, and no other's."""

from __future__ import annotations

from dts.worker.worker import Worker
from tests.services.worker_bench import Bench, bench, value

__all__ = ["bench"]

SETS = """
import os, signal, socket, sys, tempfile
os.environ["OWN_LIBRARY"] = "quiet"
os.environ.pop("HOME", None)
sys.path.append("/own/vendored")
socket.setdefaulttimeout(12)
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
os.chdir("/")

def main():
    return [
        os.environ.get("OWN_LIBRARY"), "HOME" in os.environ, sys.path.count("/own/vendored"),
        socket.getdefaulttimeout(), signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN, os.getcwd(),
    ]
"""


async def test_what_a_module_sets_is_there_for_every_message_of_its_function(bench: Bench) -> None:
    bench.write("own/sets", SETS)
    bench.write("own/looks", SETS[: SETS.index("os.environ[")] + SETS[SETS.index("def main") :])
    async with Worker(bench.settings(), bench.broker):
        for _ in range(3):
            for result in await bench.run("own/sets", [], []):
                assert value(result) == ["quiet", False, 1, 12.0, True, "/"]
            [other] = await bench.run("own/looks", [])
            assert value(other)[:5] == [None, True, 0, None, False]
            assert value(other)[5] != "/"
