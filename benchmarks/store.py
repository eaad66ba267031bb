"""What a store costs: CPU a job and latency a call, in this process and in the database's.

    python -m benchmarks.store [sqlite|mongodb] [--blocks N] [--parts N] [--profile]

Blocks of 2,048 jobs with bodies that do not compress, recorded in parts of 3 kB, fetched and collected. MongoDB is a
private server that the benchmark starts.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import psutil
import uvloop

from dts.model import MAX_BLOCK_SIZE, Block, Candidate, Run, block_id, new_id
from dts.store import Store, open_store
from tests.services.mongodb import MongoServer

T = TypeVar("T")

JOBS = MAX_BLOCK_SIZE
BLOCK_BODY = 50_000  # bytes: 2,048 lines of 60 characters, compressed
PART_BODY = 3_000
BLOCKS_A_CALL = 4
PARTS_A_CALL = 16  # what porter finds in the queue at once
PAGE = 16 * JOBS


@dataclass
class Meter:
    """Adds up CPU time and wall time of steps, by their names."""

    server: psutil.Process | None
    lines: list[str] = field(default_factory=list)

    async def measure(self, name: str, jobs: int, calls: Sequence[Callable[[], Awaitable[object]]]) -> None:
        """Make calls one after the other, and note what they cost."""
        here, there, begun = time.process_time(), self._server_cpu(), time.perf_counter()
        for call in calls:
            await call()
        wall = time.perf_counter() - begun
        here, there = time.process_time() - here, self._server_cpu() - there
        a_job = 1e6 / jobs
        self.lines.append(
            f"{name:20}{here * a_job:10.3f}{there * a_job:12.3f}{wall * a_job:8.3f}{wall * 1e3 / len(calls):11.2f}"
        )

    def _server_cpu(self) -> float:
        if self.server is None:
            return 0.0
        times = self.server.cpu_times()
        return float(times.user + times.system)


async def use(store: Store, meter: Meter, blocks_in_all: int, parts: int) -> None:
    """A run's life, as server and porter live it."""
    run = Run(new_id(), "ann", "text/upper", JOBS, created=time.time())
    blocks = [make_block(run, number) for number in range(blocks_in_all)]
    jobs, size = blocks_in_all * JOBS, JOBS // parts
    await store.add_run(run)
    adds = [partial(store.add_blocks, batch) for batch in in_batches(BLOCKS_A_CALL, blocks)]
    await meter.measure("add_blocks", jobs, adds)
    await meter.measure("mark_published", jobs, [partial(store.mark_published, [block.id]) for block in blocks])
    body = os.urandom(PART_BODY)
    results = [
        Candidate(block.id, body[: max(1, PART_BODY * size // 256)], "deflate", succeeded=((1 << size) - 1) << start)
        for block in blocks
        for start in range(0, JOBS, size)
    ]
    records = [partial(store.record, batch) for batch in in_batches(PARTS_A_CALL, results)]
    await meter.measure("record", jobs, records)
    await meter.measure("record again", jobs, records)

    async def fetch() -> None:
        while page := await store.uncollected_parts(run.id, max_jobs=PAGE):
            await store.collect(run.id, [part.receipt for part in page])

    await meter.measure("run_statistics", jobs, [partial(store.run_statistics, run.id)])
    await meter.measure("user_statistics", jobs, [partial(store.user_statistics, "ann")])
    await meter.measure("retrievables (1000)", jobs, [partial(store.retrievables, "ann", limit=1000)])
    await meter.measure("fetch and collect", jobs, [fetch])


def make_block(run: Run, number: int) -> Block:
    """A full block of a run."""
    body = os.urandom(BLOCK_BODY)
    first = number * JOBS
    name = block_id(run.id, number)
    return Block(name, run.id, number, first, "ann", "text/upper", JOBS, body, "deflate", body[:32], time.time())


def in_batches(size: int, things: Sequence[T]) -> list[Sequence[T]]:
    """`things`, so many at a time."""
    return [things[start : start + size] for start in range(0, len(things), size)]


@asynccontextmanager
async def opened(kind: str) -> AsyncIterator[tuple[Store, psutil.Process | None]]:
    """A fresh store of a kind, and the process of its server if it has one."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="dts-bench-") as folder:
            async with open_store(f"sqlite:///{folder}/store.db") as store:
                yield store, None
        return
    with MongoServer() as server:
        async with open_store(server.url()) as store:
            yield store, psutil.Process(server.pid)


async def main(kind: str, blocks: int, parts: int) -> None:
    """Measure one kind of store."""
    async with opened(kind) as (store, server):
        meter = Meter(server)
        await use(store, meter, blocks, parts)
    print(f"\n{kind}: {blocks} blocks of {JOBS} jobs, {parts} parts each")
    print(f"{'µs a job':20}{'CPU here':>10}{'CPU server':>12}{'wall':>8}{'ms a call':>11}")
    print("\n".join(meter.lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=["sqlite", "mongodb"])
    parser.add_argument("--blocks", type=int, default=100)
    parser.add_argument("--parts", type=int, default=8, help="of a block")
    parser.add_argument("--profile", action="store_true", help="show where this process spends its time")
    options = parser.parse_args()
    for one in options.kinds:
        profile = cProfile.Profile()
        if options.profile:
            profile.enable()
        uvloop.run(main(one, options.blocks, options.parts))
        profile.disable()
        if options.profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
