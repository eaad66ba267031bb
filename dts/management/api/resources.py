"""What an administrator works with, each a small namespace of AdminClient: users, operations, runs, dead letters…

Lists are asynchronous iterators that fetch a page when it is needed, so that a long one starts at once and never is
in memory as a whole.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, cast
from urllib.parse import quote

from dts.client.transport import Transport
from dts.errors import InvalidInput, RequestRefused

Record = dict[str, Any]
"""A record as the server shows it."""

Changes = Mapping[str, object]

PAGE = 500
"""Rows that are fetched in one request."""

ATTEMPTS = 12
"""How often an update is made anew when somebody else was faster."""

_FIRST_PAUSE = 0.02  # seconds before the second attempt, at most: about what an update takes
_LONGEST_PAUSE = 1.0  # seconds

VERIFY_TIMEOUT = 1800.0
"""Seconds that the server may take to go through the whole operation log: some 10,000 entries a second."""

_OUTDATED = 412
_WRITE_ONLY = frozenset({"secret", "grace", "ssh_key", "ssh_pem_cert", "ssh_passphrase"})
"""Fields that are never read back, so nobody can tell whether somebody else has changed them."""


class Listing:
    """A list at the server. `key` is the field by which it is paged."""

    def __init__(self, transport: Transport, path: str, *, key: str = "id") -> None:
        self._transport = transport
        self._path = path
        self._key = key

    async def pages(
        self, *, limit: int | None = None, after: object = None, **filters: object
    ) -> AsyncIterator[list[Record]]:
        """Pages of rows, `limit` rows at most in all; None is all of them. Filters are plain fields.

        Raises:
            RequestRefused: the server refused it, such as an unknown filter.
            ServerUnavailable: it was given up.
        """
        query = {name: _in_query(value) for name, value in filters.items() if value is not None}
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            query["limit"] = str(size)
            if after is not None:
                query["after"] = str(after)
            page = cast(list[Record], await self._transport.call("GET", self._path, query=query))
            if page:
                yield page
            if len(page) < size:
                return
            after = page[-1][self._key]
            left = None if left is None else left - len(page)

    async def list(self, *, limit: int | None = None, after: object = None, **filters: object) -> AsyncIterator[Record]:
        """The rows one by one, see `pages`."""
        async for page in self.pages(limit=limit, after=after, **filters):
            for row in page:
                yield row


class Gettable(Listing):
    """A list whose rows can be read one by one."""

    async def get(self, row_id: str) -> Record:
        """One row.

        Raises:
            RequestRefused: there is none (status 404), or it is not the caller's to see (403).
            ServerUnavailable: it was given up.
        """
        return cast(Record, await self._transport.call("GET", _place(self._path, row_id)))


class Records(Gettable):
    """Records that are made, changed and deleted: users, namespaces, functions, vhosts or schedules.

    A write is not repeated when its answer is lost: ServerUnavailable then says that it may have happened.
    """

    async def add(self, record_id: str, *, force: bool = False, **fields: object) -> Record:
        """Make a record; returns it as stored. With `force` a user gets the runs of one who was deleted.

        Raises:
            RequestRefused: it exists already, or there are runs of a user who had that id (409), a field is wrong
                (400), or the caller may not (403).
        """
        params, query = {"id": record_id, **fields}, {"force": "true"} if force else None
        return cast(Record, await self._transport.call("POST", self._path, params, query=query, repeatable=False))

    async def update(self, record_id: str, **changes: object) -> Record:
        """Change fields of a record; returns it as stored.

        The change applies to the version that was read first. When somebody else was faster, it is made anew only
        if they changed other fields than these.

        Raises:
            RequestRefused: there is no such record (404), a field is wrong (400), or somebody else has changed the
                same field meanwhile (412).
        """
        seen = await self.get(record_id)
        for attempt in range(ATTEMPTS):
            try:
                return await self._patch(record_id, changes, seen)
            except RequestRefused as error:
                if error.status != _OUTDATED:
                    raise
            await _give_way(attempt)
            now = await self.get(record_id)
            _check_untouched(record_id, changes, seen, now)
            seen = now
        raise _too_busy(record_id)

    async def modify(self, record_id: str, change: Callable[[Record], Changes]) -> Record:
        """Change a record by a function from what it is to the fields that change; returns it as stored.

        When somebody else was faster the function is called again with what they left, so `change` may be called
        several times and should do nothing else. No changes make no request.

        Raises:
            RequestRefused: there is no such record (404), a field is wrong (400), or others are faster each time (412).
        """
        for attempt in range(ATTEMPTS):
            seen = await self.get(record_id)
            changes = change(seen)
            if not changes:
                return seen
            try:
                return await self._patch(record_id, changes, seen)
            except RequestRefused as error:
                if error.status != _OUTDATED:
                    raise
            await _give_way(attempt)
        raise _too_busy(record_id)

    async def delete(self, record_id: str, *, force: bool = False, version: int | None = None) -> None:
        """Delete a record, with `force` even if it is in use; with `version` only if it still is that one.

        Raises:
            RequestRefused: there is none (404), it is in use (409), or it has another version (412).
        """
        query = {"force": "true"} if force else None
        headers = None if version is None else {"If-Match": f'"{version}"'}
        await self._transport.call(
            "DELETE", _place(self._path, record_id), query=query, headers=headers, repeatable=False
        )

    async def _patch(self, record_id: str, changes: Changes, seen: Record) -> Record:
        headers = {"If-Match": f'"{seen["version"]}"'}
        place = _place(self._path, record_id)
        return cast(Record, await self._transport.call("PATCH", place, changes, headers=headers, repeatable=False))


class Schedules(Records):
    """Schedules: what is submitted at given times."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/admin/schedules/")

    async def fire(self, schedule_id: str) -> Record:
        """Fire a schedule now, whatever its times; returns the firing, with its `run`.

        Raises:
            RequestRefused: there is no such schedule (404), or its user may not run its function now (403).
        """
        path = _place(self._path, schedule_id) + "/fire"
        return cast(Record, await self._transport.call("POST", path, repeatable=False))

    def firings(self, schedule_id: str) -> Listing:
        """The history of a schedule, newest first."""
        return Listing(self._transport, _place(self._path, schedule_id) + "/firings")


