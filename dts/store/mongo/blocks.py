"""What a MongoDB store does with blocks.

A block's document never changes; what becomes of the block is its outcome's. The block is written first and decides
which of two different blocks under a number wins; its outcome second, and with that the block is accepted. A crash
between the two leaves a block that nobody was told is accepted and nobody publishes; the client's repeat completes it.

Of a block and the closing or cancelling of its run, each is first written for a majority and then the other is read,
from the primary: whichever came second sees the other, also over a change of primaries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from pymongo import UpdateOne

from dts.errors import BlockConflict
from dts.model import Backlog, Block, Claim, Outcome, Run, Turns, Unsent
from dts.store.contract.backlog import GRACE
from dts.store.contract.shared import check_in_time, storable
from dts.store.mongo.bodies import Bodies
from dts.store.mongo.connection import Collection, MongoConnection, insert_new, translating
from dts.store.mongo.documents import (
    GUARDED,
    LOOSE,
    Document,
    block_document,
    block_from,
    empty_outcome_document,
    outcome_from,
    run_document,
)
from dts.store.mongo.holds import FREE, Holds

_TURNS = {"priority": 1, "weight": 1}
_SENT = {"published": 1, "sent": 1, **_TURNS}

_BY_ROW: Document = {
    "_id": {
        "run": {"$cond": ["$single", "", "$run"]},
        "user": "$user",
        "function": "$function",
        "priority": {"$ifNull": ["$priority", None]},
        "weight": {"$ifNull": ["$weight", 1.0]},
    },
    "jobs": {"$sum": {"$subtract": ["$count", {"$ifNull": ["$sent", 0]}]}},
    "blocks": {"$sum": 1},
    "since": {"$min": "$due"},
}
"""Rows of the backlog, from what its index has."""


class Blocks:
    """Blocks: added, read, published, claimed."""

    def __init__(self, connection: MongoConnection, bodies: Bodies, holds: Holds) -> None:
        self._connection = connection
        self._bodies = bodies
        self._holds = holds

    @translating
    async def add(self, blocks: Sequence[Block], run: Run | None, claim: Claim | None) -> list[bool]:
        """Add blocks and their run; which of them are new."""
        # Quick, since the outcome is written after these and waits for the disk: an earlier write is there by then, if
        # it was the same server all the time. After a fail-over it may have been rolled back.
        incarnation = self._connection.incarnation()
        unknown, conflicting = await self._insert(blocks, run, self._connection.quick)
        stored = [block for block in blocks if block.id not in conflicting]
        claimed = self._claimed(claim) if claim is not None else {}
        outcomes = [empty_outcome_document(block) | claimed for block in stored]
        repeated = await insert_new(self._connection.collection("outcomes"), outcomes)
        if self._connection.incarnation() != incarnation:
            conflicting |= (await self._insert(stored, run, self._connection.collection))[1]
        if not (unknown and len(blocks) == 1):  # nobody changes a run before it is known by a block
            await self._follow_runs([block for position, block in enumerate(stored) if position not in repeated], run)
        for block in blocks:
            if block.id in conflicting:
                raise BlockConflict(f"a different block {block.number} of run {block.run} is stored already")
        return [position not in repeated for position in range(len(stored))]

    async def _insert(
        self, blocks: Sequence[Block], run: Run | None, collection: Callable[[str], Collection]
    ) -> tuple[bool, set[str]]:
        """Insert what is not there of blocks and their run.

        Returns whether the run is new, and the ids of blocks that are there with another digest.
        """
        runs = [run_document(run)] if run else []
        known, conflicting = await asyncio.gather(
            insert_new(collection("runs"), runs), self._insert_blocks(blocks, collection("blocks"))
        )
        return bool(runs) and not known, conflicting

    async def _follow_runs(self, blocks: Iterable[Block], brought: Run | None) -> None:
        """Make sure that new blocks have come in time, and with their runs' turns as these are by now."""
        fields = {"state": 1, "finished": 1, **_TURNS}
        for run, block in {block.run: block for block in blocks}.items():
            found = await self._connection.collection("runs").find_one({"_id": run}, fields) or {}
            is_brought = brought is not None and brought.id == run
            check_in_time(run, found.get("state"), finished="finished" in found, brought=is_brought)
            if not block.single and _turns_of(found) != (block.priority, block.weight):
                await self.follow_turns(run)

    async def follow_turns(self, run_id: str) -> None:
        """Have the blocks of a run that are not published take its turns, until these have stayed the same."""
        before: Turns | None = None
        while (run := await self._connection.collection("runs").find_one({"_id": run_id}, _TURNS)) is not None:
            if (turns := _turns_of(run)) == before:
                return
            before, waiting = turns, {"run": run_id, "due": {"$exists": True}}
            await self._outcomes.update_many(waiting, {"$set": turns._asdict()})

    async def _insert_blocks(self, blocks: Sequence[Block], collection: Collection) -> set[str]:
        documents = [block_document(block) | await self._bodies.place(block.body) for block in blocks]
        positions = await insert_new(collection, documents)
        if not positions:
            return set()
        await self._bodies.drop_of(documents[position] for position in positions)
        repeated = [blocks[position] for position in positions]
        digests: dict[str, bytes] = {
            document["_id"]: document["digest"]
            async for document in collection.find({"_id": {"$in": [block.id for block in repeated]}}, {"digest": 1})
        }
        return {block.id for block in repeated if digests[block.id] != block.digest}

    @translating
    async def get(self, block_id: str) -> Block | None:
        """The block of that id."""
        by_id = {"_id": storable(block_id)}
        block, outcome = await asyncio.gather(
            self._connection.collection("blocks").find_one(by_id),
            self._connection.collection("outcomes").find_one(by_id, _SENT),
        )
        if block is None or outcome is None:
            return None
        return block_from(block, await self._bodies.of(block), outcome)

    @translating
    async def list_outcomes(self, run_id: str, limit: int, after: int) -> list[Outcome]:
        """Outcomes of a run's blocks by number."""
        found = self._connection.collection("outcomes").find(
            {"run": storable(run_id), "number": {"$gt": after}}, GUARDED, sort=[("number", 1)], limit=limit
        )
        return [outcome_from(document) async for document in found]

    @translating
    async def mark_published(self, block_ids: Sequence[str]) -> None:
        """Note that the broker has confirmed these blocks.

        Quick: a mark that is lost costs a second publication, which is harmless.
        """
        await self._connection.quick("outcomes").update_many(
            {"_id": {"$in": [storable(block_id) for block_id in block_ids]}},
            {"$set": {"published": True, "lease": 0.0, **LOOSE}, "$unset": {"due": "", "claimant": ""}},
        )

    @translating
    async def backlog(self) -> list[Backlog]:
        """What waits to be published, by run and function."""
        while True:
            pipeline = [{"$match": self._waits()}, {"$group": _BY_ROW}]
            found = await self._outcomes.aggregate(pipeline, hint="backlog_rows").to_list(None)
            rows = [Backlog(**document.pop("_id"), **document) for document in found]
            if not await self._holds.mark("outcomes", [row.run for row in rows if row.run]):
                return rows

    @translating
    async def backlog_blocks(self, rows: Sequence[tuple[Backlog, int]]) -> list[list[Unsent]]:
        """The first blocks of rows of the backlog, so many of each."""
        while True:
            found = await asyncio.gather(*(self._first_blocks(row, limit) for row, limit in rows))
            single = [blocks for (row, _), blocks in zip(rows, found, strict=True) if not row.run]
            if not await self._holds.mark("outcomes", [each.outcome.run for blocks in single for each in blocks]):
                return found

    async def _first_blocks(self, row: Backlog, limit: int) -> list[Unsent]:
        query = {**self._waits(), "function": storable(row.function), "priority": row.priority}
        if row.run:
            query["run"], order, index = storable(row.run), "number", "backlog_of_run"
        else:
            query |= {"user": storable(row.user), "single": True}
            order, index = "due", "backlog_single"
        found = self._outcomes.find(query, {**GUARDED, "sent": 1}, sort=[(order, 1)], limit=limit, hint=index)
        return [Unsent(outcome_from(document), document.get("sent", 0)) async for document in found]

    @translating
    async def note_sent(self, sent: Mapping[str, int]) -> None:
        """Note how many jobs of blocks are published."""
        if sent:
            updates = [UpdateOne({"_id": storable(block)}, {"$max": {"sent": count}}) for block, count in sent.items()]
            await self._connection.quick("outcomes").bulk_write(updates, ordered=False)

    @translating
    async def extend(self, block_ids: Sequence[str], claim: Claim) -> list[str]:
        """Extend claims of a holder that have not ended; the ids of their blocks."""
        outcomes = self._connection.quick("outcomes")
        mine = {**self._of_holder(block_ids, claim.holder), "published": False}
        claimed = self._claimed(claim)
        await outcomes.update_many({**mine, "lease": {"$gt": self._connection.now()}}, {"$set": claimed})
        kept = outcomes.find({**mine, "lease": {"$gte": claimed["lease"]}}, {"_id": 1})
        return [outcome["_id"] async for outcome in kept]

    @translating
    async def release(self, block_ids: Sequence[str], holder: str) -> None:
        """End claims of a holder."""
        outcomes, mine = self._connection.quick("outcomes"), self._of_holder(block_ids, holder)
        await outcomes.update_many(mine, {"$set": {"lease": 0.0}, "$unset": {"claimant": ""}})

    def _waits(self) -> Document:
        """The condition of what waits to be published."""
        now = self._connection.now()
        return {"due": {"$lte": now}, "lease": {"$lte": now - GRACE}, **FREE}

    @property
    def _outcomes(self) -> Collection:
        return self._connection.collection("outcomes")

    def _claimed(self, claim: Claim) -> Document:
        """The fields of an outcome that is claimed from now on."""
        return {"claimant": storable(claim.holder), "lease": self._connection.now() + claim.seconds}

    def _of_holder(self, block_ids: Sequence[str], holder: str) -> Document:
        return {"_id": {"$in": [storable(block_id) for block_id in block_ids]}, "claimant": storable(holder)}


def _turns_of(run: Document) -> Turns:
    return Turns(run.get("priority"), run.get("weight", 1.0))
