"""What a MongoDB store does with outcomes.

Without transactions: every change is one update of one document, guarded by what the change was computed from. Updates
of many blocks go in one unordered bulk write, which only says how many of them matched. When some did not, every batch
of parts names the write that added it (`by`), so that a look at the documents tells which of this call's updates
happened; just the others are computed anew.

A block of one job is not read first: unless something is known of it, it is taken for as new as it nearly always is,
and the update's guard says when it is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bson import ObjectId
from cachetools import LRUCache
from pymongo import UpdateOne

from dts.model import Candidate, Merge, Outcome, Part, merge
from dts.store.contract.shared import by_block
from dts.store.mongo.bodies import Beside, Bodies
from dts.store.mongo.connection import MongoConnection, translating
from dts.store.mongo.documents import GUARDED, Document, outcome_changes, outcome_from
from dts.store.mongo.parts import pack

_INLINE_PER_JOB = 4096
"""Bytes of a part's body for each of its jobs, up to which it is in the outcome's document: 8 MB in a full block."""

_REMEMBERED = 4096  # outcomes whose last known state spares a read: blocks that workers are at, of many runs


class Recorder:
    """Merges candidates into outcomes. Remembers the state of outcomes that it wrote, to spare reading them."""

    def __init__(self, connection: MongoConnection, bodies: Bodies) -> None:
        self._connection = connection
        self._bodies = bodies
        self._known: LRUCache[str, Outcome] = LRUCache(_REMEMBERED)

    @translating
    async def record(self, candidates: Sequence[Candidate]) -> list[int | None]:
        """Merge candidates into the outcomes of their blocks; the jobs that each of them ended."""
        accepted: list[int | None] = [None] * len(candidates)
        recording = _Recording(self._bodies, candidates)
        left = by_block(candidates)
        guessed = {block: _new_single(block) for block, at in left.items() if _ends_single([candidates[i] for i in at])}
        try:
            while left:
                states = await self._states(left, guessed)
                merges = {
                    block: merge(state, (candidates[position] for position in left[block]))
                    for block, state in states.items()
                }
                done = await self._write(merges, left, recording)
                for block in done:
                    for position, jobs in zip(left[block], merges[block].accepted, strict=True):
                        accepted[position] = jobs
                left, guessed = {block: left[block] for block in states if block not in done}, {}
        except BaseException:
            self._forget(left)  # what was written of it is not known
            raise
        await recording.drop_unused()
        return accepted

    async def _states(self, blocks: Mapping[str, object], guessed: Mapping[str, Outcome]) -> dict[str, Outcome]:
        """The outcomes of blocks as far as there are any, remembered, guessed or read."""
        states = {**guessed, **{block: self._known[block] for block in blocks if block in self._known}}
        missing = [block for block in blocks if block not in states]
        if missing:
            found = self._connection.collection("outcomes").find({"_id": {"$in": missing}}, GUARDED)
            states.update({document["_id"]: outcome_from(document) async for document in found})
        return states

    async def _write(
        self, merges: Mapping[str, Merge], positions: Mapping[str, list[int]], recording: _Recording
    ) -> set[str]:
        """Write merges; the blocks whose merge is in the store now."""
        durable = any(recording.candidates[at].ended for block in merges for at in positions[block])
        by = ObjectId()
        updates = []
        for block, merged in merges.items():
            if merged.changed:
                parts = await recording.parts(merged, positions[block])
                updates.append(_update(merged, pack(parts, by) if parts else None))
            elif durable and block not in self._known:
                # What was read may not be on disk yet, and this call says that it is: wait for the journal as well.
                updates.append(UpdateOne({"_id": block}, {"$max": {"n_parts": merged.before.parts}}))
        if not updates:
            return set(merges)
        name = "outcomes"
        outcomes = self._connection.collection(name) if durable else self._connection.quick(name)
        result = await outcomes.bulk_write(updates, ordered=False)
        done = set(merges) if result.matched_count == len(updates) else await self._applied(merges, by)
        for block, merged in merges.items():
            if block not in done:
                self._known.pop(block, None)
            elif durable or block in self._known:
                self._known[merged.after.block] = merged.after
            if block in done:
                recording.used(merged, positions[block])
        return done

    async def _applied(self, merges: Mapping[str, Merge], by: ObjectId) -> set[str]:
        """Those blocks whose merge was written under the name `by`, or did not have to be written."""
        done = {block for block, merged in merges.items() if not merged.changed}
        open_ = [block for block in merges if block not in done]
        found = self._connection.collection("outcomes").find({"_id": {"$in": open_}, "batches.by": by}, {"_id": 1})
        return done | {document["_id"] async for document in found}

    def _forget(self, blocks: Mapping[str, object]) -> None:
        for block in blocks:
            self._known.pop(block, None)


class _Recording:
    """The candidates of one call and where their bodies are, over however many tries it takes."""

    def __init__(self, bodies: Bodies, candidates: Sequence[Candidate]) -> None:
        self.candidates = candidates
        self._bodies = bodies
        self._beside: dict[int, Beside] = {}
        self._used: set[int] = set()

    async def parts(self, merged: Merge, positions: Sequence[int]) -> list[tuple[Part, Beside | None]]:
        """A merge's parts, each with where its body has been put if that is large."""
        return [(part, await self._place(part, position)) for part, position in _origins(merged, positions)]

    async def _place(self, part: Part, position: int) -> Beside | None:
        if position not in self._beside and len(part.body) > _INLINE_PER_JOB * part.jobs.bit_count():
            self._beside[position] = await self._bodies.put(part.body)
        return self._beside.get(position)

    def used(self, merged: Merge, positions: Sequence[int]) -> None:
        """Note that a merge was written: what it refers to must stay."""
        self._used.update(position for _, position in _origins(merged, positions))

    async def drop_unused(self) -> None:
        """Remove bodies put beside for parts that other processes then were faster with."""
        await self._bodies.drop(beside for position, beside in self._beside.items() if position not in self._used)


def _origins(merged: Merge, positions: Sequence[int]) -> list[tuple[Part, int]]:
    """Each part of a merge with the position of the candidate that it comes from."""
    ended = [position for position, jobs in zip(positions, merged.accepted, strict=True) if jobs]
    return list(zip(merged.parts, ended, strict=True))


def _ends_single(candidates: Sequence[Candidate]) -> bool:
    """Whether this is all that a block of one job ever needs to hear."""
    return len(candidates) == 1 and candidates[0].ended == 1 and not candidates[0].running


def _new_single(block: str) -> Outcome:
    """A block of one job as it is before its result, as far as a merge looks at it."""
    return Outcome(block, run="", first=0, user="", function="", count=1)


def _update(merged: Merge, batch: Document | None) -> UpdateOne:
    """The update that writes a merge and its parts, provided that none was added since what it was computed from.

    Every change of `ended` adds a part, so the number of parts guards it as well; `count` guards what was guessed.
    """
    changes: Document = {"$set": outcome_changes(merged.after)}
    if batch:
        changes["$push"] = {"batches": batch}
        changes["$inc"] = {"uncollected": (merged.after.ended & ~merged.before.ended).bit_count()}
    if not merged.after.unfinished:
        changes["$unset"] = {"due": "", "open": ""}  # nothing of it is left to publish, or to wait for
    before = merged.before
    return UpdateOne({"_id": before.block, "n_parts": before.parts, "count": before.count}, changes)
