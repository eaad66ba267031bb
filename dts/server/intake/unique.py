"""`unique`: for some time, a user's job with the same function and arguments is the same job.

What a key stands for is read once for all jobs of a request. A new job takes its key before it is stored, so of several
requests at once one makes the job; a key whose job was never stored, since the server died, is taken over.
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

_ON_ITS_WAY = 30.0
"""Seconds for which a job that is not stored yet is believed to be on its way."""


class UniqueJobs:
    """The jobs of one request, as far as they are unique."""

    def __init__(self, store: Store, user: User, jobs: Sequence[JobParams], functions: Mapping[str, Function]) -> None:
        self._store = store
        self._keys = [_key_of(user, job) if functions[job.function].unique is not None else "" for job in jobs]
        self._seconds = [functions[job.function].unique or 0.0 for job in jobs]
        self._first = {key: place for place, key in reversed(list(enumerate(self._keys))) if key}
        self._known: dict[str, str] = {}

    async def find(self) -> list[int]:
        """Look up which jobs there are; returns the places of those that are to be made, each once.

        Raises:
            StoreUnavailable: nobody can tell.
        """
        found = await self._store.get_documents(UNIQUE, {key for key in self._keys if key})
        for document in found:
            if await self._is_valid(document):
                self._known[document.id] = document.data["job"]
        places = enumerate(self._keys)
        return [place for place, key in places if not key or (key not in self._known and self._first[key] == place)]

    async def take(self, places: Sequence[int], ids: Sequence[str]) -> set[str]:
        """Take the keys of jobs that are about to be stored; ids of those that another request was faster with.

        Raises:
            StoreUnavailable: some may be taken; they are free again in half a minute.
        """
        made = self._store.now()
        mine = [
            Document(UNIQUE, self._keys[place], {"job": job, "made": made}, expires=made + self._seconds[place])
            for place, job in zip(places, ids, strict=True)
            if self._keys[place]
        ]
        owners = await asyncio.gather(*(self._take(each) for each in mine))
        self._known.update((each.id, owner) for each, owner in zip(mine, owners, strict=True))
        return {each.data["job"] for each, owner in zip(mine, owners, strict=True) if owner != each.data["job"]}

    def ids(self, places: Sequence[int], ids: Sequence[str]) -> list[str]:
        """The ids of all jobs of the request; `ids` are those that were made, for the jobs at `places`."""
        made = dict(zip(places, ids, strict=True))
        return [self._known[key] if key else made[place] for place, key in enumerate(self._keys)]

    async def _take(self, mine: Document) -> str:
        while not await self._store.add_document(mine):
            [*found] = await self._store.get_documents(UNIQUE, [mine.id])
            if found and await self._is_valid(found[0]):
                return str(found[0].data["job"])
            if found and await self._store.replace_document(replace(mine, revision=found[0].revision)):
                break
        return str(mine.data["job"])

    async def _is_valid(self, document: Document) -> bool:
        """Whether a key stands for a job now: its time is not over, and the job is there, or on its way."""
        now = self._store.now()
        if document.expires is None or document.expires <= now:
            return False
        parts = split_job_id(document.data["job"])
        if now - float(document.data["made"]) < _ON_ITS_WAY or parts is None:
            return True
        return await self._store.get_run(parts[0]) is not None


def _key_of(user: User, job: JobParams) -> str:
    args, kwargs = canonical(bytes(job.args), b"[]"), canonical(bytes(job.kwargs), b"{}")
    text = b"\0".join((user.id.encode(), job.function.encode(), args, kwargs))
    return hashlib.blake2b(text, digest_size=16).hexdigest()
