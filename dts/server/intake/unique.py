"""`unique`: for some time, a user's job with the same function and arguments is the same job.

What a key stands for is read once for all jobs of a request. A new job takes its key before it is stored, so of several
requests at once one makes the job; a key whose job was never stored, since the server died, is taken over.

A request with an `Idempotency-Key` notes which of its jobs it makes and which were there, before the first is stored:
its repeat makes the same.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dts.model import Document, Function, User, split_job_id
from dts.server.intake.memo import canonical
from dts.server.intake.submission import JobParams
from dts.store import Store

UNIQUE = "unique"
"""The collection of documents by key: which job it stands for."""

PLANS = "unique plans"
"""The collection of documents by user and `Idempotency-Key`: which jobs a request makes, and ids of unique ones."""

_PLANNED = 86400.0
"""Seconds for which a plan is kept: as long as a key is."""

_ON_ITS_WAY = 30.0
"""Seconds for which a job that is not stored yet is believed to be on its way."""

_PAUSES = (0.01, 0.03, 0.1, 0.3, 0.5, 1.0)
"""Seconds between looks for a job that is on its way; it usually comes within milliseconds."""


class OnItsWay(Exception):
    """Another request is about to store the same job, or broke off before it had; it is known within 30 s."""

    def __init__(self) -> None:
        super().__init__("another request is about to make the same job: try again in a moment")


class AnotherRequest(Exception):
    """The `Idempotency-Key` of a request stands for another one."""

    def __init__(self) -> None:
        super().__init__(
            "another request was sent under this Idempotency-Key: repeat that one as it was, or choose a new key"
        )


class UniqueJobs:
    """The jobs of one request, as far as they are unique.

    `repeat` is the request's `Idempotency-Key`, if it has one, and a digest of its body.
    """

    def __init__(
        self,
        store: Store,
        user: User,
        jobs: Sequence[JobParams],
        functions: Mapping[str, Function],
        repeat: tuple[str, bytes] | None = None,
    ) -> None:
        self._store = store
        self._plan, self._digest = (f"{user.id}/{repeat[0]}", repeat[1].hex()) if repeat else ("", "")
        self._keys = [_key_of(user, job) if functions[job.function].unique is not None else "" for job in jobs]
        self._seconds = [functions[job.function].unique or 0.0 for job in jobs]
        self._first = {key: place for place, key in reversed(list(enumerate(self._keys))) if key}
        self._known: dict[str, str] = {}

    async def find(self) -> list[int]:
        """Look up which jobs there are; returns the places of those that are to be made, each once.

        Raises:
            OnItsWay: nobody can tell yet.
            AnotherRequest: the key stands for another request.
            StoreUnavailable: nobody can tell.
        """
        if (planned := await self._recall()) is not None:
            return planned
        # The same request may have been sent twice at once: then some of what is there, or on its way, is of the other.
        try:
            places = await self._look()
        except OnItsWay:
            if (planned := await self._recall()) is None:
                raise
            return planned
        if (planned := await self._recall()) is not None:
            return planned
        if not places:
            await self._keep(places)
        return places

    async def _look(self) -> list[int]:
        found = await self._store.get_documents(UNIQUE, {key for key in self._keys if key})
        for document in found:
            if await self._has_come(document):
                self._known[document.id] = document.data["job"]
        places = enumerate(self._keys)
        return [place for place, key in places if not key or (key not in self._known and self._first[key] == place)]

    async def take(self, places: Sequence[int], ids: Sequence[str]) -> set[str]:
        """Take the keys of jobs that are about to be stored; ids of those that another request was faster with.

        Raises:
            StoreUnavailable: some may be taken; they are free again in half a minute.
        """
        keyed = [(self._keys[place], job) for place, job in zip(places, ids, strict=True) if self._keys[place]]
        if not await self._is_stored(keyed):
            await self._take_all(places, ids)
            await self._keep(places)
        return {job for key, job in keyed if self._known[key] != job}

    async def ids(self, places: Sequence[int], ids: Sequence[str]) -> list[str]:
        """The ids of all jobs of the request; `ids` are those that were made, for the jobs at `places`.

        Raises:
            StoreUnavailable: the same request again gets them.
        """
        made = dict(zip(places, ids, strict=True))
        if any(key and key not in self._known for key in self._keys):
            await self._recall()  # the jobs were stored by an earlier request
        return [self._known.get(key) or made[self._first.get(key, place)] for place, key in enumerate(self._keys)]

    async def _is_stored(self, keyed: Sequence[tuple[str, str]]) -> bool:
        """Whether an earlier request has taken these keys and stored its run."""
        if not keyed or any(key not in self._known for key, _ in keyed):
            return False
        parts = split_job_id(keyed[0][1])
        return parts is not None and await self._store.get_run(parts[0]) is not None

    async def _take_all(self, places: Sequence[int], ids: Sequence[str]) -> None:
        made = self._store.now()
        mine = [
            Document(UNIQUE, self._keys[place], {"job": job, "made": made}, expires=made + self._seconds[place])
            for place, job in zip(places, ids, strict=True)
            if self._keys[place]
        ]
        owners = await asyncio.gather(*(self._take(each) for each in mine))
        self._known.update((each.id, owner) for each, owner in zip(mine, owners, strict=True))

    async def _recall(self) -> list[int] | None:
        """Take in what an earlier request under the same key has planned; the places of the jobs that it makes."""
        document = await self._store.get_document(PLANS, self._plan) if self._plan else None
        if document is None or (document.expires or 0.0) <= self._store.now():
            return None
        if document.data["digest"] != self._digest:
            raise AnotherRequest
        self._known = dict(document.data["known"])
        return list(document.data["places"])

    async def _keep(self, places: Sequence[int]) -> None:
        """Note what is planned, for a repeat."""
        if self._plan:
            data = {"places": list(places), "known": self._known, "digest": self._digest}
            plan = Document(PLANS, self._plan, data, expires=self._store.now() + _PLANNED)
            await self._store.put_documents([plan])

    async def _take(self, mine: Document) -> str:
        while not await self._store.add_document(mine):
            [*found] = await self._store.get_documents(UNIQUE, [mine.id])
            # One that is on its way counts: if each of two requests waited for the other's jobs, none would be stored.
            if found and (found[0].data["job"] == mine.data["job"] or await self._is_valid(found[0]) is not False):
                return str(found[0].data["job"])
            if found and await self._store.replace_document(replace(mine, revision=found[0].revision)):
                break
        return str(mine.data["job"])

    async def _has_come(self, document: Document) -> bool:
        """Whether a key stands for a job, which is waited for a little if it is on its way."""
        for pause in _PAUSES:
            if (is_valid := await self._is_valid(document)) is not None:
                return is_valid
            await asyncio.sleep(pause)
        raise OnItsWay

    async def _is_valid(self, document: Document) -> bool | None:
        """Whether a key stands for a job now: its time is not over, and the job is there; None if it is on its way."""
        now = self._store.now()
        if document.expires is None or document.expires <= now:
            return False
        parts = split_job_id(document.data["job"])
        if parts is None or await self._store.get_run(parts[0]) is not None:
            return True
        return None if now - float(document.data["made"]) < _ON_ITS_WAY else False


def _key_of(user: User, job: JobParams) -> str:
    args, kwargs = canonical(bytes(job.args), b"[]"), canonical(bytes(job.kwargs), b"{}")
    text = b"\0".join((user.id.encode(), job.function.encode(), args, kwargs))
    return hashlib.blake2b(text, digest_size=16).hexdigest()
