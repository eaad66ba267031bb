"""How many jobs of a user and of a run are in which state, from sums that are kept instead of from every block.

There are no transactions, and an outcome and a sum are two documents. So each outcome is the truth about its jobs, and
a *tally*, the sum of a user or of a run, takes over what outcomes say a chunk at a time. The outcome then notes what
the tally has of it (`tallied`), and is *loose* while it says anything else. At any time, whatever crashed where,

    jobs in a state = tally + the sum over loose outcomes of (what the outcome says - what the tally has of it).

A write that changes what an outcome says makes it loose in the same update. Nobody but big users and big runs has a
tally: up to `MOST_LOOSE` loose outcomes are simply added up.

A chunk is taken over in four steps, by whoever wants, of several at once:

1. Read the tally, which has a number `seq` and no chunk `pending`; then loose outcomes, and what they say.
2. Put what they say into the tally as its pending chunk, if its number is still that and no chunk is pending.
3. Note in each outcome of the pending chunk what the tally will have of it, under the number after `seq`, unless it has
   one under that number or a later one. An outcome that says something else by then stays loose.
4. Add the chunk to the tally, count its number up and take the chunk out, if it has that number and that chunk.

Steps 3 and 4 follow from what is in the tally alone. So when its author dies after step 2, whoever comes next completes
them, and to do them twice changes nothing: step 3 is guarded by the number in the outcome, step 4 by the one in the
tally. Step 4 comes after all of step 3, so once the number is counted up, every outcome of the chunk has it noted, and
a process that comes late with step 3 finds the later number. What is read in step 1 is what tally `seq` has of those
outcomes: another number in one of them would have to come from a chunk that was pending after the tally was read, and
then step 2 fails. Each step waits for a majority before the next, so a fail-over takes back later steps only.

A reader reads the tally, adds up what is loose, and reads the tally again: if number and `pending` are as they were, no
outcome was taken over in between, and the equation holds. A block that is deleted says 0 first (`gone`), is taken over
once more, and goes then: it is loose from before that until after it, so no chunk can have it any more.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pymongo import ASCENDING, IndexModel, ReturnDocument, UpdateOne
from pymongo.errors import DuplicateKeyError

from dts.store.contract.shared import storable
from dts.store.mongo.connection import Collection, MongoConnection
from dts.store.mongo.documents import LOOSE, Document

USER, RUN = "user", "run"

MOST_LOOSE = 2000
"""Loose outcomes of a user or of a run that are left to be added up: some 10 ms of MongoDB's time."""

_CHUNK = 500  # outcomes: some 60 kB in the tally
_SECONDS = 0.5  # after which a call leaves the rest to the next one: it ends in time, and readers get in between

BIG_RUN = MOST_LOOSE // 2
"""The number of a block from which on its run is looked at for loose outcomes: a smaller one cannot have many."""
_TRIES = 20

TALLY_INDEXES = (
    # Those that have ended come first: what they say does not change again.
    IndexModel(
        [(USER, ASCENDING), ("open", ASCENDING), ("loose.user", ASCENDING)],
        name="loose_user",
        partialFilterExpression={"loose.user": True},
    ),
    IndexModel(
        [(RUN, ASCENDING), ("open", ASCENDING), ("loose.run", ASCENDING)],
        name="loose_run",
        partialFilterExpression={"loose.run": True},
    ),
    IndexModel(
        [(RUN, ASCENDING), ("number", ASCENDING), ("loose.run", ASCENDING)],
        name="big_runs",
        partialFilterExpression={"loose.run": True, "number": {"$gte": BIG_RUN}},
    ),
)

STATES = ("total", "accepted", "running", "succeeded", "failed", "cancelled", "delayed")
_NOTHING = [0] * len(STATES)
_LEFT = {
    "$max": [0, {"$subtract": ["$count", {"$add": ["$succeeded", "$failed", "$cancelled", "$at_work"]}]}],
}
_UNPUBLISHED = {"$cond": ["$published", 0, _LEFT]}
_SAYS: Document = {
    "$cond": [
        {"$ifNull": ["$gone", False]},
        _NOTHING,
        [
            "$count",
            {"$cond": ["$not_before", 0, _UNPUBLISHED]},
            "$at_work",
            "$succeeded",
            "$failed",
            "$cancelled",
            {"$cond": ["$not_before", _UNPUBLISHED, 0]},
        ],
    ]
}


