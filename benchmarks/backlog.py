"""What the dispatcher costs with a long backlog: `python -m benchmarks.backlog [--lines N] [--runs N]`, embedded.

One user has a file of so many lines, another one so many runs of one job; nothing is published. Measured is the CPU
time of a look at the backlog, of taking it into the model, and of one portion: half a second of work of a hundred
children.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from dataclasses import replace

from dts.model import MAX_BLOCK_SIZE, Backlog, Block, Function, Run, new_id
from dts.server.access.parties import Parties
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.server.publish.route_backlog import Leaf, RouteBacklog
from dts.store import Store, open_store

FUNCTION = Function("bench/call", mean_duration=0.001)
MESSAGE, SECONDS = 50, 0.05
ROOM = 50.0
_AT_ONCE = 500


async def fill(store: Store, lines: int, runs: int) -> None:
    """Store a file of so many lines and so many runs of one job."""
    long = Run(new_id(), "ann", FUNCTION.name, MAX_BLOCK_SIZE, created=time.time())
    await store.add_run(long)
    block = new_block(long, 0, FUNCTION.name, batch_from_arguments([Arguments(b"[1]", b"")]))
    blocks = [
        replace(block, id=f"{long.id}-{number}", number=number, count=MAX_BLOCK_SIZE)
        for number in range(lines // MAX_BLOCK_SIZE)
    ]
    for start in range(0, len(blocks), _AT_ONCE):
        await store.add_blocks(blocks[start : start + _AT_ONCE])
    for start in range(0, runs, _AT_ONCE):
        await asyncio.gather(*(_add_run(store, block) for _ in range(start, min(runs, start + _AT_ONCE))))


async def _add_run(store: Store, block: Block) -> None:
    run = Run(new_id(), "bob", FUNCTION.name, MAX_BLOCK_SIZE, created=time.time())
    await store.add_blocks([replace(block, id=f"{run.id}-0", run=run.id, user="bob", count=1)], run=run)


def message_of(leaf: Leaf) -> tuple[int, float]:
    """A message of a leaf."""
    size = min(MESSAGE, leaf.row.jobs)
    return size, size / MESSAGE * SECONDS


async def look(store: Store, *, times: int = 3) -> tuple[list[Backlog], list[float]]:
    """The rows of the backlog, and CPU seconds, the least of some: of a look, of an update, of a portion."""
    model, least = RouteBacklog(), [float("inf")] * 3
    parties = Parties("ann", FUNCTION.name, None, None, FUNCTION)
    for _ in range(times):
        began = time.process_time()
        rows = await store.backlog()
        read = time.process_time()
        model.update([(row, parties) for row in rows], time.monotonic())
        updated = time.process_time()
        shares = model.share_out(ROOM, message_of, time.monotonic())
        await store.backlog_blocks([(leaf.row, leaf.share_blocks) for _, leaf in shares])
        ended = time.process_time()
        least = list(map(min, least, (read - began, updated - read, ended - updated)))
    return rows, least


async def measure(lines: int, runs: int) -> None:
    """Measure with one backlog, and print it."""
    with tempfile.TemporaryDirectory() as folder:
        async with open_store(f"sqlite:///{folder}/store.db") as store:
            await fill(store, lines, runs)
            rows, (read, update, portion) = await look(store)
    job = portion / ROOM * SECONDS / MESSAGE * 1e6
    print(
        f"{lines:>11,} lines, {runs:>6,} runs: {len(rows):>6,} rows; look {read * 1e3:7.1f} ms, "
        f"model {update * 1e3:6.1f} ms, portion {portion * 1e3:6.1f} ms ({job:.3f} µs a job)"
    )


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, nargs="*", default=[10_000, 1_000_000, 10_000_000])
    parser.add_argument("--runs", type=int, nargs="*", default=[0, 20_000])
    arguments = parser.parse_args()
    for runs in arguments.runs:
        for lines in arguments.lines:
            asyncio.run(measure(lines, runs))


if __name__ == "__main__":
    main()
