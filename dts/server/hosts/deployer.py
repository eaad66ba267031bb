"""Works on the hosts of rollouts: claims those that are due, pushes the version, and notes how that went."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import replace

from dts.errors import DtsError, HostUnreachable, StoreUnavailable
from dts.model import VirtualHost
from dts.model.documents import Document
from dts.runtime.log_throttle import OutageLog
from dts.runtime.service import Service
from dts.server.hosts.push import push
from dts.server.hosts.rollouts import HOSTS, HostState, advance, list_running, note, state_of
from dts.server.lookup.catalogue import Catalogue
from dts.server.ssh import SshConnections
from dts.server.versions.library import get_archive
from dts.store import Store
from dts.wire.archive import SHORT

logger = logging.getLogger(__name__)

_AT_ONCE = 16
"""Hosts that one server works on at a time."""

_CLAIM = 10.0
"""Seconds until another server takes over from one that has died. One that was only slow pushes twice, which changes
nothing."""

_RENEW_EVERY = 3.0
_FIRST_RETRY, _LONGEST_RETRY = 5.0, 60.0  # seconds until a host that is down is tried again
_POLL = 1.0
"""Seconds between looks for hosts that are due: one read of an index."""

_LOOK_EVERY = 10.0
"""Seconds between looks for rollouts that nobody has brought further: a server died between two writes."""

_MOST_ERROR = 2000  # characters of what went wrong on a host


class Deployer(Service):
    """Every server has one; each host is claimed by one of them."""

    def __init__(self, store: Store, connections: SshConnections, catalogue: Catalogue) -> None:
        super().__init__()
        self._store, self._connections, self._catalogue = store, connections, catalogue
        self._tasks: set[asyncio.Task[None]] = set()
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._outage = OutageLog(logger, 60.0)

    async def _start(self) -> None:
        self._stack.push_async_callback(self._cancel_all)
        self._spawn(self._run(), "deployer")
        self._spawn(self._advance_all(), "rollouts")

    async def _run(self) -> None:
        while True:
            try:
                found = await self._claim()
                self._outage.worked("hosts get versions of functions again")
            except StoreUnavailable as error:
                self._outage.failed("no host gets a version of a function until the store answers: %s", error)
                found = False
            if not found:
                await asyncio.sleep(_POLL)

    async def _advance_all(self) -> None:
        """Do what was left undone after a host's state was noted. A rollout that is being started is left alone."""
        before: dict[str, int] = {}
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            try:
                running = await list_running(self._store)
                for function, revision in running.items():
                    if before.get(function) == revision:
                        await self._advance(function)
                before = running
            except StoreUnavailable as error:
                self._outage.failed("rollouts are not brought further until the store answers: %s", error)

    async def _claim(self) -> bool:
        """Begin with hosts that are due, as many as there is room for; whether there were any."""
        async with self._free:  # waits for room for one
            room = _AT_ONCE - len(self._tasks)
        documents = await self._store.claim_documents(HOSTS, seconds=_CLAIM, limit=max(room, 1))
        for document in documents:
            task = asyncio.create_task(self._work_on(document), name=f"deploy {document.id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return bool(documents)

    async def _work_on(self, document: Document) -> None:
        state = state_of(document)
        async with self._free:
            claim = _Claim(self._store, document)
            renewing = asyncio.create_task(claim.keep(), name=f"claim of {document.id}")
            try:
                ended = await self._push(state)
            finally:
                renewing.cancel()
                with suppress(asyncio.CancelledError):
                    await renewing
            await self._note(claim.document, ended)

    async def _push(self, state: HostState) -> HostState:
        """Have the version on the host; returns how far that is then."""
        now = replace(state, attempts=state.attempts + 1, modified=round(time.time(), 3))
        try:
            host = await self._store.get_record(VirtualHost, state.host)
            archive = await get_archive(self._store, state.function, state.version)
            if host is None or archive is None:
                return replace(now, state="failed", error="the host, or the version, was deleted meanwhile")
            async with self._connections.use(host) as ssh:
                await push(ssh, state.function, state.version, archive)
        except HostUnreachable as error:
            return replace(now, state="unreachable", error=str(error)[:_MOST_ERROR])
        except DtsError as error:
            return replace(now, state="failed", error=str(error)[-_MOST_ERROR:])
        except Exception as error:  # it costs this host alone
            logger.exception("version %s of %s could not be pushed to %s", *_named(state))
            return replace(now, state="failed", error=f"{type(error).__name__}: {error}"[:_MOST_ERROR])
        return replace(now, state="done", error="")

    async def _note(self, claimed: Document, state: HostState) -> None:
        """Note how far a host is, and what follows from that. What cannot be noted now is done again."""
        due = None
        if state.state == "unreachable" and claimed.due is not None:
            pause = min(_FIRST_RETRY * 2 ** min(state.attempts - 1, 10), _LONGEST_RETRY)
            due = claimed.due - _CLAIM + pause  # by the store's clock, which the claim was given by
        level = logging.INFO if state.state == "done" else logging.WARNING
        logger.log(level, "version %s of %s on %s: %s", *_named(state), state.error or state.state)
        try:
            if await note(self._store, claimed, state, due=due):
                await self._advance(state.function)
        except StoreUnavailable as error:
            self._outage.failed("how far hosts are cannot be noted, and is found again later: %s", error)

    async def _advance(self, function: str) -> None:
        ended = await advance(self._store, function)
        self._catalogue.forget(function)
        if ended is not None:
            logger.info("the rollout of %s, version %s: %s", function, ended.version[:SHORT], ended.state)

    async def _cancel_all(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Claim:
    """A document that is being worked on, for as long as that takes."""

    def __init__(self, store: Store, document: Document) -> None:
        self._store = store
        self.document = document

    async def keep(self) -> None:
        """Renew the claim until this is cancelled, or the document is somebody else's."""
        while True:
            await asyncio.sleep(_RENEW_EVERY)
            later = replace(self.document, due=(self.document.due or 0.0) + _RENEW_EVERY)
            with suppress(StoreUnavailable):
                if not await asyncio.shield(self._store.replace_document(later)):
                    return
                self.document = replace(later, revision=later.revision + 1)


def _named(state: HostState) -> tuple[str, str, str]:
    return state.version[:SHORT], state.function, state.host
