"""The outbox: notices in the store, one document for each recipient, until they are delivered.

A notice's documents have ids that follow from the event and the recipient, so an event that is posted twice, as after
a crash, is one notice. What cannot be delivered is tried again, less and less often, for days; then it is kept as
failed, where operators see it.

A letter goes through these states:

    waiting ──▶ sending ──▶ sent
       ▲           ├──────▶ failed        refused for good, or tried for too long
       └───────────┴──────▶ unconfirmed   the process died while it was sending

`sending` is written just before the text goes out, when the mail server has accepted the recipient. So whoever finds a
letter that is waiting may send it, and a letter that a dead process left as `sending` may have arrived: it is not sent
again, since a notice that comes twice costs trust in all others, but kept as unconfirmed and logged. The price is a
notice that is lost if the process is killed in the moment between that write and the last byte. While the sender lives,
it sends a letter again whose receiver did not answer: with the same Message-ID or webhook-id, by which receivers tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum
from hashlib import blake2b

import msgspec

from dts.config import Settings
from dts.model import Document
from dts.server.notify.notice import Notice
from dts.server.notify.recipients import DEFAULT, resolve
from dts.store import Store

COLLECTION = "outbox"

OF_USERS = "outbox_users"
"""The collection of letters to webhooks that users have named: slow ones keep no administrator's letter waiting."""

_KEEP = 30 * 86400.0
"""Seconds for which a letter is kept once nothing more is done about it: also for which a repeated event is known."""


class LetterState(StrEnum):
    """What became of a letter."""

    WAITING = "waiting"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    UNCONFIRMED = "unconfirmed"


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A notice for one recipient. `owner` is the user whose webhook it is, empty for the administrators'."""

    notice: Notice
    to: str
    owner: str = ""
    state: LetterState = LetterState.WAITING
    created: float = 0.0
    attempts: int = 0
    error: str = ""
    done: float = 0.0

    @property
    def is_mail(self) -> bool:
        """Whether it goes by mail, and not to a webhook."""
        return "://" not in self.to


class Outbox:
    """Takes notices to be delivered."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._mail = settings.mail

    async def post(self, notice: Notice, recipients: Iterable[str] = (DEFAULT,), *, owner: str = "") -> int:
        """Put a notice in, durably, for each recipient that has none of this id yet; returns for how many.

        Raises:
            StoreUnavailable: it may be in for some.
        """
        now, posted = self._store.now(), 0
        for to in await resolve(self._store, self._mail, recipients):
            digest = blake2b(to.encode(errors="surrogatepass"), digest_size=8).hexdigest()
            letter = Letter(notice=notice, to=to, owner=owner, created=now)
            collection = OF_USERS if owner and not letter.is_mail else COLLECTION
            document = document_of(Document(collection, f"{notice.id}.{digest}", {}, due=now), letter)
            posted += await self._store.add_document(document)
        return posted


def document_of(document: Document, letter: Letter, *, due: float | None = None) -> Document:
    """A document with a letter in it; with `due`, to be taken up then."""
    ended = letter.state in (LetterState.SENT, LetterState.FAILED, LetterState.UNCONFIRMED)
    return replace(
        document,
        data=msgspec.to_builtins(letter),
        group=letter.state.value,
        due=None if ended else document.due if due is None else due,
        expires=letter.done + _KEEP if ended else None,
    )


def letter_of(document: Document) -> Letter:
    """The letter in a document."""
    return msgspec.convert(document.data, Letter)
