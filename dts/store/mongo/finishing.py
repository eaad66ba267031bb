"""When runs finish, written to a run's document after its last outcome, since there are no transactions.

A run that is closed or cancelled gets no new outcome: whoever inserts one reads the run thereafter, and whoever closes
one looks for outcomes thereafter, see `blocks`. So once such a run has no open outcome its counts are final, and every
process that writes them writes the same. A run's document has `unfinished` until then, for `finish_left_runs`, and
`finished` and `ended` from then on. A run of `POST /jobs/` is inserted before its outcomes: without any it has not
finished.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from pymongo import ASCENDING, IndexModel, UpdateOne

from dts.model import Run, RunState
from dts.store.abc import Store
from dts.store.contract.shared import storable
from dts.store.mongo.connection import MongoConnection, translating
from dts.store.mongo.documents import Document, run_from
from dts.store.mongo.tallies import RUN, Tallies

_FINISHED = {"finished": {"$gt": 0}}
_UNFINISHED = {"unfinished": True}


def _index(name: str, *fields: str, **condition: object) -> IndexModel:
    return IndexModel([(field, ASCENDING) for field in fields], name=name, partialFilterExpression=condition)


FINISHING_INDEXES = [
    _index("unfinished", "_id", "state", **_UNFINISHED),
    _index("finished", "finished", "_id", **_FINISHED),
    _index("finished_of_user", "user", "finished", "_id", **_FINISHED),
    _index("finished_of_function", "function", "finished", "_id", **_FINISHED),
    _index("to_follow_up", "finished", "_id", **_FINISHED, follow_up=True),
    _index("open_of_user", "user", "_id", state=RunState.OPEN.value),
    _index("open_of_function", "function", "_id", state=RunState.OPEN.value),
]


class MongoFinishingStore(Store):
    """The part of a MongoDB store that is about finished runs. Not a store by itself."""

    _connection: MongoConnection
    _tallies: Tallies

    @translating
    async def finish_runs(self, run_ids: Sequence[str]) -> list[str]:
        return await self._finish([storable(run_id) for run_id in run_ids])

    async def _finish(self, run_ids: Sequence[str]) -> list[str]:
        """Finish those of some runs that have no job left to end; the ids of those that this call wrote."""
        runs = self._connection.collection("runs")
        stopped = {"_id": {"$in": list(run_ids)}, "state": {"$ne": RunState.OPEN.value}, **_UNFINISHED}
        found = {run["_id"]: run["single"] async for run in runs.find(stopped, {"single": 1}, hint="_id_")}
        open_ = await self._with_open_outcomes(found)
        ended = await self._ended({run: single for run, single in found.items() if run not in open_})
        if not ended:
            return []
        updates = [
            UpdateOne(
                {"_id": run, **_UNFINISHED},
                {"$set": {"finished": self.now(), "ended": counts}, "$unset": {"unfinished": ""}},
            )
            for run, counts in ended.items()
        ]
        await runs.bulk_write(updates, ordered=False)
        return list(ended)

    async def _with_open_outcomes(self, runs: Mapping[str, bool]) -> set[str]:
        """Those of some runs, each with whether it is a single one, that have an outcome with unfinished jobs."""
        outcomes = self._connection.collection("outcomes")
        single = [run for run, is_single in runs.items() if is_single]
        found: set[str] = set()
        if single:  # of few blocks each: read at once
            of_single = {"run": {"$in": single}, "open": True}
            found = {each["run"] async for each in outcomes.find(of_single, {"run": 1}, hint="open_of_run")}
        large = [run for run in runs if not runs[run]]
        first = await asyncio.gather(
            *(outcomes.find_one({"run": run, "open": True}, {"run": 1}, hint="open_of_run") for run in large)
        )
        return found | {each["run"] for each in first if each is not None}

    async def _ended(self, runs: Mapping[str, bool]) -> dict[str, list[int]]:
        """How many jobs of some runs ended how, without runs that have others, or that have no blocks yet."""
        counts = await self._of_single([run for run, single in runs.items() if single])
        for run in (run for run, single in runs.items() if not single):
            of_run = await self._tallies.counts(RUN, run)
            counts[run] = [of_run["total"], of_run["succeeded"], of_run["failed"], of_run["cancelled"]]
        return {run: ended for run, (total, *ended) in counts.items() if total == sum(ended)}

    async def _of_single(self, run_ids: Sequence[str]) -> dict[str, list[int]]:
        """The number of all jobs of single runs that have any, and how many of them ended how."""
        if not run_ids:
            return {}
        fields = ("count", "succeeded", "failed", "cancelled")
        group = {"_id": "$run", **{field: {"$sum": f"${field}"} for field in fields}}
        found = self._connection.committed("outcomes").aggregate(
            [{"$match": {"run": {"$in": list(run_ids)}}}, {"$group": group}], hint="of_run"
        )
        return {each["_id"]: [each[field] for field in fields] async for each in found}

    @translating
    async def finish_left_runs(self, *, after: str, limit: int) -> tuple[list[str], str]:
        query: Document = {**_UNFINISHED, "_id": {"$gt": after}, "state": {"$ne": RunState.OPEN.value}}
        found = self._connection.collection("runs").find(
            query, {"_id": 1}, sort=[("_id", ASCENDING)], limit=limit, hint="unfinished"
        )
        ids = [run["_id"] async for run in found]
        return await self._finish(ids), ids[-1] if len(ids) == limit else ""

    async def finished_runs(self, *, after: tuple[float, str] = (0.0, ""), limit: int) -> list[Run]:
        return await self._finished_runs({}, after, limit, "finished")

    async def runs_to_follow_up(self, *, after: tuple[float, str] = (0.0, ""), limit: int) -> list[Run]:
        return await self._finished_runs({"follow_up": True}, after, limit, "to_follow_up")

    @translating
    async def note_followed_up(self, run_ids: Sequence[str]) -> None:
        among = {"_id": {"$in": [storable(run_id) for run_id in run_ids]}, **_FINISHED}
        await self._connection.collection("runs").update_many(among, {"$unset": {"follow_up": ""}})

    @translating
    async def _finished_runs(self, query: Document, after: tuple[float, str], limit: int, index: str) -> list[Run]:
        time, run_id = after
        later = {"finished": {"$gt": 0, "$gte": time}, "$or": [{"finished": {"$gt": time}}, {"_id": {"$gt": run_id}}]}
        found = self._connection.committed("runs").find(
            {**query, **later}, sort=[("finished", ASCENDING), ("_id", ASCENDING)], limit=limit, hint=index
        )
        return [run_from(document) async for document in found]


def runs_of(blocks: Iterable[str]) -> list[str]:
    """The ids of the runs that blocks belong to, by the blocks' ids."""
    return list({block.rpartition("-")[0] for block in blocks})
