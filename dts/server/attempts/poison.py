"""Jobs that kill each process that runs them end as failed, and are kept as dead letters, so that a replay is possible.

A letter is kept before its job's end is recorded, and its id follows from the job and the attempt: whatever breaks
off and comes again, a job that ended as poison has its letter, and one only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from cachetools import LRUCache

from dts.model import DEFAULT_ROUTE, Block, DeadLetter, Outcome, bitmap, job_id
from dts.server.record.blocks import jobs_of
from dts.server.record.digests import digest_of
from dts.store import Store
from dts.wire import codec, dts_pb2
from dts.wire.queues import jobs_queue

logger = logging.getLogger(__name__)

REASON_POISON = "poison"
"""The code in the error of such a job, and the reason of its letter."""

_MAX_SAID = 500  # characters of what ended it
_MAX_OUTPUT = 2000  # characters of the last output of its process
_COUNTED = 1000  # blocks whose poison is counted, the latest


def poisoned_jobs(batch: dts_pb2.ResultBatch) -> int:
    """The jobs, as a bitmap, that a batch says have ended as poison."""
    failed = [result for result in batch.results if result.status == dts_pb2.FAILED]
    return bitmap.from_indices(result.index for result in failed if result.error.reason == REASON_POISON)


class Poison:
    """Keeps letters of jobs that are poison. Says so in the log twice for a block at most: at first, and at its end."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: LRUCache[str, int] = LRUCache(_COUNTED)

    async def keep(self, outcome: Outcome, results: Mapping[int, dts_pb2.Result], worker: str) -> None:
        """Keep a letter for each of some jobs of a block that is about to end so; `results` says by index how.

        Raises:
            StoreUnavailable: some may be kept and some not.
        """
        block = await self._store.get_block(outcome.block)
        left = {index: result for index, result in results.items() if outcome.unfinished >> index & 1}
        if block is None or not left:
            return
        batch, function = await jobs_of(self._store, block), await self._store.get_function(outcome.function)
        if not batch.jobs:
            return
        queue = jobs_queue(function.route if function is not None else DEFAULT_ROUTE)
        letters = _letters(block, batch, left, queue, worker)
        await self._store.add_dead_letters(letters)
        self._tell(outcome, bitmap.from_indices(left), letters[-1])

    def _tell(self, outcome: Outcome, jobs: int, letter: DeadLetter) -> None:
        before = self._kept.get(outcome.block, 0)
        kept = self._kept[outcome.block] = before | jobs
        over = not outcome.unfinished & ~jobs
        if not before or (over and kept != before):
            logger.error(
                "poison: %d of the %d jobs of block %s of %s%s, such as %s: %s",
                kept.bit_count(),
                outcome.count,
                outcome.block,
                outcome.function,
                "" if over else " so far",
                letter.headers["job"],
                letter.headers["error"],
            )


def _letters(
    block: Block, batch: dts_pb2.JobBatch, results: Mapping[int, dts_pb2.Result], queue: str, worker: str
) -> Sequence[DeadLetter]:
    letters = []
    for index, result in results.items():
        message = dts_pb2.JobBatch(block=block.id, run=block.run, function=block.function, jobs=[batch.jobs[index]])
        headers: dict[str, str | int] = {
            "block": block.id,
            "run": block.run,
            "function": block.function,
            "number": block.first,
            "first": index,
            "count": 1,
            "job": job_id(block.run, block.first + index),
            "attempt": result.attempt or 1,
            "kills": result.kills,
            "worker": worker,
            "error": result.error.message[:_MAX_SAID],
            "output": result.error.traceback[-_MAX_OUTPUT:],
        }
        name = digest_of(f"{REASON_POISON}\0{block.id}\0{index}\0{result.attempt or 1}".encode()).hex()
        letters.append(DeadLetter(name, queue, REASON_POISON, *codec.encode(message), headers, time.time()))
    return letters
