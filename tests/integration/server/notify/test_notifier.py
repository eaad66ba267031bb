"""Notices reach people and programs: over a real mail server and a real webhook receiver, and none of them twice."""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dts.config import Settings, load_settings
from dts.model import User
from dts.server.notify.notice import Notice
from dts.server.notify.notifier import Notifier
from dts.server.notify.outbox import COLLECTION, OF_USERS, LetterState, letter_of
from dts.server.notify.secrets import webhook_secret
from dts.store import Store, open_store
from tests.services.receivers import MailServer, a_certificate, mail_server, webhook_receiver
from tests.services.waiting import until, within

NOTICE = Notice("event-1", "alert.began", "disk of a <b> at 97 %", "line 1\nline 2", "host a", 1e9, "https://d/x")
KEY = "k" * 64


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        yield store


def the_settings(tmp_path: Path, mail: MailServer | None = None, **notify: Any) -> Settings:
    (tmp_path / "fleet.key").write_text(KEY + "\n")
    sections: dict[str, Any] = {"fleet": {"key_file": str(tmp_path / "fleet.key")}, "notify": notify}
    if mail is not None:
        sections["mail"] = {
            "host": "127.0.0.1",
            "port": mail.port,
            "sender": "dts@example.com",
            "to": ["ann@example.com"],
        }
    return load_settings(None, environment={}, flags=sections)


def a_notifier(store: Store, settings: Settings) -> Notifier:
    return Notifier(store, settings, first_pause=0.02, last_pause=0.05)


@asynccontextmanager
async def notifying(store: Store, settings: Settings) -> AsyncIterator[Notifier]:
    async with a_notifier(store, settings) as notifier:
        yield notifier


async def all_are(store: Store, state: LetterState, count: int) -> list[str]:
    """Wait until there are so many letters, all in a state; their errors."""
    async with within():
        while True:
            documents = await store.list_documents(COLLECTION) + await store.list_documents(OF_USERS)
            letters = [letter_of(document) for document in documents]
            if len(letters) == count and {letter.state for letter in letters} == {state}:
                return [letter.error for letter in letters]
            await asyncio.sleep(0.01)


async def test_a_mail_says_what_and_where_in_text_and_html_and_a_repeat_of_its_event_sends_nothing(
    tmp_path: Path, store: Store
) -> None:
    async with mail_server() as mail, notifying(store, the_settings(tmp_path, mail)) as notifier:
        await notifier.post(NOTICE)
        await notifier.post(NOTICE)
        await notifier.post(replace(NOTICE, id="event-2", title="a second\nevent"))
        await all_are(store, LetterState.SENT, 2)
    assert sorted(mail.subjects) == ["[DTS] a second event", "[DTS] disk of a <b> at 97 %"]
    [first] = [each for each in mail.mails if "disk" in each["Subject"]]
    text, page = (part.get_content().replace("\r\n", "\n") for part in first.iter_parts())
    assert "line 2" in text
    assert "Where: host a\nSince: 2001-09-09 01:46:40 UTC\nLink: https://d/x" in text
    assert "disk of a &lt;b&gt; at 97 %" in page
    assert '<a href="https://d/x">' in page


async def test_groups_are_those_who_are_in_them_when_it_is_posted(tmp_path: Path, store: Store) -> None:
    for name, fields in {
        "op1": {"roles": frozenset({"operator"}), "email": "op1@example.com"},
        "op2": {"roles": frozenset({"operator"}), "email": "op2@example.com", "disabled": True},
        "op3": {"roles": frozenset({"operator"})},
        "dev": {"namespaces": ("crm",), "email": "dev@example.com"},
    }.items():
        await store.add_user(replace(User(name, b"k"), **fields))  # type: ignore[arg-type]
    async with mail_server() as mail, notifying(store, the_settings(tmp_path, mail)) as notifier:
        await notifier.post(NOTICE, ["role:operator", "namespace:crm", "user:dev", "user:nobody", "x@example.com"])
        await all_are(store, LetterState.SENT, 3)
    assert sorted(each["To"] for each in mail.mails) == ["dev@example.com", "op1@example.com", "x@example.com"]


async def test_a_mail_server_that_is_away_or_busy_gets_each_mail_once_when_it_is_back(
    tmp_path: Path, store: Store
) -> None:
    mail = MailServer()
    async with notifying(store, the_settings(tmp_path, mail)) as notifier:
        for number in range(3):
            await notifier.post(replace(NOTICE, id=f"event-{number}", title=f"event {number}"))
        async with within():
            while not any(document.data["attempts"] >= 2 for document in await store.list_documents(COLLECTION)):
                await asyncio.sleep(0.01)
        mail.answers = ["451 come back later"] * 2
        await mail.start()
        await all_are(store, LetterState.SENT, 3)
    mail.stop()
    assert sorted(mail.subjects) == [f"[DTS] event {number}" for number in range(3)]


