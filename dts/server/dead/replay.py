"""Gives dead letters another life.

The jobs of a dead letter have ended as failed, and a job ends once: a replay makes new jobs of them, in a new run of
the same user. A letter that was no message of jobs goes back to its queue as it was. A letter is deleted when what
came of it is safe, so a replay that breaks off is repeated without losing one; at worst, one is replayed twice.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from dts.broker import Broker, Message
from dts.broker.abc import revived
from dts.errors import BlockTooLate, TooLarge, WireError
from dts.model import MAX_BLOCK_SIZE, RESERVED_NAMESPACE, DeadLetter, Run, RunState, User, new_id
from dts.server.dead.settle import HEADER_REFUSED
from dts.server.ending.late_blocks import add_blocks
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.server.intake.options import put_options
from dts.server.lookup.catalogue import Catalogue
from dts.server.publish.publisher import Publisher
from dts.server.record.blocks import jobs_of
from dts.store import Store
from dts.wire import codec, dts_pb2
from dts.wire.queues import JOBS_PREFIX

_PAGE = 50


def field_of(letter: DeadLetter, name: str) -> str:
    """A plain field of a letter, from the letter itself or from its headers; "" if it has none."""
    if name in ("id", "queue", "reason"):
        return str(getattr(letter, name))
    return str(letter.headers.get(name, ""))


async def matching_letters(
    store: Store, where: Mapping[str, str], after: str | None = None
) -> AsyncIterator[DeadLetter]:
    """Dead letters by id whose plain fields are as `where` says."""
    while letters := await store.list_dead_letters(limit=_PAGE, after=after):
        for letter in letters:
            if all(field_of(letter, name) == value for name, value in where.items()):
                yield letter
        after = letters[-1].id


@dataclass
class Replayed:
    """What a replay has done so far. `runs` are ids of new runs, `skipped` has letters that cannot be replayed."""

    replayed: int = 0
    jobs: int = 0
    runs: list[str] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)


class Replay:
    """One replay by an operator: the letters of one user and one function share a run, or two."""

    def __init__(
        self, operator: User, store: Store, broker: Broker, catalogue: Catalogue, publisher: Publisher
    ) -> None:
        self._operator = operator
        self._store = store
        self._broker = broker
        self._catalogue = catalogue
        self._publisher = publisher
        self._runs: dict[tuple[str, str, bool], tuple[Run, int]] = {}
        self.result = Replayed()

    async def replay(self, letter: DeadLetter) -> None:
        """Give one letter another life, or note why it cannot have one.

        Raises:
            StoreUnavailable, BrokerUnavailable: this letter may have been replayed, and is still there.
        """
        if not letter.queue:
            problem = "nobody knows which queue it came from"
        elif HEADER_REFUSED in letter.headers:
            problem = "it has no valid seal of this fleet, so nobody knows who published it"
        elif letter.queue.startswith(JOBS_PREFIX):
            problem = await self._replay_jobs(letter)
        else:
            message = Message(letter.body, letter.content_encoding, letter.headers)
            await self._broker.publish(letter.queue, [revived(message)])
            problem = ""
        if problem:
            self.result.skipped.append({"id": letter.id, "problem": problem})
            return
        await self._store.delete_dead_letters([letter.id])
        self.result.replayed += 1

    async def close(self) -> None:
        """Close the new runs: they have all their blocks, and may finish.

        Raises:
            StoreUnavailable: some may be open still.
        """
        for run, _ in self._runs.values():
            await self._store.update_run(run.id, state=RunState.CLOSED)

    async def _replay_jobs(self, letter: DeadLetter) -> str:
        """Make new jobs of a letter's; returns what is in the way, or ""."""
        try:
            batch = codec.decode(dts_pb2.JobBatch, letter.body, letter.content_encoding)
        except (WireError, TooLarge) as error:
            return f"its jobs cannot be read: {error}"
        if batch.function.startswith(f"{RESERVED_NAMESPACE}/") and not self._operator.is_administrator:
            return "it runs inside the server: for administrators only"
        before = await self._store.get_run(batch.run)
        if before is None or not batch.jobs:
            return "it has no jobs" if before else "its run is no longer there, so nobody knows whose jobs these are"
        run, number = self._run_of(before, batch.function)
        jobs = batch_from_arguments([Arguments(job.args, job.kwargs) for job in batch.jobs])
        asked = await self._store.get_block(batch.block)
        if asked is not None:
            _ask_again(jobs, [job.index for job in batch.jobs], await jobs_of(self._store, asked))
        function = await self._catalogue.get(batch.function)
        version = function.active_version if function is not None else ""  # what is deployed now may be the cure
        block = new_block(run, number, batch.function, jobs, version=version)
        try:
            claim = await self._publisher.claim([(block, function)])
            await add_blocks(self._store, [block], run=run, claim=claim)
        except BlockTooLate:
            return f"its new run {run.id} was cancelled meanwhile"
        self._publisher.submit(block, jobs, function, claim)
        self.result.jobs += block.count
        if run.id not in self.result.runs:
            self.result.runs.append(run.id)
        return ""

    def _run_of(self, before: Run, function: str) -> tuple[Run, int]:
        """The new run for a user's jobs of a function, and the number of its next block."""
        key = (before.user, function, before.single)
        if key not in self._runs:
            now, state = time.time(), RunState.OPEN  # until all its blocks are there, or it would finish before
            run = Run(new_id(), before.user, function, MAX_BLOCK_SIZE, state, created=now, single=before.single)
            self._runs[key] = (run, 0)
        run, number = self._runs[key]
        self._runs[key] = (run, number + 1)
        return run, number


def _ask_again(jobs: dts_pb2.JobBatch, indices: Sequence[int], before: dts_pb2.JobBatch) -> None:
    """Ask for jobs what was asked for those with the given indices before, but for a deadline, which is over."""
    asked: list[dts_pb2.Options | None] = []
    for index in indices:
        one = before.jobs[index] if index < len(before.jobs) else None
        options = dts_pb2.Options()
        options.CopyFrom(one.options if one is not None and one.HasField("options") else before.options)
        options.ClearField("deadline")
        options.ClearField("version")
        asked.append(options if options.ByteSize() else None)
    put_options(jobs, asked)
    jobs.lease = before.lease