class Operations(Gettable):
    """The operation log, newest first unless `order="oldest"` is given."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/admin/operations/", key="seq")

    async def verify(self) -> Record:
        """What the server finds when it recomputes every hash: `valid`, `entries`, `last`, `faults`.

        Its answer is waited for as long as it takes, up to VERIFY_TIMEOUT; a server that cannot be reached is not.
        """
        return cast(Record, await self._transport.call("GET", f"{self._path}verify", wait=VERIFY_TIMEOUT))


class Runs(Gettable):
    """Runs of everybody, newest first; or the caller's own. Those of single jobs are listed with `all=True` only."""

    def __init__(self, transport: Transport, *, own: bool = False) -> None:
        super().__init__(transport, "/runs/" if own else "/admin/runs/")

    async def cancel(self, run_id: str) -> Record:
        """Cancel what has not ended of a run; returns the run.

        Raises:
            RequestRefused: there is no such run (404).
        """
        return cast(Record, await self._transport.call("DELETE", _place(self._path, run_id)))

    async def requeue(self, run_id: str) -> Record:
        """Publish again what has not ended of anybody's run and nobody is at; `jobs` and `blocks` tell how many.

        Raises:
            RequestRefused: there is no such run (404), or it is paused or cancelled (409).
        """
        path = _place("/admin/runs/", run_id) + "/requeue"
        return cast(Record, await self._transport.call("POST", path))

    async def retry(self, run_id: str, *, version: str = "") -> Record:
        """Run the failed jobs of anybody's run again; `run` is the id of the new run, `jobs` how many they are.

        Raises:
            RequestRefused: there is no such run (404), or none of its jobs has failed (409).
        """
        path = _place("/admin/runs/", run_id) + "/retry"
        return cast(Record, await self._transport.call("POST", path, {"version": version}))


