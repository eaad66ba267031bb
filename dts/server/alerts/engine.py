"""Evaluates the rules, in one process of all, and posts what people are to know.

What an alert is, and the notice that it owes, are written in one document with one write, guarded by its revision. Only
then is the notice posted, under an id that follows from what was written, and after that noted as posted. So whenever
the process dies, the next leader posts what is owed, and what was posted already is known by its id.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import replace

import msgspec

from dts.broker import Broker
from dts.config import Settings
from dts.errors import StoreUnavailable
from dts.model import AlertRule, Document, Silence, new_id
from dts.server.alerts.evaluate import Change, Given, evaluate
from dts.server.alerts.kinds import KINDS, Terms
from dts.server.alerts.look import Looker
from dts.server.alerts.observe import observe
from dts.server.alerts.rules import built_in_rules
from dts.server.alerts.runs import FinishedRunRules
from dts.server.alerts.signals import COLLECTION as SIGNALS
from dts.server.alerts.signals import signals_of
from dts.server.alerts.state import COLLECTION, Phase, state_of
from dts.server.alerts.wording import compose
from dts.server.notify.notice import Notice
from dts.server.notify.notifier import Notifier
from dts.server.notify.recipients import DEFAULT
from dts.server.publish.leader import Leader
from dts.store import Store

logger = logging.getLogger(__name__)

_MOST = 10_000
"""Alerts at a time; what is beyond waits until some have ended."""

_SIGNALS = 500  # documents of events that are taken in one evaluation


class Engine:
    """The evaluator. Several may run at once: one leads."""

    def __init__(self, store: Store, broker: Broker, settings: Settings, notifier: Notifier) -> None:
        self._store = store
        self._notifier = notifier
        self._settings = settings
        self._looker = Looker(store, broker)
        self._runs = FinishedRunRules(store, notifier, settings.notify.url)
        self._leader = Leader(store, "alerts")
        self._rules = built_in_rules(settings.daemons)
        self._store_failed: float | None = None
        self._store_notified = False

    async def tick(self) -> None:
        """Evaluate once, if this process leads.

        Raises:
            StoreUnavailable: nothing is lost; the next evaluation goes on.
        """
        leads = await self._leader.leads()
        await self._store_is_back()
        if not leads:
            return
        documents = await self._settle(await self._alerts())
        rules = self._rules = await self.rules()
        silences = await self._store.list_records(Silence, limit=None)
        events = await self._all(SIGNALS, _SIGNALS)
        snapshot = await self._looker.look(rules)
        given = Given(snapshot.now, rules, silences, observe(snapshot), signals_of(self._fresh(events, documents)))
        states = {key: state_of(document) for key, document in documents.items()}
        await self._write(evaluate(given, states), documents, [event.id for event in events])
        await self._store.delete_documents(SIGNALS, [event.id for event in events])
        await self._runs.look(rules)

    async def rules(self) -> list[AlertRule]:
        """The rules that there are, built-in ones among them."""
        records = await self._store.list_records(AlertRule, limit=None)
        return [*records, *built_in_rules(self._settings.daemons)]

    async def store_is_away(self, error: StoreUnavailable) -> None:
        """Mail that the store is away, once it has been for a while: past the outbox, which is in the store."""
        now = time.monotonic()
        self._store_failed = self._store_failed or now
        rules = [rule for rule in self._rules if rule.kind == "store" and rule.enabled]
        due = [rule for rule in rules if now - self._store_failed >= Terms.of(rule).threshold]
        if due and self._leader.term and not self._store_notified:
            self._store_notified = True
            await self._notifier.send_directly(
                Notice(new_id(), "alert.began", "the store is away", f"Nothing is accepted until it is back.\n{error}")
            )

    async def _store_is_back(self) -> None:
        if self._store_notified:
            await self._notifier.post(Notice(new_id(), "alert.ended", "the store is back"))
        self._store_failed, self._store_notified = None, False

    async def close(self) -> None:
        """Leave it to another process."""
        try:
            await self._leader.close()
        except StoreUnavailable:
            logger.debug("the lead of alerts runs out by itself")

    async def _alerts(self) -> dict[str, Document]:
        """The alerts that there are, without those that cannot be read: one such must not end all alerting."""
        documents = {}
        for document in await self._all(COLLECTION, _MOST):
            try:
                state_of(document)
            except msgspec.ValidationError as error:
                logger.error(
                    "the alert %s cannot be read and is deleted; it begins anew if there is reason: %s",
                    *(document.id, error),
                )
                await self._store.delete_document(document)
            else:
                documents[document.id] = document
        return documents

    async def _all(self, collection: str, most: int) -> list[Document]:
        found: list[Document] = []
        while len(found) < most:
            page = await self._store.list_documents(collection, after=found[-1].id if found else None, limit=1000)
            found += page
            if len(page) < 1000:
                break
        return found[:most]

    def _fresh(self, events: Iterable[Document], documents: dict[str, Document]) -> list[Document]:
        """Those events that no alert has counted yet: a leader may have died before it deleted them."""
        counted = {key for document in documents.values() for key in state_of(document).merged}
        return [event for event in events if event.id not in counted]

    async def _write(self, changes: list[Change], documents: dict[str, Document], events: list[str]) -> None:
        """Store what has changed, then post what is owed."""
        batch, now, written = new_id(), time.time(), dict[str, Document]()
        for change in changes:
            before = documents.get(change.id)
            if change.after is None:
                if before is not None:
                    await self._store.delete_document(before)
                continue
            counted = tuple(events) if KINDS[change.after.kind].events else ()
            after = msgspec.structs.replace(change.after, batch=batch, merged=counted)
            document = Document(
                COLLECTION,
                change.id,
                msgspec.to_builtins(after),
                group=after.phase.value,
                revision=before.revision if before else 0,
            )
            if before is None:
                stored = await self._store.add_document(document)
            else:
                stored = await self._store.replace_document(document)
            if stored:
                written[change.id] = replace(document, revision=document.revision + 1)
                _log(change, now)
        await self._settle(written)

    async def _settle(self, documents: dict[str, Document]) -> dict[str, Document]:
        """Post the notices that alerts owe, and note it; returns the alerts that are left."""
        owing = {key: state for key, document in documents.items() if (state := state_of(document)).owed}
        for notice, recipients in compose(owing.values(), self._settings.notify.url):
            await self._notifier.post(notice, recipients or (DEFAULT,))
        left = dict(documents)
        for key, document in documents.items():
            state = state_of(document)
            if state.phase is Phase.ENDED:
                await self._store.delete_document(document)
                del left[key]
            elif key in owing:
                done = replace(document, data=msgspec.to_builtins(msgspec.structs.replace(state, owed=None, news=0)))
                if await self._store.replace_document(done):
                    left[key] = replace(done, revision=document.revision + 1)
        return left


def _log(change: Change, now: float) -> None:
    after = change.after
    if after is not None and after.owed:
        logger.info("alert %s: %s (%s)", change.id, after.owed, after.began or after.kind)
