"""A process of its own that uses a store the way a porter or a server does: `python -m … record|add URL ARGUMENT`.

It says `ready` once it is connected and begins at a line on stdin.
"""

from __future__ import annotations

import asyncio
import random
import sys

from dts.errors import StoreUnavailable
from dts.model import Block, Candidate, bitmap, block_id
from dts.store import Store, open_store
from tests.conformance.store.builders import make_block, make_run

BLOCKS, COUNT = 4, 128
"""What `record` expects in the store: so many blocks of so many jobs."""


def say(text: str) -> None:
    """Print a line for the test that reads it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def record(store: Store, run_id: str) -> None:
    """Record every job of a run in overlapping results, in an order of one's own; print how many it ended."""
    chance, ended = random.Random(), 0
    slices = [(number, start) for number in range(BLOCKS) for start in range(0, COUNT, 4)]
    chance.shuffle(slices)
    while slices:
        batch, slices = slices[:4], slices[4:]
        candidates = []
        for number, start in batch:
            jobs = bitmap.from_indices(range(max(0, start - 6), min(COUNT, start + 10)))
            candidates.append(Candidate(block_id(run_id, number), b"body", "", succeeded=jobs))
        ended += sum((jobs or 0).bit_count() for jobs in await store.record(candidates))
    say(str(ended))


async def add(store: Store, user: str) -> None:
    """Add a run of blocks and results without an end, several at a time; print the id of each as it is confirmed."""
    run = make_run(user)
    await store.add_run(run)

    async def one(number: int) -> None:
        block: Block = make_block(run, number, body=b"x" * 3000)
        try:
            await store.add_blocks([block])
            await store.record([Candidate(block.id, b"result", "", succeeded=0b11)])
        except StoreUnavailable:
            return
        say(block.id)

    for start in range(0, 10_000_000, 8):
        await asyncio.gather(*(one(number) for number in range(start, start + 8)))


async def main(action: str, url: str, argument: str) -> None:
    """Connect, wait for the word, act."""
    async with open_store(url) as store:
        say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        await {"record": record, "add": add}[action](store, argument)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
