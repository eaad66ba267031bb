"""`/admin/alerts/…`: notices that are on their way or were delivered, a test of the way, and webhooks' secrets."""

from __future__ import annotations

from itertools import chain
from typing import Annotated

from msgspec import Meta, Struct

from dts.model import User, new_id
from dts.server.alerts.state import COLLECTION as ALERTS
from dts.server.alerts.state import AlertState, Phase, state_of
from dts.server.handlers._base import DtsHandler, PageQuery, authorized
from dts.server.handlers.declare import declares
from dts.server.handlers.recorded import operation_logger
from dts.server.notify.notice import Notice
from dts.server.notify.outbox import COLLECTION, OF_USERS, LetterState, letter_of
from dts.server.notify.recipients import DEFAULT, check_recipient
from dts.server.notify.secrets import webhook_secret
from dts.server.notify.webhook import check_url

Recipients = Annotated[tuple[str, ...], Meta(max_length=50)]


class AlertView(Struct):
    """An alert: by which rule, about what, since when, and whether people were notified of it, 0 for not yet.

    `title` says what it is, `value` the figure of its last change, `count` how many events it is about.
    """

    id: str
    rule: str
    kind: str
    subject: str
    phase: Phase
    severity: str
    since: float
    title: str
    text: str
    value: float
    count: int
    notified: float
    silenced: bool


class AlertsQuery(PageQuery, forbid_unknown_fields=True, kw_only=True):
    """Which alerts: those that are firing, or those that may become so."""

    phase: Phase = Phase.FIRING


class NoticeView(Struct):
    """A notice for one recipient: what became of it, how often it was tried, and what went wrong last."""

    id: str
    kind: str
    title: str
    to: str
    state: LetterState
    created: float
    attempts: int
    error: str
    done: float


class NoticesQuery(PageQuery, forbid_unknown_fields=True, kw_only=True):
    """Which notices: those in a state."""

    state: LetterState | None = None


class TestParams(Struct, forbid_unknown_fields=True, kw_only=True):
    """Who is to get a notice that tests the way to them."""

    to: Recipients = (DEFAULT,)


class TestView(Struct):
    """The id that the notices of a test begin with, and how many there are."""

    id: str
    notices: int


class SecretQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """The URL of a webhook."""

    url: str


class SecretView(Struct):
    """What the receiver of a webhook verifies signatures with."""

    secret: str


class AlertsAdminHandler(DtsHandler):
    """`/admin/alerts/`: what is the matter now."""

    @authorized
    @declares(answer=list[AlertView], query=AlertsQuery)
    async def get(self, user: User) -> None:
        """Alerts, by rule and subject."""
        query = self.query(AlertsQuery)
        documents = await self.context.store.list_documents(
            ALERTS, group=query.phase.value, after=query.after, limit=query.limit
        )
        self.answer([_shown(document.id, state_of(document)) for document in documents])


def _shown(alert_id: str, state: AlertState) -> AlertView:
    title = state.began or (next(iter(state.samples.values())).text if state.samples else state.kind)
    return AlertView(
        *(alert_id, state.rule, state.kind, state.subject, state.phase, state.severity, state.since, title),
        *(state.text, state.value, state.total, state.notified, state.silenced),
    )


class NoticesAdminHandler(DtsHandler):
    """`/admin/alerts/notices/`: the outbox."""

    @authorized
    @declares(answer=list[NoticeView], query=NoticesQuery)
    async def get(self, user: User) -> None:
        """Notices, newest first."""
        query = self.query(NoticesQuery)
        pages = [
            await self.context.store.list_documents(
                collection,
                group=query.state.value if query.state else None,
                after=query.after,
                limit=query.limit,
                newest_first=True,
            )
            for collection in (COLLECTION, OF_USERS)
        ]
        documents = sorted(chain(*pages), key=lambda document: document.id, reverse=True)[: query.limit]
        letters = [(document.id, letter_of(document)) for document in documents]
        self.answer(
            [
                NoticeView(
                    *(key, letter.notice.kind, letter.notice.title, letter.to, letter.state, letter.created),
                    *(letter.attempts, letter.error, letter.done),
                )
                for key, letter in letters
            ]
        )


class AlertTestAdminHandler(DtsHandler):
    """`/admin/alerts/test`: a notice that tests the way to its recipients."""

    @authorized
    @declares(answer=TestView, body=TestParams, statuses=(201,))
    async def post(self, user: User) -> None:
        """Send a notice to the recipients that are named, or else to those of `[mail] to`."""
        names = [check_recipient(name) for name in self.params(TestParams).to]
        notice_id = new_id()
        count = await self._send(user, notice_id, {"to": names})
        self.answer(TestView(notice_id, count), 201)

    @operation_logger("alerts.test")
    async def _send(self, user: User, notice_id: str, asked: dict[str, list[str]]) -> int:
        notice = Notice(
            notice_id,
            "test",
            "a test of the way that notices take",
            f"{user.id} has asked for it. Nothing is the matter.",
            link=self.context.whole_settings.notify.url,
        )
        return await self.context.outbox.post(notice, asked["to"])


class WebhookSecretAdminHandler(DtsHandler):
    """`/admin/alerts/secret`: what signatures of alerts' webhooks are verified with."""

    @authorized
    @declares(answer=SecretView, query=SecretQuery)
    async def get(self, user: User) -> None:
        """The secret of a URL; of one that alerts are sent to."""
        url = check_url(self.query(SecretQuery).url)
        self.answer(SecretView(webhook_secret(self.context.whole_settings.fleet_key_file, "", url)))


class WebhookSecretHandler(DtsHandler):
    """`/webhooks/secret`: what signatures of one's own webhooks are verified with."""

    @authorized
    @declares(answer=SecretView, query=SecretQuery)
    async def get(self, user: User) -> None:
        """The secret of a URL; of one that the caller's runs notify."""
        url = check_url(self.query(SecretQuery).url)
        self.answer(SecretView(webhook_secret(self.context.whole_settings.fleet_key_file, user.id, url)))