class Tallies:
    """The tallies of users and runs. Methods take whose it is: USER or RUN, and the id."""

    def __init__(self, connection: MongoConnection) -> None:
        self._connection = connection

    async def counts(self, kind: str, of: str) -> dict[str, int]:
        """How many jobs are in which state, as a majority has it."""
        tallies, loose = self._connection.committed("tallies"), self._connection.committed("outcomes")
        key, counts = _key(kind, of), _NOTHING
        before = await tallies.find_one({"_id": key})
        for _ in range(_TRIES):
            added = await self._add_up(loose, kind, of)
            after = await tallies.find_one({"_id": key})
            counts = [kept + more for kept, more in zip(after["counts"] if after else _NOTHING, added, strict=True)]
            if _is_same(before, after):
                break
            if after and after["pending"]:
                await self._complete(kind, after)
                after = await tallies.find_one({"_id": key})
            before = after
        return dict(zip(STATES, counts, strict=True))

    async def take_over(self) -> bool:
        """Take over some of what is loose of those who have much of it; returns whether there is more."""
        until = time.monotonic() + _SECONDS
        for kind, index, which in (
            (USER, "loose_user", {"loose.user": True}),
            (RUN, "big_runs", {"loose.run": True, "number": {"$gte": BIG_RUN}}),
        ):
            most = MOST_LOOSE if kind == USER else MOST_LOOSE // 2
            for found in await self._counted(kind, index, which, most):
                for _ in range((found["outcomes"] - most) // _CHUNK + 1):
                    await self._take_chunk(kind, found["_id"], {})
                    if time.monotonic() > until:
                        return True
        return False

    async def _counted(self, kind: str, index: str, which: Document, most: int) -> list[Document]:
        """Users or runs with more than so many loose outcomes, from an index alone."""
        group = {"_id": f"${kind}", "outcomes": {"$sum": 1}}
        stages = [{"$match": which}, {"$group": group}, {"$match": {"outcomes": {"$gt": most}}}]
        found: list[Document] = (
            await self._connection.collection("outcomes").aggregate(stages, hint=index).to_list(None)
        )
        return found

    async def take_out(self, user: str, block_ids: Sequence[str]) -> None:
        """Take outcomes of a user out of its tally, which are to be deleted then."""
        which = {"_id": {"$in": list(block_ids)}}
        await self._connection.collection("outcomes").update_many(which, {"$set": {"gone": True, **LOOSE}})
        if await self._connection.collection("tallies").find_one({"_id": _key(USER, user)}) is not None:
            while not await self._take_chunk(USER, user, which):
                continue  # another process was faster, or had died: its chunk is completed now

    async def forget_run(self, run: str) -> None:
        """Delete the tally of a run that is deleted."""
        await self._connection.quick("tallies").delete_one({"_id": _key(RUN, run)})

    async def _add_up(self, outcomes: Collection, kind: str, of: str) -> list[int]:
        """The sum over loose outcomes of what the tally does not have of them."""
        has = {"$ifNull": [f"$tallied.{kind}.counts", _NOTHING]}
        sums = {
            name: {"$sum": {"$subtract": [{"$arrayElemAt": ["$says", at]}, {"$arrayElemAt": ["$has", at]}]}}
            for at, name in enumerate(STATES)
        }
        found = outcomes.aggregate(
            [
                {"$match": {kind: of, f"loose.{kind}": True}},
                {"$project": {"says": _SAYS, "has": has}},
                {"$group": {"_id": None, **sums}},
            ],
            hint=f"loose_{kind}",
        )
        return [int(document[name]) for document in await found.to_list(1) for name in STATES] or _NOTHING

    async def _take_chunk(self, kind: str, of: str, which: Document) -> bool:
        """Take over a chunk of loose outcomes that match; False if another process was faster: to be tried again."""
        tallies = self._connection.collection("tallies")
        tally = await self._tally(tallies, _key(kind, of))
        if tally["pending"]:
            await self._complete(kind, tally)
            return False
        has = {"$ifNull": [f"$tallied.{kind}.counts", _NOTHING]}
        query = {kind: of, f"loose.{kind}": True, **which}
        found = self._connection.collection("outcomes").find(
            query, {"says": _SAYS, "has": has}, sort=[("open", ASCENDING)] if not which else None, limit=_CHUNK
        )
        if not which:
            found = found.hint(f"loose_{kind}")
        chunk = [document async for document in found]
        if not chunk:
            return True
        added = [sum(each["says"][at] - each["has"][at] for each in chunk) for at in range(len(STATES))]
        pending = {"blocks": [[each["_id"], *each["says"]] for each in chunk], "added": added}
        claimed: Document | None = await tallies.find_one_and_update(
            {"_id": tally["_id"], "seq": tally["seq"], "pending": None},
            {"$set": {"pending": pending}},
            return_document=ReturnDocument.AFTER,
        )
        if claimed is None:
            return False
        await self._complete(kind, claimed)
        return True

    async def _tally(self, tallies: Collection, key: str) -> Document:
        """The tally under a key; a new one if there is none. It is there before any outcome is read for it."""
        found: Document | None = await tallies.find_one({"_id": key})
        if found is not None:
            return found
        new = {"_id": key, "seq": 0, "counts": _NOTHING, "pending": None}
        with suppress(DuplicateKeyError):  # then another process was faster
            await tallies.insert_one(dict(new))
        return new

    async def _complete(self, kind: str, tally: Document) -> None:
        """Take over the pending chunk of a tally that was read."""
        number, pending = tally["seq"] + 1, tally["pending"]
        marks = [_mark(kind, block, says, number) for block, *says in pending["blocks"]]
        await self._connection.collection("outcomes").bulk_write(marks, ordered=False)
        added = {f"counts.{at}": more for at, more in enumerate(pending["added"])}
        await self._connection.collection("tallies").update_one(
            {"_id": tally["_id"], "seq": tally["seq"], "pending": {"$ne": None}},
            {"$inc": {"seq": 1, **added}, "$set": {"pending": None}},
        )


def _mark(kind: str, block: str, says: Sequence[int], number: int) -> UpdateOne:
    """The update that notes in an outcome what the tally has of it."""
    loose: Any = {"$cond": [{"$ne": [_SAYS, list(says)]}, True, "$$REMOVE"]}
    return UpdateOne(
        {"_id": block, f"tallied.{kind}.seq": {"$not": {"$gte": number}}},
        [{"$set": {f"tallied.{kind}": {"seq": number, "counts": list(says)}, f"loose.{kind}": loose}}],
    )


def _key(kind: str, of: str) -> str:
    return f"{kind} {storable(of)}"


def _is_same(before: Document | None, after: Document | None) -> bool:
    """Whether nothing was taken over between two looks at a tally."""
    if after is None:
        return True
    seq = before["seq"] if before else 0
    return bool(seq == after["seq"] and after["pending"] is None and (before is None or before["pending"] is None))
