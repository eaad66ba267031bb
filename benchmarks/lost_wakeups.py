"""Looks for messages that wait on a queue file though consumers are idle, while processes come, go and are killed.

    python -m benchmarks.lost_wakeups --seconds 3600

Two processes consume all the time. Others publish, take, give back and broadcast, and are killed after a random time,
at a point between writing and waking (`tests.services.kill_points`), or stopped for a while first. A process that
watches reads the file, and reports every message that waits for longer than a second after the last death. It fails if
there was one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NoReturn

import uvloop

from dts.broker import Broker, Message, open_broker
from tests.services.kill_points import POINTS

QUEUE = "jobs"
LIMIT = 1.0
"""Seconds for which a message may wait."""

Role = Callable[[Broker], Coroutine[Any, Any, None]]


async def consume(broker: Broker) -> None:
    consumer = await broker.consume(QUEUE, prefetch=4)
    while deliveries := await consumer.receive(4):
        await consumer.ack(deliveries)


async def publish(broker: Broker) -> None:
    await broker.consume("another", prefetch=1)
    for number in range(20):
        await broker.publish(QUEUE, [Message(b"%d" % number)] * random.randint(1, 5))
        await asyncio.sleep(random.uniform(0, 0.02))


async def give_back(broker: Broker) -> None:
    consumer = await broker.consume(QUEUE, prefetch=3)
    for _ in range(20):
        await broker.publish(QUEUE, [Message(b"to give back")] * 3)
        deliveries = await consumer.receive(3)
        await consumer.release(deliveries[:1])
        await asyncio.sleep(random.uniform(0, 0.02))
        await consumer.nack(deliveries[1:])


async def broadcast(broker: Broker) -> None:
    async with await broker.subscribe(["topic"]):
        for _ in range(50):
            await broker.broadcast("topic", "x" * random.randint(1, 9000))
            await broker.publish(QUEUE, [Message(b"event")])


def fork(url: str, role: Role, point: str = "") -> int:
    """Run a role in a process of its own; returns its id."""
    if pid := os.fork():
        return pid
    _be(url, role, point)


def _be(url: str, role: Role, point: str) -> NoReturn:
    async def run() -> None:
        async with open_broker(url) as broker:
            await role(broker)

    try:
        random.seed()
        if point:
            POINTS[point]()
        uvloop.run(run())
    finally:
        os._exit(0)


def disturb(url: str) -> str:
    """Have a process come and go; returns how it ended."""
    role = random.choice((publish, give_back, broadcast))
    how = random.choice(["killed", "stopped", "ended", *POINTS])
    pid = fork(url, role, how if how in POINTS else "")
    if how not in POINTS and how != "ended":
        time.sleep(random.uniform(0, 0.3))
        if how == "stopped":
            os.kill(pid, signal.SIGSTOP)
            time.sleep(random.uniform(0, 0.5))
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:  # a point that this role does not come to
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return how


def settled_after(path: Path) -> float:
    """Seconds until nothing waits any more and nobody holds anything; this process's own delays do not count."""
    waited, before = 0.0, time.monotonic()
    while True:
        with closing(sqlite3.connect(path, timeout=5)) as db:
            (left,) = db.execute("SELECT count(*) FROM message WHERE queue = ?", (QUEUE,)).fetchone()
        if not left:
            return waited
        if waited > 30:
            return waited
        time.sleep(0.02)
        now = time.monotonic()
        waited += min(now - before, 0.1)  # when the machine stands still, so do the others
        before = now


def main() -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pause", type=float, default=0.3, help="seconds between two processes, on average")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "queue.db"
        url = f"sqlite:///{path}?delivery_limit=1000000&lease=60"
        living = [fork(url, consume) for _ in range(2)]
        try:
            return watch(url, path, options.seconds, options.pause)
        finally:
            for pid in living:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def watch(url: str, path: Path, seconds: float, pause: float) -> int:
    """Disturb and look for some seconds; returns the exit code."""
    end, told = time.monotonic() + seconds, time.monotonic() + 60
    ways: Counter[str] = Counter()
    longest, late = 0.0, 0
    while not path.exists():
        time.sleep(0.01)
    while time.monotonic() < end:
        how = disturb(url)
        ways[how] += 1
        waited = settled_after(path)
        longest = max(longest, waited)
        if waited > LIMIT:
            late += 1
            print(f"{waited:.2f} s until all was taken, after a process was {how}", flush=True)
        if time.monotonic() > told:
            told += 60
            print(f"{ways.total()} processes, longest wait {longest:.2f} s, {late} late", flush=True)
        time.sleep(random.uniform(0, 2 * pause))
    print(f"{ways.total()} processes came and went ({dict(ways)}); longest wait {longest:.2f} s; {late} over {LIMIT} s")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
