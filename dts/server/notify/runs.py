"""Notices of runs that have finished: who asked for one with the run gets it, once."""

from __future__ import annotations

from collections.abc import Iterable

from dts.config import Settings
from dts.errors import InvalidInput
from dts.model import Document, Run, User
from dts.server.notify.notice import Notice
from dts.server.notify.outbox import Outbox
from dts.server.notify.recipients import check_recipient
from dts.store import Store

COLLECTION = "run_notices"

MYSELF = "me"
"""The user's own mail address, as it is when the run has finished."""

_KEEP = 366 * 86400.0
"""Seconds for which it is kept who is to be notified of a run: nobody waits longer for one to finish."""

_FREE = frozenset({"administrator", "operator"})
"""The roles that may have notices sent to whomever they like: anybody else could have DTS send mail to strangers."""


def own_recipients(user: User, names: Iterable[str]) -> list[str]:
    """The recipients that a user may name for a run.

    Raises:
        InvalidInput: one is none, or not one of theirs.
    """
    found = []
    for given in names:
        name = check_recipient(f"user:{user.id}" if given == MYSELF else given)
        own = "://" in name or name == f"user:{user.id}" or (name == user.email and not user.disabled)
        if not own and not user.roles & _FREE:
            raise InvalidInput(
                f"notify: {user.id} may name {MYSELF}, their own mail address, or a URL, not {name[:80]!r}"
            )
        found.append(name)
    return found


async def notify_at_end(store: Store, run: Run, recipients: Iterable[str]) -> None:
    """Note whom to notify when a run has finished; before the run is made, and `follow_up` must be set in it.

    Raises:
        StoreUnavailable: it may be noted.
    """
    data = {"to": list(recipients)}
    await store.put_documents([Document(COLLECTION, run.id, data, expires=store.now() + _KEEP)])


class RunNotices:
    """Posts the notices of runs that have finished."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._outbox = Outbox(store, settings)
        self._url = settings.notify.url

    async def follow(self, run: Run) -> None:
        """Post the notices of a run that has finished, if anybody asked for one; safe to repeat.

        Raises:
            StoreUnavailable: they may be posted.
        """
        asked = await self._store.get_document(COLLECTION, run.id)
        if asked is not None and run.finished is not None:
            await self._outbox.post(notice_of(run, "finished", self._url), asked.data["to"], owner=run.user)


def notice_of(run: Run, suffix: str, url: str) -> Notice:
    """The notice that a run has finished; its id is that of the run with a suffix."""
    assert run.finished is not None
    end = run.finished
    counts = {"total": end.total, "succeeded": end.succeeded, "failed": end.failed, "cancelled": end.cancelled}
    outcome = "cancelled" if end.cancelled else f"{end.failed} of {end.total} jobs failed" if end.failed else "all well"
    return Notice(
        f"{run.id}.{suffix}",
        "run.finished",
        f"{run.function or 'jobs'}: run finished, {outcome}",
        f"run {run.id} of {run.user}\n" + ", ".join(f"{count} {name}" for name, count in counts.items()),
        run.function,
        run.created,
        f"{url}/runs/{run.id}" if url else "",
        {"run": run.id, "function": run.function, "user": run.user, "finished_at": end.time, "counts": counts},
    )
