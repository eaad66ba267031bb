"""Notices of finished runs by rules: each run that has finished is looked at once for each rule, whoever evaluates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dts.model import AlertRule, Document, Run
from dts.server.alerts.rules import rules_for
from dts.server.notify.notifier import Notifier
from dts.server.notify.recipients import DEFAULT
from dts.server.notify.runs import notice_of
from dts.store import Store

_KINDS = ("run_finished", "run_failed")
_CURSOR = "alert_cursors"
_LATE = 60.0
"""Seconds for which runs are looked at again: one may be listed late. Their notices are known by their ids."""

_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class _Place:
    """The function of a run, as rules see it."""

    function: str
    host: str = ""
    groups: frozenset[str] = field(default_factory=frozenset)


class FinishedRunRules:
    """Posts notices of runs that have finished since the last time."""

    def __init__(self, store: Store, notifier: Notifier, url: str) -> None:
        self._store = store
        self._notifier = notifier
        self._url = url

    async def look(self, rules: Sequence[AlertRule]) -> None:
        """Post what is due; a run that finished before there was any such rule is none.

        Raises:
            StoreUnavailable: the next look goes on.
        """
        wanted = [rule for rule in rules if rule.kind in _KINDS]
        if not wanted:
            await self._store.delete_documents(_CURSOR, ["runs"])
            return
        cursor = await self._store.get_document(_CURSOR, "runs")
        now = self._store.now()
        started, since = (cursor.data["started"], cursor.data["since"]) if cursor else (now, now)
        after = (max(started, since - _LATE), "")
        while runs := await self._store.finished_runs(after=after, limit=_AT_ONCE):
            for run in runs:
                await self._notify(run, wanted)
            last = runs[-1]
            after = (last.finished.time if last.finished else 0.0, last.id)
        data = {"started": started, "since": max(since, after[0])}
        if cursor is None or data != dict(cursor.data):
            await self._store.put_documents([Document(_CURSOR, "runs", data)], durable=False)

    async def _notify(self, run: Run, rules: Sequence[AlertRule]) -> None:
        assert run.finished is not None
        kinds = ["run_failed"] if run.finished.failed else []
        if not run.single:
            kinds.append("run_finished")
        for kind in kinds:
            for rule in rules_for(rules, kind, kind, _Place(run.function)):
                await self._notifier.post(notice_of(run, rule.id, self._url), rule.notify or (DEFAULT,))