class Jobs:
    """Single jobs of everybody; or the caller's own. They are found by their ids alone."""

    def __init__(self, transport: Transport, *, own: bool = False) -> None:
        self._transport = transport
        self._path = "/jobs/" if own else "/admin/jobs/"

    async def get(self, job_id: str) -> Record:
        """A job.

        Raises:
            RequestRefused: there is no such job (404).
        """
        return cast(Record, await self._transport.call("GET", _place(self._path, job_id)))

    async def cancel(self, job_id: str) -> Record:
        """Cancel a job; returns it.

        Raises:
            RequestRefused: there is no such job (404), or it has ended (409).
        """
        return cast(Record, await self._transport.call("DELETE", _place(self._path, job_id)))


class Hosts:
    """The last heartbeat of every worker, by host; there are few enough for one answer."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def pages(self, **filters: object) -> AsyncIterator[list[Record]]:
        """All rows at once; filters are `host` and `since` (seconds since the epoch)."""
        query = {name: _in_query(value) for name, value in filters.items() if value is not None}
        yield cast(list[Record], await self._transport.call("GET", "/admin/hosts/", query=query))

    async def history(self, host: str, **query: object) -> Record:
        """How a host was: `resolution` and `rows`; `since` and `until` in seconds since the epoch, `resolution`.

        Raises:
            RequestRefused: an argument is wrong (400), or the caller may not see it (403).
        """
        plain = {name: _in_query(value) for name, value in query.items() if value is not None}
        path = f"/admin/hosts/{quote(host, safe='')}/history"
        return cast(Record, await self._transport.call("GET", path, query=plain))

    async def list(self, **filters: object) -> AsyncIterator[Record]:
        """The rows one by one, see `pages`."""
        async for page in self.pages(**filters):
            for row in page:
                yield row


class Dead(Listing):
    """Messages that nobody could handle."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/admin/dead/")

    async def replay(self, *, everything: bool = False, **where: str) -> Record:
        """Replay the letters that match all of `where` (id, queue, reason, function, run), or everything.

        Returns:
            `replayed` (letters), `jobs`, `runs` (ids of the new runs) and `skipped`.

        Raises:
            InvalidInput: neither a condition nor `everything` is given.
        """
        if not where and not everything:
            raise InvalidInput("a replay needs a condition, or everything=True")
        params: Record = {"where": where, "all": True} if everything else {"where": where}
        return cast(Record, await self._transport.call("POST", f"{self._path}replay", params, repeatable=False))


def _place(path: str, row_id: str) -> str:
    """The path of one row of a list.

    Raises:
        InvalidInput: an id that would name another place.
    """
    if any(part in ("", ".", "..") for part in row_id.split("/")):
        raise InvalidInput(f"{row_id[:80]!r} is not an id")
    return path + row_id


def _check_untouched(record_id: str, changes: Changes, seen: Record, now: Record) -> None:
    """Make sure that applying `changes` to `now` overwrites nothing that was changed since `seen`."""
    lost = [name for name in changes if name in _WRITE_ONLY or seen.get(name) != now.get(name)]
    if lost:
        raise RequestRefused(
            f"somebody else has changed {record_id} meanwhile (version {seen['version']} is now {now['version']}), "
            f"perhaps {', '.join(lost)}, too: nothing was changed; look at it and try again",
            status=_OUTDATED,
            code="version_mismatch",
        )


async def _give_way(attempt: int) -> None:
    """Let others finish: those who try at the same time again and again would be in each other's way for ever."""
    await asyncio.sleep(random.uniform(0.0, min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE)))


def _too_busy(record_id: str) -> RequestRefused:
    message = f"{record_id} changes all the time: nothing was changed in {ATTEMPTS} attempts; try again"
    return RequestRefused(message, status=_OUTDATED, code="version_mismatch")


def _in_query(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
