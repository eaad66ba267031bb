"""Does what is to follow runs: results are passed on as they come, reduced in rounds, and functions hear of the end.

What is to follow a run is a document, which is there before the run. A timekeeper claims it when it is due, does what
can be done, and writes down how far that is; until there are news of the run, or some time has passed. If it dies,
another one claims the document. Ids and contents of what is made follow from the run and its results alone, so to do it
twice makes it once.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import msgspec

from dts.broker import Broker, Event
from dts.errors import BrokerUnavailable, StoreUnavailable
from dts.model import Document, Run
from dts.server.ending.cancel import cancel_run
from dts.server.intake.following import FOLLOWING, Following, run_ids
from dts.server.lookup.catalogue import Catalogue
from dts.server.unattended.passing import Passing
from dts.server.unattended.progress import Progress
from dts.server.unattended.reducing import Reducing
from dts.server.unattended.submit import OverLimit, Submitter, has_finished
from dts.server.unattended.telling import Telling
from dts.store import Store

logger = logging.getLogger(__name__)

CLAIM = 120.0
"""Seconds for which a claimed document is left alone: a round over a million results takes one of them."""

_AT_ONCE = 50  # documents that are claimed together

_FIRST_PAUSE, _LONGEST_PAUSE, _BETWEEN_ROUNDS = 1.0, 600.0, 15.0
"""Seconds until a run without news is looked at again, and one that waits for the end of a round of a reduction, at
most. News come sooner; this is for those that are lost. `on_finished` is not."""

_WATCHED = 10_000
"""Runs that this process knows by name; with more of them, those before are looked at when they are due."""

_UNBORN = 600.0
"""Seconds after which a run that was never stored is given up."""

_KEPT = 30 * 86400.0  # seconds for which it can be seen what followed a run


class Follower:
    """Follows runs. Any number of them may work on the same store."""

    def __init__(self, store: Store, broker: Broker, catalogue: Catalogue, *, claim: float = CLAIM) -> None:
        self._store = store
        self._broker = broker
        self._claim = claim
        submitter = Submitter(store, broker, catalogue)
        self._passing = Passing(store, broker, submitter)
        self._reducing = Reducing(store, broker, submitter)
        self._telling = Telling(store, submitter)
        self._watched: dict[str, Document] = {}
        self._sources: dict[str, str] = {}
        self._news: dict[str, None] = {}

    def on_event(self, event: Event) -> None:
        """Take in which runs there are news of."""
        for run_id in event.payload.split():
            if (of := self._sources.get(run_id, run_id)) in self._watched:
                self._news[of] = None

    async def on_finished(self, run: Run) -> None:
        """Have what is to follow a run looked at now that it has finished.

        Raises:
            StoreUnavailable: it may not be; the same again is harmless.
        """
        while (document := await self._store.get_document(FOLLOWING, run.id)) is not None and document.due is not None:
            if await self._store.replace_document(replace(document, due=self._store.now())):
                return

    async def follow(self) -> int:
        """Do what can be done now; returns how many documents were looked at.

        Raises:
            StoreUnavailable: some may be done; what was not comes again.
        """
        count = 0
        while True:
            count += await self._follow_news()
            documents = await self._store.claim_documents(FOLLOWING, seconds=self._claim, limit=_AT_ONCE)
            for document in documents:
                await self._try(document)
            count += len(documents)
            if not documents:
                return count

    async def _follow_news(self) -> int:
        """Do what can be done for the runs that there are news of; how many documents were looked at."""
        count = 0
        for run_id in list(self._news):
            del self._news[run_id]
            try:
                document = await self._claim_again(run_id)
            except StoreUnavailable:
                self._news[run_id] = None
                raise
            if document is not None:
                await self._try(document)
                count += 1
        return count

    async def _try(self, document: Document) -> None:
        """Do what can be done for a run; what fails over what is in it is tried again when the claim is over."""
        self._watch(document, "")  # news may come meanwhile
        try:
            await self._attend(document)
        except (StoreUnavailable, BrokerUnavailable):
            self._news[document.id] = None
            raise
        except Exception:
            self._watched.pop(document.id, None)
            logger.exception("cannot do what follows run %s, trying again in %.0f s", document.id, self._claim)

    async def _claim_again(self, run_id: str) -> Document | None:
        """Claim what this process looked at last, before it is due; None if another one has taken it up meanwhile."""
        document = self._watched.get(run_id)
        if document is None:
            return None
        claimed = replace(document, due=self._store.now() + self._claim)
        if await self._store.replace_document(claimed):
            return _next(claimed)
        self._watched.pop(run_id, None)
        return None

    async def _attend(self, document: Document) -> None:
        wants = msgspec.convert(document.data["wants"], Following)
        progress = msgspec.convert(document.data.get("progress", {}), Progress)
        progress.moved = False
        pause: float | None = None
        try:
            is_done = await self._advance(document, wants, progress)
        except OverLimit as error:
            is_done, pause = False, float(error.retry_after)
        if progress.problem and progress.problem != document.data.get("progress", {}).get("problem"):
            logger.warning("what was to follow run %s did not come about: %s", document.id, progress.problem)
        now = self._store.now()
        if is_done:
            await self._store.replace_document(_with(document, progress, due=None, expires=now + _KEPT))
            self._watched.pop(document.id, None)
            return
        longest = _BETWEEN_ROUNDS if progress.source else _LONGEST_PAUSE
        progress.idle = 0.0 if progress.moved else min(longest, max(_FIRST_PAUSE, progress.idle * 2))
        kept = _with(document, progress, due=now + (progress.idle if pause is None else pause))
        if await self._store.replace_document(kept):
            self._watch(_next(kept), progress.source)
        else:
            self._watched.pop(document.id, None)

    async def _advance(self, document: Document, wants: Following, progress: Progress) -> bool:
        """Do what can be done of what follows a run; whether that was all."""
        run = await self._store.get_run(document.id)
        if run is None:
            return await self._give_up(document, wants, progress)
        finished = await has_finished(self._store, run.id)  # before results are read: all of them are there then
        if wants.then and not progress.passed_on:
            await self._passing.pass_on(run, wants, progress, finished=finished)
        if wants.reduce and not wants.then and not progress.reduced:
            await self._reducing.advance(run, wants, progress, finished=finished)
        if finished:
            await self._telling.tell(run, wants, progress)
        is_passed_on = progress.passed_on or not wants.then
        return finished and is_passed_on and (progress.reduced or bool(wants.then) or not wants.reduce)

    async def _give_up(self, document: Document, wants: Following, progress: Progress) -> bool:
        """What to do of a run that is not there: nothing yet if it may be on its way, else end what was begun."""
        if self._store.now() - float(document.data["made"]) <= _UNBORN:
            return False
        progress.fail(f"run {document.id} was deleted")
        for run_id in run_ids(document.id, wants).values():
            await cancel_run(self._store, self._broker, run_id)
        return True

    def _watch(self, document: Document, source: str) -> None:
        """Look at a run again when there are news of it, or of the one that is reduced for it now."""
        if len(self._watched) >= _WATCHED:
            self._watched.clear()
            self._sources.clear()
        self._watched[document.id] = document
        if source:
            self._sources[source] = document.id


def _with(document: Document, progress: Progress, *, due: float | None, expires: float | None = None) -> Document:
    data: dict[str, Any] = {**document.data, "progress": msgspec.to_builtins(progress)}
    return replace(document, data=data, due=due, expires=expires)


def _next(document: Document) -> Document:
    """A document as it is once it was stored."""
    return replace(document, revision=document.revision + 1)
