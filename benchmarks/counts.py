"""What it costs to say how many jobs of a user and of a run are in which state, with many blocks.

    python -m benchmarks.counts [sqlite|mongodb] [--blocks N]

One run of N blocks of 8 jobs, half of which have ended; then each question 20 times, in ms.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

from dts.model import Block, Candidate, Run, block_id, new_id
from dts.store import Store, open_store
from tests.services.mongodb import MongoServer

JOBS = 8
AT_ONCE = 1000
ASKED = 20


async def fill(store: Store, count: int) -> Run:
    """A run with so many blocks, half of them ended."""
    run = Run(new_id(), "ann", "text/upper", JOBS, created=time.time())
    await store.add_run(run)
    blocks = [
        Block(block_id(run.id, n), run.id, n, n * JOBS, "ann", "text/upper", JOBS, b"jobs", "", b"digest", run.created)
        for n in range(count)
    ]
    for start in range(0, count, AT_ONCE):
        await store.add_blocks(blocks[start : start + AT_ONCE])
    for start in range(0, count // 2, AT_ONCE):
        ended = blocks[start : start + AT_ONCE]
        await store.record([Candidate(block.id, b"results", "", succeeded=(1 << JOBS) - 1) for block in ended])
    return run


async def ask(name: str, question: Callable[[], Awaitable[object]]) -> None:
    """Ask again and again, and print how long it took."""
    taken = []
    for _ in range(ASKED):
        begun = time.perf_counter()
        await question()
        taken.append(1e3 * (time.perf_counter() - begun))
    print(f"{name:30}median {statistics.median(taken):9.2f} ms, slowest {max(taken):9.2f} ms", flush=True)


async def measure(url: str, count: int) -> None:
    """Fill a store and ask."""
    async with open_store(url) as store:
        run = await fill(store, count)
        if hasattr(store, "keep_counts"):
            begun = time.perf_counter()
            while await store.keep_counts():
                continue
            print(f"keep_counts until done        {1e3 * (time.perf_counter() - begun):9.2f} ms")
        await ask("statistics of the user", lambda: store.user_statistics("ann"))
        await ask("statistics of the run", lambda: store.run_statistics(run.id))
        await ask("unfinished jobs of the user", lambda: store.count_unfinished(user="ann"))
        await ask("retrievable jobs, 1000", lambda: store.retrievables("ann", limit=1000))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", nargs="?", choices=("sqlite", "mongodb"), default="sqlite")
    parser.add_argument("--blocks", type=int, default=100_000)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        if arguments.store == "mongodb":
            url = stack.enter_context(MongoServer()).url("counts")
        else:
            url = f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory())}/store.db"
        asyncio.run(measure(url, arguments.blocks))


if __name__ == "__main__":
    main()