async def test_what_is_refused_for_good_is_kept_as_failed_and_stops_no_other(tmp_path: Path, store: Store) -> None:
    async with (
        mail_server(refused={"gone@example.com"}) as mail,
        notifying(store, the_settings(tmp_path, mail)) as notifier,
    ):
        await notifier.post(NOTICE, ["gone@example.com"])
        [error] = await all_are(store, LetterState.FAILED, 1)
        await notifier.post(NOTICE, ["here@example.com"])
        async with within():
            while not mail.mails:
                await asyncio.sleep(0.01)
    assert "550" in error
    assert [each["To"] for each in mail.mails] == ["here@example.com"]


async def test_a_mail_that_cannot_be_made_is_kept_as_failed_and_stops_no_other(tmp_path: Path, store: Store) -> None:
    async with mail_server() as mail, notifying(store, the_settings(tmp_path, mail)) as notifier:
        await notifier.post(NOTICE, ["\u00e4@example.org", "x\r\nBcc: y@example.com"])
        errors = await all_are(store, LetterState.FAILED, 2)
        await notifier.post(replace(NOTICE, id="event-2", title="odd \udc00 title", text="odd \udc00 text"))
        async with within():
            while not mail.mails:
                await asyncio.sleep(0.01)
    assert all("no mail can be made" in error for error in errors)


async def test_what_cannot_be_delivered_for_days_is_given_up_and_kept(tmp_path: Path, store: Store) -> None:
    settings = the_settings(tmp_path, MailServer(), give_up_after=0.01)
    async with notifying(store, settings) as notifier:
        await notifier.post(NOTICE)
        [error] = await all_are(store, LetterState.FAILED, 1)
    assert "127.0.0.1" in error


async def test_a_login_is_used(tmp_path: Path, store: Store) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    async with mail_server(login=("ann", "s3cret")) as mail:
        section = {"host": "127.0.0.1", "port": mail.port, "to": ["a@example.com"], "username": "ann"}
        section["password_file"] = str(tmp_path / "password")
        async with notifying(store, load_settings(None, environment={}, flags={"mail": section})) as notifier:
            await notifier.post(NOTICE)
            await all_are(store, LetterState.SENT, 1)
    assert len(mail.mails) == 1


@pytest.mark.parametrize("trusted", [True, False])
async def test_starttls_checks_the_certificate_of_the_mail_server(tmp_path: Path, store: Store, trusted: bool) -> None:
    async with mail_server(starttls=a_certificate(tmp_path)) as mail:
        section = {"host": "localhost", "port": mail.port, "to": ["a@example.com"], "security": "starttls"}
        if trusted:
            section["ca_file"] = str(tmp_path / "ca.pem")
        sections = {"mail": section, "notify": {"give_up_after": 0.01}}
        async with notifying(store, load_settings(None, environment={}, flags=sections)) as notifier:
            await notifier.post(NOTICE)
            errors = await all_are(store, LetterState.SENT if trusted else LetterState.FAILED, 1)
    assert len(mail.mails) == trusted
    assert trusted or "certificate" in errors[0].lower()


