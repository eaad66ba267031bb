"""`reduce`: all results of a run become one, in chunks, and the results of the chunks again until there is one.

Each round is a run of its own, over the results of a run that has finished: in their order, and never other ones, so
whoever makes a round makes the same. The last has one job, and an id that is known before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from dts.broker import Broker
from dts.model import Run, RunState, derived_id
from dts.server.ending.cancel import cancel_run
from dts.server.intake.following import Following, reduce_run_id
from dts.server.intake.ingest import Arguments, batch_from_arguments
from dts.server.record.results import part_results
from dts.server.unattended.passing import next_run
from dts.server.unattended.progress import Progress
from dts.server.unattended.submit import Refused, Submitter, has_finished
from dts.store import Store
from dts.wire import dts_pb2

CHUNK = 100
"""Results that a call gets at most."""

_CHUNK_BYTES = 1024 * 1024
"""Bytes of results after which a call gets no more, but two at least: else there would never be fewer."""

_BLOCKS = 100  # that are read at once
_CALLS, _CALL_BYTES = 64, 4 * 1024 * 1024
"""Calls in a block at most, and bytes of their arguments after which a block takes no more."""


class Reducing:
    """Makes the rounds of a reduction."""

    def __init__(self, store: Store, broker: Broker, submitter: Submitter) -> None:
        self._store = store
        self._broker = broker
        self._submitter = submitter

    async def advance(self, run: Run, wants: Following, progress: Progress, *, finished: bool) -> None:
        """Make the next round if the one before has finished; the first one when the run has.

        Raises:
            OverLimit: a limit does not let it in now.
            StoreUnavailable: some of it may be there; the same again does the rest.
        """
        final = await self._open(run, reduce_run_id(run.id), wants.reduce)
        source = progress.source or run.id
        if not (finished if source == run.id else await has_finished(self._store, source)):
            return
        try:
            await self._check(run, source)
            await self._make_round(run, final, source, progress)
        except Refused as error:
            await cancel_run(self._store, self._broker, final.id)
            progress.fail(f"{wants.reduce} has no result: {error}")
            progress.reduced = True

    async def _check(self, run: Run, source: str) -> None:
        """Make sure that a round is made of what there should be.

        Raises:
            Refused: the run was cancelled, or a chunk has no result.
        """
        if run.state is RunState.CANCELLED:
            raise Refused(f"run {run.id} was cancelled")
        if source == run.id:
            return
        statistics = await self._store.run_statistics(source)
        if (lost := statistics.total - statistics.succeeded) or not statistics.total:
            raise Refused(f"{lost} of {statistics.total} chunks in run {source} have failed")

    async def _make_round(self, run: Run, final: Run, source_id: str, progress: Progress) -> None:
        source = await self._store.get_run(source_id)
        if source is None:
            raise Refused(f"run {source_id} is not there any more")
        progress.moved = True
        chunks = self._chunks(source)
        first, second = await anext(chunks, None), await anext(chunks, None)
        if second is None:
            if first is not None:
                await self._submitter.add_within_limits(final, 0, batch_from_arguments([_call(first)]))
            await self._submitter.close(final.id)
            progress.reduced = True
            return
        level = progress.level + 1
        target = await self._open(run, derived_id(run.id, f"/reduce/{level}"), final.function)
        number = 0
        async for calls in _in_blocks(self._chunks(source)):
            await self._submitter.add_within_limits(target, number, batch_from_arguments(calls))
            number += 1
        await self._submitter.close(target.id)
        progress.source, progress.level = target.id, level

    async def _open(self, run: Run, run_id: str, function: str) -> Run:
        there = await self._store.get_run(run_id)
        return there or await self._submitter.keep_open(next_run(run, run_id, function, now=self._store.now()))

    async def _chunks(self, source: Run) -> AsyncIterator[list[bytes]]:
        """The successful results of a run in order, so many together as a call gets."""
        chunk: list[bytes] = []
        size = 0
        async for value in self._values(source):
            if len(chunk) >= CHUNK or (size + len(value) > _CHUNK_BYTES and len(chunk) >= 2):
                yield chunk
                chunk, size = [], 0
            chunk.append(value)
            size += len(value)
        if chunk:
            yield chunk

    async def _values(self, source: Run) -> AsyncIterator[bytes]:
        after = -1
        while outcomes := await self._store.list_blocks(source.id, limit=_BLOCKS, after=after):
            for outcome in outcomes:
                parts = await self._store.get_parts(outcome.block)
                results = [result for part in parts for _, result in part_results(part)]
                for result in sorted(results, key=lambda each: each.index):
                    if result.status == dts_pb2.SUCCEEDED:
                        yield result.value or b"null"
            after = outcomes[-1].first // source.block_size


async def _in_blocks(chunks: AsyncIterator[list[bytes]]) -> AsyncIterator[list[Arguments]]:
    calls: list[Arguments] = []
    size = 0
    async for chunk in chunks:
        calls.append(_call(chunk))
        size += len(calls[-1].args)
        if len(calls) >= _CALLS or size >= _CALL_BYTES:
            yield calls
            calls, size = [], 0
    if calls:
        yield calls


def _call(values: Sequence[bytes]) -> Arguments:
    """The arguments of a call: one list of results."""
    return Arguments(b"[[" + b",".join(values) + b"]]", b"")
