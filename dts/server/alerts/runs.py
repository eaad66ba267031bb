"""Notices of finished runs by rules: one for each run and rule, whoever evaluates. Single jobs are no runs here: a
notice for each that fails could be thousands, and a rule about the share of failures says the same in one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cachetools import LRUCache

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

_REMEMBERED = 50_000
"""Notices that a process knows to be posted, so that it does not post them at every look for _LATE seconds."""


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
        self._posted: LRUCache[tuple[str, str], bool] = LRUCache(_REMEMBERED)

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
        if run.single:
            return
        for kind in ("run_finished", "run_failed") if run.finished.failed else ("run_finished",):
            for rule in rules_for(rules, kind, kind, _Place(run.function)):
                if (run.id, rule.id) not in self._posted:
                    await self._notifier.post(notice_of(run, rule.id, self._url), rule.notify or (DEFAULT,))
                    self._posted[run.id, rule.id] = True