async def test_a_letter_whose_process_died_while_sending_is_not_sent_again_but_kept_and_logged(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The process is killed between the mail server's answer and noting it: nothing it would do afterwards happens."""
    monkeypatch.setattr("dts.server.notify.notifier._CLAIM", 0.05)
    async with mail_server() as mail:
        settings = the_settings(tmp_path, mail)
        killed = a_notifier(store, settings)

        async def never(*_: object, **__: object) -> None:
            await asyncio.Event().wait()

        killed._note = never  # type: ignore[method-assign]
        killed._finish = never  # type: ignore[method-assign,assignment]
        dying = asyncio.create_task(killed._deliver())
        await killed._outbox.post(NOTICE)
        async with within():
            while not mail.mails:
                await asyncio.sleep(0.01)
        dying.cancel()
        async with notifying(store, settings) as notifier:
            await notifier.post(replace(NOTICE, id="event-2", title="after"))
            async with within():
                while len(await store.list_documents(COLLECTION, group="unconfirmed")) < 1 or len(mail.mails) < 2:
                    await asyncio.sleep(0.01)
    assert mail.subjects == ["[DTS] disk of a <b> at 97 %", "[DTS] after"]
    assert "may have arrived" in caplog.text


async def test_a_letter_whose_process_died_before_it_was_sent_is_sent_by_another(tmp_path: Path, store: Store) -> None:
    async with mail_server() as mail:
        settings = the_settings(tmp_path, mail)
        await a_notifier(store, settings).post(NOTICE)
        [claimed] = await store.claim_documents(COLLECTION, seconds=0.05, limit=1)
        async with notifying(store, settings):
            await all_are(store, LetterState.SENT, 1)
        assert not await store.replace_document(claimed), "whoever comes too late changes nothing"
    assert len(mail.mails) == 1


async def test_a_process_that_is_stopped_ends_what_it_is_sending(tmp_path: Path, store: Store) -> None:
    async with mail_server() as mail:
        sending = asyncio.Event()
        mail.on_mail = sending.set
        async with notifying(store, the_settings(tmp_path, mail)) as notifier:
            await notifier.post(NOTICE)
            async with within():
                await sending.wait()
        await all_are(store, LetterState.SENT, 1)


async def test_a_webhook_is_signed_as_standard_webhooks_and_tried_until_it_answers_with_success(
    tmp_path: Path, store: Store
) -> None:
    settings = the_settings(tmp_path, allow=["127.0.0.0/8"])
    async with webhook_receiver() as hook, notifying(store, settings) as notifier:
        hook.answers = [500, 302, 429]
        await notifier.post(NOTICE, [hook.url], owner="ann")
        await all_are(store, LetterState.SENT, 1)
    assert len(hook.calls) == 4, "a redirect is an answer that is no success, and is not followed"
    secret = webhook_secret(tmp_path / "fleet.key", "ann", hook.url)
    for headers, body in hook.calls:
        assert headers["webhook-id"] == "event-1"
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        key = base64.b64decode(secret.removeprefix("whsec_"))
        expected = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
    body = hook.bodies[0]
    assert body["type"] == "alert.began"
    assert body["data"]["where"] == "host a"
    assert body["data"]["since"] == "2001-09-09T01:46:40Z"


async def test_a_webhook_that_is_gone_is_not_called_again(tmp_path: Path, store: Store) -> None:
    settings = the_settings(tmp_path, allow=["127.0.0.1"])
    async with webhook_receiver() as hook, notifying(store, settings) as notifier:
        hook.answers = [410]
        await notifier.post(NOTICE, [hook.url])
        await all_are(store, LetterState.FAILED, 1)
    assert len(hook.calls) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"])
async def test_an_address_that_is_not_of_the_internet_is_not_called(
    tmp_path: Path, store: Store, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    async with webhook_receiver() as hook, notifying(store, the_settings(tmp_path)) as notifier:
        await notifier.post(NOTICE, [f"http://{host}:{hook.port}/?token=s3cret"])
        [error] = await all_are(store, LetterState.FAILED, 1)
    assert "not one of the internet" in error
    assert hook.calls == []
    assert "s3cret" not in caplog.text


async def test_a_name_that_changes_its_address_after_the_check_is_not_followed(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers of DNS for the check and for the connection differ, as in an attack by rebinding."""
    answers = [("93.184.216.34", 80)]

    async def resolve(self: object, host: str, port: int, family: int = 0) -> list[tuple[int, Any]]:
        return [(2, answers.pop() if answers else ("127.0.0.1", port))]

    monkeypatch.setattr("tornado.netutil.DefaultExecutorResolver.resolve", resolve)
    async with webhook_receiver() as hook, notifying(store, the_settings(tmp_path)) as notifier:
        await notifier.post(NOTICE, [f"http://rebind.example:{hook.port}/"])
        [error] = await all_are(store, LetterState.FAILED, 1)
    assert "127.0.0.1" in error
    assert hook.calls == []


async def test_without_a_mail_server_a_notice_is_logged(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async with notifying(store, the_settings(tmp_path)) as notifier:
        await notifier.post(NOTICE)
    assert "disk of a <b> at 97 %" in caplog.text
    assert await store.count_documents(COLLECTION) == 0


async def test_webhooks_of_users_that_do_not_answer_keep_no_mail_to_administrators_waiting(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dts.server.notify.webhook._TIMEOUT", 3600.0)
    asked: list[asyncio.StreamWriter] = []
    mute = await asyncio.start_server(lambda _, writer: asked.append(writer), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{mute.sockets[0].getsockname()[1]}/"
    async with (
        mail_server() as mail,
        mute,
        notifying(store, the_settings(tmp_path, mail, allow=["127.0.0.1"])) as notifier,
    ):
        for number in range(12):
            await notifier.post(replace(NOTICE, id=f"run-{number}"), [url], owner="ann")
        await until(lambda: len(asked) >= 4, "webhooks that are called")
        await notifier.post(NOTICE)
        await until(lambda: bool(mail.mails), "the mail")
        assert len(asked) == 4
        mute.close()
        for writer in asked:
            writer.close()
    assert await store.count_documents(OF_USERS) == 12
