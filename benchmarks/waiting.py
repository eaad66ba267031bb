"""What clients that wait cost a server: memory and CPU each, and what they do to the latency of others.

    python -m benchmarks.waiting [sqlite|mongodb] [--waiters N] [--seconds S]

A real server; N connections that wait on `GET /runs/ID/results?wait=30`, each for a run of its own, while nothing
happens; and one caller who asks for a run again and again. Latency is in ms, without and with those who wait.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import psutil

from dts.auth import Credentials, KeccakAuthenticator, Request
from dts.model import Run, new_id
from dts.store import open_store
from tests.services.deployment import Deployment
from tests.services.mongodb import MongoServer
from tests.services.rabbitmq import RabbitServer

WAIT = "?wait=30"
OPENING = 200
"""Connections that are opened at once: more would overflow the server's queue of those to accept."""

SAMPLES = 200


class Caller:
    """Sends signed requests over connections of its own, with as little memory and CPU as it can."""

    def __init__(self, port: int, credentials: Credentials) -> None:
        self._port = port
        self._authenticator = KeccakAuthenticator(credentials)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the server."""
        return await asyncio.open_connection("127.0.0.1", self._port)

    def head(self, path: str, query: str = "") -> bytes:
        """The head of a signed GET."""
        request = Request.to("GET", f"http://127.0.0.1:{self._port}{path}{query}")
        authorization = self._authenticator.sign(request, b"")
        return (
            f"GET {path}{query} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nAuthorization: {authorization}\r\n\r\n"
        ).encode()


async def read_answer(reader: asyncio.StreamReader) -> None:
    """Read an answer with a Content-Length to its end."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert b" 200 " in head.split(b"\r\n")[0], head
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))


async def latencies(caller: Caller, path: str) -> list[float]:
    """Milliseconds that requests take, one after the other."""
    reader, writer = await caller.connect()
    taken = []
    for _ in range(SAMPLES):
        begun = time.perf_counter()
        writer.write(caller.head(path))
        await read_answer(reader)
        taken.append(1e3 * (time.perf_counter() - begun))
    writer.close()
    return sorted(taken)


def shown(taken: list[float]) -> str:
    """Median and 99th percentile."""
    return f"median {statistics.median(taken):.2f} p99 {taken[int(len(taken) * 0.99)]:.2f}"


async def measure(deployment: Deployment, store_url: str, waiters: int, seconds: float) -> None:
    """Open the connections, leave them alone, and say what they cost."""
    secret = (deployment.folder / "var/admin.secret").read_text().strip()
    caller = Caller(deployment.port, Credentials("admin", secret))
    runs = [Run(new_id(), "admin", "text/upper", 64, created=time.time()) for _ in range(waiters + 1)]
    async with open_store(store_url) as store, AsyncExitStack() as stack:
        for start in range(0, len(runs), OPENING):
            await asyncio.gather(*(store.add_run(run) for run in runs[start : start + OPENING]))
        server = psutil.Process(deployment.pid("server"))
        path = f"/runs/{runs.pop().id}"
        await latencies(caller, path)  # warm
        alone = await latencies(caller, path)
        before = server.memory_info().rss
        for start in range(0, waiters, OPENING):
            connections = await asyncio.gather(*(caller.connect() for _ in runs[start : start + OPENING]))
            for run, (_, writer) in zip(runs[start:], connections, strict=False):
                writer.write(caller.head(f"/runs/{run.id}/results", WAIT))
                stack.callback(writer.close)
        await latencies(caller, path)  # answered when all that came before are waiting
        memory = (server.memory_info().rss - before) / waiters / 1024
        cpu, begun = sum(server.cpu_times()[:2]), time.perf_counter()
        await asyncio.sleep(seconds)
        idle = (sum(server.cpu_times()[:2]) - cpu) / (time.perf_counter() - begun)
        beside = await latencies(caller, path)
        print(f"{waiters} waiting: {memory:.1f} KiB each, {100 * idle:.1f} % of a core while nothing happens")
        print(f"latency of others (ms): alone {shown(alone)}; beside them {shown(beside)}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", nargs="?", choices=("sqlite", "mongodb"), default="sqlite")
    parser.add_argument("--waiters", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls: tuple[str, str] | tuple[None, None] = (None, None)
        if arguments.store == "mongodb":
            mongo, rabbit = stack.enter_context(MongoServer()), stack.enter_context(RabbitServer())
            urls = mongo.url("waiting"), rabbit.url
        deployment = stack.enter_context(Deployment(folder, *urls))
        deployment.start_server()
        store_url = urls[0] or f"sqlite:///{folder}/var/store.db"
        asyncio.run(measure(deployment, store_url, arguments.waiters, arguments.seconds))


if __name__ == "__main__":
    main()
