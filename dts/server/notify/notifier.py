"""Delivers what is in the outbox: takes letters that are due, and sends them beside each other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial

import msgspec

from dts.config import Settings
from dts.errors import ConfigError, StoreUnavailable
from dts.model import Document
from dts.runtime.backoff import Backoff
from dts.runtime.log_throttle import OutageLog
from dts.runtime.service import Service
from dts.server.notify.errors import NotDelivered, Undeliverable
from dts.server.notify.notice import Notice
from dts.server.notify.outbox import COLLECTION, OF_USERS, Letter, LetterState, Outbox, document_of, letter_of
from dts.server.notify.recipients import DEFAULT
from dts.server.notify.secrets import webhook_keys
from dts.server.notify.smtp import SmtpSender
from dts.server.notify.webhook import WebhookSender
from dts.store import Store

logger = logging.getLogger(__name__)

_AT_ONCE = {COLLECTION: 8, OF_USERS: 4}
"""Letters that are on their way at a time: one slow receiver must not keep the others waiting."""

_CLAIM = 120.0
"""Seconds for which a letter is taken: more than a mail takes at its slowest. A process that dies delays it by that."""

_LOOK_EVERY = 2.0
"""Seconds between looks for letters that are due, and for those that other processes have posted."""

_LAST_ANSWERS = 20.0
"""Seconds that letters which are on their way get to end when the process is stopped."""

_STORE_PAUSES = (0.1, 5.0)


class Taken(Exception):
    """Another process has the letter now: this one took too long."""


class Notifier(Service):
    """Posts notices and delivers them. Several may run at once, in any process: each letter is sent by one."""

    def __init__(
        self, store: Store, settings: Settings, *, first_pause: float = 15.0, last_pause: float = 3600.0
    ) -> None:
        super().__init__()
        self._store = store
        self._settings = settings
        self._outbox = Outbox(store, settings)
        self._smtp = SmtpSender(settings.mail)
        self._webhooks = WebhookSender(settings.notify, partial(webhook_keys, settings.fleet_key_file))
        self._pauses = first_pause, last_pause
        self._outage = OutageLog(logger, 60.0)
        self._wake = asyncio.Event()
        self._under_way: dict[asyncio.Task[None], str] = {}

    async def _start(self) -> None:
        self._stack.callback(self._webhooks.close)
        self._stack.push_async_callback(self._finish)
        self._spawn(self._deliver(), "notifier")

    async def post(self, notice: Notice, recipients: Iterable[str] = (DEFAULT,), *, owner: str = "") -> None:
        """Put a notice into the outbox and have it delivered soon; without any recipient it is logged.

        Raises:
            StoreUnavailable: it may be in for some. It is safe to repeat.
        """
        names = tuple(recipients) or (DEFAULT,)
        if not self._settings.mail.to and names == (DEFAULT,):
            logger.warning("%s\n%s", notice.subject, notice.as_text())
        elif await self._outbox.post(notice, names, owner=owner):
            self._wake.set()

    async def send_directly(self, notice: Notice) -> None:
        """Mail a notice to those in `[mail] to` past the outbox, for when the store is away; failures are logged."""
        logger.error("%s\n%s", notice.subject, notice.as_text())
        for address in self._settings.mail.to if self._settings.mail.host else ():
            try:
                await self._smtp.send(notice, address, _nothing)
            except (NotDelivered, Undeliverable) as error:
                logger.error("the notice %s for %s was not delivered: %s", notice.subject, address, error)

    async def _deliver(self) -> None:
        while True:
            try:
                for collection, most in _AT_ONCE.items():
                    await self._take(collection, most - [*self._under_way.values()].count(collection))
                self._outage.worked("the outbox can be read again")
            except StoreUnavailable as error:
                self._outage.failed("the outbox cannot be read, notices wait until it can be: %s", error)
            await self._next_look()

    async def _take(self, collection: str, most: int) -> None:
        """Begin to deliver letters of a collection that are due, if there may be more of them on their way."""
        if most <= 0:
            return
        for document in await self._store.claim_documents(collection, seconds=_CLAIM, limit=most):
            task = asyncio.create_task(self._handle(document), name=f"notice-{document.id}")
            self._under_way[task] = collection
            task.add_done_callback(self._ended)

    async def _next_look(self) -> None:
        """Wait until something was posted or has ended, or for a while."""
        self._wake.clear()
        try:
            async with asyncio.timeout(_LOOK_EVERY):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task, None)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a notice could not be handled; it is tried again in %.0f s", _CLAIM, exc_info=error)

    async def _finish(self) -> None:
        """Let letters that are on their way arrive, so that nobody has to wonder whether they did."""
        if self._under_way:
            _, late = await asyncio.wait(set(self._under_way), timeout=_LAST_ANSWERS)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def _handle(self, document: Document) -> None:
        """Send one letter and note what became of it."""
        letter = letter_of(document)
        if letter.state is LetterState.SENDING:
            logger.warning(
                "the notice %s for %s was being sent when its process died: it may have arrived, and is not sent again",
                letter.notice.subject,
                _shown(letter),
            )
            await self._note(document, letter, LetterState.UNCONFIRMED, "the process died while it was sending")
            return
        on_its_way = _OnItsWay(self._store, document, letter)
        try:
            await self._send(letter, on_its_way.mark)
        except Taken:
            return
        except Undeliverable as error:
            logger.error("the notice %s for %s cannot be delivered: %s", letter.notice.subject, _shown(letter), error)
            await self._note(on_its_way.document, on_its_way.letter, LetterState.FAILED, str(error))
        except (NotDelivered, ConfigError) as error:
            await self._try_later(on_its_way.document, on_its_way.letter, str(error))
        else:
            await self._note(on_its_way.document, on_its_way.letter, LetterState.SENT, "")

    async def _send(self, letter: Letter, mark: Callable[[], Awaitable[None]]) -> None:
        if not letter.is_mail:
            await self._webhooks.send(letter.notice, letter.to, letter.owner, mark)
        elif self._settings.mail.host:
            await self._smtp.send(letter.notice, letter.to, mark)
        else:
            logger.warning("%s (for %s)\n%s", letter.notice.subject, letter.to, letter.notice.as_text())
            raise Undeliverable("no mail server is configured: set [mail] host")

    async def _try_later(self, document: Document, letter: Letter, error: str) -> None:
        backoff = Backoff(*self._pauses)
        pause = [backoff.next_pause() for _ in range(min(letter.attempts, 64) + 1)][-1]
        now = self._store.now()
        if now + pause > letter.created + self._settings.notify.give_up_after:
            logger.error(
                "the notice %s for %s was tried %d times and is given up: %s",
                *(letter.notice.subject, _shown(letter), letter.attempts + 1, error),
            )
            await self._note(document, letter, LetterState.FAILED, error)
            return
        level = logging.WARNING if letter.attempts == 0 else logging.INFO
        logger.log(
            level,
            "the notice %s for %s is not delivered yet, trying again in %.0f s: %s",
            *(letter.notice.subject, _shown(letter), pause, error),
        )
        await self._note(document, letter, LetterState.WAITING, error, due=now + pause)
        asyncio.get_running_loop().call_later(pause + 0.01, self._wake.set)

    async def _note(
        self, document: Document, letter: Letter, state: LetterState, error: str, *, due: float | None = None
    ) -> None:
        """Note what became of a letter, however long the store is away: nobody else may think that it still waits."""
        done = self._store.now() if due is None else 0.0
        noted = msgspec.structs.replace(letter, state=state, error=error, attempts=letter.attempts + 1, done=done)
        backoff = Backoff(*_STORE_PAUSES)
        while True:
            try:
                await self._store.replace_document(document_of(document, noted, due=due))
            except StoreUnavailable:
                await backoff.wait()
            else:
                return


class _OnItsWay:
    """A letter as it is in the store, before and after it was marked as being sent."""

    def __init__(self, store: Store, document: Document, letter: Letter) -> None:
        self._store = store
        self.document = document
        self.letter = letter

    async def mark(self) -> None:
        """Mark the letter as being sent.

        Raises:
            Taken: another process has it.
            NotDelivered: the store is away: it is not to be sent now.
        """
        marked = msgspec.structs.replace(self.letter, state=LetterState.SENDING)
        document = document_of(self.document, marked, due=self._store.now() + _CLAIM)
        try:
            stored = await self._store.replace_document(document)
        except StoreUnavailable as error:
            raise NotDelivered(f"the store is away: {error}") from error
        if not stored:
            raise Taken
        self.document = replace(document, revision=document.revision + 1)
        self.letter = marked


async def _nothing() -> None:
    """There is nothing to note."""


def _shown(letter: Letter) -> str:
    """A recipient as the log may name it: without the path of a URL, which may hold a token."""
    return letter.to if letter.is_mail else "/".join(letter.to.split("/")[:3])
