"""Limits of users, namespaces and functions, enforced where jobs come in.

What a limit says is read from records that are at most two seconds old. Requests and unfinished jobs are counted in the
store, for all processes together, and only for those who have such a limit. How many jobs run at once is the business
of the dispatcher and the gate.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from dts.errors import DtsError, TooLarge
from dts.model import Function, User
from dts.server.access.parties import Subject
from dts.server.lookup.catalogue import Catalogue
from dts.store import Store

_RETRY_UNFINISHED = 1
"""Seconds until it is worth while to try again when there are too many unfinished jobs: nobody knows when they end."""


SMALLEST_BLOCK = 64
"""Jobs in the largest block of a run at least, when limits are no longer what they were when it was opened.

With blocks of one job a file takes twenty times as long.
"""

_LONGEST_WAIT = 60
"""Seconds that a client is asked to wait at most: the limit may be raised meanwhile."""


class OverLimit(DtsError):
    """A limit is exceeded; which, and in how many seconds to try again."""

    def __init__(self, limit: str, allowed: float, retry_after: int) -> None:
        super().__init__(f"over the limit of {limit} ({allowed:g}): try again in {retry_after} s")
        self.limit = limit
        self.retry_after = retry_after


class Limiter:
    """Says no to what is over a limit."""

    def __init__(self, store: Store, catalogue: Catalogue) -> None:
        self._store = store
        self._catalogue = catalogue
        self._arriving: Counter[tuple[str, str]] = Counter()

    async def take_request(self, user: User) -> None:
        """Count a request of a user's.

        Raises:
            OverLimit: it is one too many.
            StoreUnavailable: nobody can tell.
        """
        if user.limits.requests_per_second is not None:
            await self._take(Subject("user", user.id, user.limits))

    async def block_size(self, user: User, function: Function, size: int) -> int:
        """By how many jobs the blocks of a new run are numbered: as many as usual, or as the tightest limit lets in.

        It holds for the whole run, however long the limit does: so it is SMALLEST_BLOCK at least, if `size` is.

        Raises:
            OverLimit: a limit lets nothing in now.
        """
        for subject in await self._subjects(user, function):
            if subject.limits.unfinished == 0:
                raise OverLimit(f"{subject}: unfinished", 0, _RETRY_UNFINISHED)
        return max(min(size, SMALLEST_BLOCK), await self.block_jobs(user, function, size))

    async def block_jobs(self, user: User, function: Function, size: int) -> int:
        """How many jobs the next block of a run may have: `size`, or fewer if the tightest limit lets in fewer now."""
        limits = [subject.limits.unfinished for subject in await self._subjects(user, function)]
        return max(1, min([size, *(limit for limit in limits if limit is not None)]))

    @asynccontextmanager
    async def jobs(
        self, user: User, jobs: Sequence[tuple[Function, int]], *, divisible: bool = True
    ) -> AsyncIterator[None]:
        """Let jobs of these functions in, so many of each; to be held until they are in the store.

        Jobs that are not `divisible`, a block that was cut before the limit was lowered, are let in when there are no
        others: they would wait for ever.

        Raises:
            OverLimit: they would be more than a limit allows now.
            TooLarge: they are more than a limit allows even if there are no others.
        """
        subjects: dict[tuple[str, str], tuple[Subject, int]] = {}
        for function, count in jobs:
            for subject in await self._subjects(user, function):
                key = (subject.kind, subject.id)
                subjects[key] = (subject, count + (subjects[key][1] if key in subjects else 0))
        limited = [each for each in subjects.values() if each[0].limits.unfinished is not None]
        before = [self._arriving[subject.kind, subject.id] for subject, _ in limited]
        for subject, count in limited:
            self._arriving[subject.kind, subject.id] += count
        try:
            for (subject, count), others in zip(limited, before, strict=True):
                await self._check_unfinished(subject, count, others, divisible=divisible)
            for subject, _ in subjects.values():  # last: what is refused uses up nobody's rate
                if subject.kind != "user" and subject.limits.requests_per_second is not None:
                    await self._take(subject)
            yield
        finally:
            for subject, count in limited:
                self._arriving[subject.kind, subject.id] -= count
                if not self._arriving[subject.kind, subject.id]:
                    del self._arriving[subject.kind, subject.id]

    async def _check_unfinished(self, subject: Subject, count: int, others: int, *, divisible: bool) -> None:
        """`others` are the jobs that are on their way into the store already, with requests that came before."""
        allowed = subject.limits.unfinished or 0
        if divisible and count > allowed:
            how = "send fewer in a request" if allowed else "an administrator can raise it"
            raise TooLarge(f"{subject}: unfinished allows {allowed} jobs, and these are {count} in one request: {how}")
        there = others + await self._store.count_unfinished(**{subject.kind: subject.id})
        alone = not divisible and not there and allowed
        if there + count > allowed and not alone:
            raise OverLimit(f"{subject}: unfinished", allowed, _RETRY_UNFINISHED)

    async def _subjects(self, user: User, function: Function) -> list[Subject]:
        subjects = [Subject("user", user.id, user.limits), Subject("function", function.name, function.limits)]
        namespace = await self._catalogue.namespace(function.namespace)
        if namespace is not None:
            subjects.append(Subject("namespace", namespace.id, namespace.limits))
        return subjects

    async def _take(self, subject: Subject) -> None:
        rate = subject.limits.requests_per_second or 0.0
        if wait := await self._store.take_token(str(subject), rate=rate):
            raise OverLimit(f"{subject}: requests_per_second", rate, min(_LONGEST_WAIT, max(1, math.ceil(wait))))
