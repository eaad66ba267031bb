"""What waits of runs that are paused or cancelled is marked, so that no look for work meets it.

`held` is on outcomes of a run that is paused or cancelled, or has finished without them, and on delayed slices of one
that is paused; where it is absent nothing holds. Every index that work is looked for in begins with it. The run
decides, the mark follows: it is written when a run changes, and when a look meets something unmarked, such as a block
that came later. Whoever has marked reads the runs once more and goes on until they have stayed the same, so of two
changes at once the later one holds. A process that dies in between may leave a mark too many, for `recheck`, or one too
few, for the next look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pymongo import ASCENDING

from dts.model import RunState
from dts.store.mongo.connection import MongoConnection
from dts.store.mongo.documents import Document

FREE: Document = {"held": None}
"""The condition of what is not held."""

_STATE = {"paused": 1, "state": 1, "finished": 1}
_RUNS_AT_ONCE = 1000
_WAITING: Mapping[str, Document] = {"outcomes": {"open": True}, "delayed": {"waits": True}}

_INDEX = {"outcomes": "unfinished", "delayed": "free"}
"""Where all that waits is found, without what has ended."""


def stopped_in(name: str, run: Document) -> bool:
    """Whether the run of a document holds what waits of it in a collection."""
    over = run["state"] == RunState.CANCELLED.value or "finished" in run
    return bool(run["paused"] or (name == "outcomes" and over))


class Holds:
    """Keeps the marks."""

    def __init__(self, connection: MongoConnection) -> None:
        self._connection = connection

    async def find(
        self, name: str, query: Document, *, order: str, limit: int, index: str, fields: Document | None = None
    ) -> list[Document]:
        """Documents of a collection in order of a field, but for those that are held or have to be."""
        documents = self._connection.collection(name)
        query, size = {**query, **FREE}, limit
        while True:
            found = await documents.find(query, fields, sort=[(order, ASCENDING)], limit=size, hint=index).to_list(size)
            if not await self.mark(name, [document["run"] for document in found]):
                return found[:limit]
            size = min(4 * size, _RUNS_AT_ONCE)

    async def mark(self, name: str, run_ids: Iterable[str]) -> bool:
        """Mark what waits of those of some runs that hold it in a collection; whether there were such."""
        ids = sorted(set(run_ids))
        stopped: list[str] = []
        for start in range(0, len(ids), _RUNS_AT_ONCE):
            stops = {"$or": [{"paused": True}, {"state": RunState.CANCELLED.value}, {"finished": {"$gt": 0}}]}
            among = {"_id": {"$in": ids[start : start + _RUNS_AT_ONCE]}, **stops}
            found = self._connection.collection("runs").find(among, _STATE)
            stopped += [run["_id"] async for run in found if stopped_in(name, run)]
        for start in range(0, len(stopped), _RUNS_AT_ONCE):
            await self.follow(stopped[start : start + _RUNS_AT_ONCE])
        return bool(stopped)

    async def follow(self, run_ids: Sequence[str]) -> None:
        """Mark what waits of runs as they are now."""
        before: dict[str, tuple[bool, bool]] | None = None
        while (now := await self._stops(run_ids)) != before:
            before = now
            for position, name in enumerate(_WAITING):
                for held in (True, False):
                    await self._mark(name, [run for run, stops in now.items() if stops[position] is held], held=held)

    async def recheck(self) -> None:
        """Have all marks follow the runs: whoever made them may have died before it looked once more."""
        runs: set[str] = set()
        for name, waiting in _WAITING.items():
            groups: list[Document] = [{"$match": {"held": True, **waiting}}, {"$group": {"_id": "$run"}}]
            found = self._connection.collection(name).aggregate(groups, hint=_INDEX[name])
            runs |= {document["_id"] async for document in found}
        ids = sorted(runs)
        for start in range(0, len(ids), _RUNS_AT_ONCE):
            await self.follow(ids[start : start + _RUNS_AT_ONCE])

    async def _stops(self, run_ids: Iterable[str]) -> dict[str, tuple[bool, bool]]:
        """Whether each run holds its outcomes, and its slices."""
        found = self._connection.collection("runs").find({"_id": {"$in": list(run_ids)}}, _STATE)
        return {run["_id"]: (stopped_in("outcomes", run), stopped_in("delayed", run)) async for run in found}

    async def _mark(self, name: str, run_ids: Sequence[str], *, held: bool) -> None:
        if run_ids:
            of_runs = {"run": {"$in": run_ids}, "held": None if held else True, **_WAITING[name]}
            change = {"$set": {"held": True}} if held else {"$unset": {"held": ""}}
            await self._connection.collection(name).update_many(of_runs, change)
