"""Alerts from heartbeats and log records to mails and webhooks; and leaders that die at every step of the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dts.broker import Broker, Message, open_broker
from dts.config import Settings, load_settings
from dts.errors import StoreUnavailable
from dts.model import AlertRule, Document, VirtualHost, WorkerState
from dts.server.alerts.engine import Engine
from dts.server.alerts.signals import COLLECTION as SIGNALS
from dts.server.alerts.signals import Signal, Signals, signals_of
from dts.server.alerts.state import COLLECTION, AlertState, Phase, alert_id
from dts.server.daemons import Daemon, Logtracer, Stethoscope
from dts.server.notify.notifier import Notifier
from dts.server.notify.outbox import COLLECTION as OUTBOX
from dts.store import Store, open_store
from dts.wire import dts_pb2, queues
from tests.services.receivers import MailServer, Webhook, mail_server, webhook_receiver
from tests.services.waiting import within


@dataclass
class Fleet:
    """Store and broker with daemons, which notify a mail server and a webhook."""

    store: Store
    broker: Broker
    settings: Settings
    mail: MailServer
    hook: Webhook

    async def beat(self, host: str, **figures: Any) -> None:
        """A heartbeat of a host."""
        beat = dts_pb2.Heartbeat(worker=f"{host}-1", host=host, time=time.time(), state="working", **figures)
        await self.broker.publish(queues.HEARTBEATS, [Message(beat.SerializeToString())])

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what daemons do."""
        async with within():
            while not condition():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def a_fleet(tmp_path: Path, *kinds: type[Daemon], **daemons: object) -> AsyncIterator[Fleet]:
    (tmp_path / "fleet.key").write_text("k" * 64)
    async with AsyncExitStack() as stack:
        mail = await stack.enter_async_context(mail_server())
        hook = await stack.enter_async_context(webhook_receiver())
        settings = load_settings(
            None,
            environment={},
            flags={
                "daemons": {"alert_interval": 0.02, "high_for": 0.0, **daemons},
                "mail": {"host": "127.0.0.1", "port": mail.port, "to": ["ann@example.com"]},
                "notify": {"allow": ["127.0.0.1"], "url": "https://dts.example"},
                "fleet": {"key_file": str(tmp_path / "fleet.key")},
            },
        )
        store = await stack.enter_async_context(open_store(f"sqlite:///{tmp_path}/store.db"))
        broker = await stack.enter_async_context(open_broker(f"sqlite:///{tmp_path}/queue.db"))
        for kind in kinds:
            await stack.enter_async_context(kind(store, broker, settings))
        yield Fleet(store, broker, settings, mail, hook)


async def test_a_disk_that_fills_up_and_is_cleared_is_mailed_once_and_called_once_each(tmp_path: Path) -> None:
    async with a_fleet(tmp_path, Stethoscope, Stethoscope, Stethoscope) as fleet:
        await fleet.store.add_record(
            AlertRule("disk", "disk", 90.0, lasting=0.0, notify=("default", fleet.hook.url), hosts=("a*",))
        )
        for percent in (95.0, 89.0, 96.0, 89.0, 97.0):
            await fleet.beat("a", disk_percent=percent)
            await fleet.beat("b", disk_percent=10.0)
        await fleet.until(lambda: bool(fleet.mail.mails and fleet.hook.calls))
        for percent in (40.0, 39.0):
            await fleet.beat("a", disk_percent=percent)
        await fleet.until(lambda: len(fleet.mail.mails) + len(fleet.hook.calls) >= 4)
        await fleet.beat("c", memory_percent=99.0)  # whatever is wrongly sent after the end has come before this
        await fleet.until(lambda: len(fleet.mail.mails) >= 3)
    began, ended, _ = fleet.mail.subjects
    assert began in [f"[DTS] a: disk at {percent} %" for percent in (95, 96, 97)]
    assert ended == "[DTS] a: disk is well again"
    assert [body["type"] for body in fleet.hook.bodies] == ["alert.began", "alert.ended"]
    assert [body["data"]["rule"] for body in fleet.hook.bodies] == ["disk", "disk"]


async def test_a_host_that_dies_and_returns(tmp_path: Path) -> None:
    async with a_fleet(tmp_path, Stethoscope, silence=1.0) as fleet:
        await fleet.beat("a")
        await fleet.until(lambda: bool(fleet.mail.mails))
        await fleet.beat("a")
        await fleet.until(lambda: len(fleet.mail.mails) >= 2)
    assert fleet.mail.subjects[:2] == ["[DTS] a is silent", "[DTS] a is back"]


async def test_a_thousand_errors_are_one_mail_with_their_number(tmp_path: Path) -> None:
    async with a_fleet(tmp_path, Logtracer, log_mail_interval=300.0) as fleet:
        records = [
            dts_pb2.LogRecord(host=f"h{n % 3}", time=time.time(), level=40, logger="x", message=f"cannot read line {n}")
            for n in range(1000)
        ]
        await fleet.broker.publish(queues.LOGS, [Message(record.SerializeToString()) for record in records])

        def counted(documents: list[Document]) -> int:
            return sum([signal.count for signal in signals_of(documents)])

        async with within():
            while counted(await fleet.store.list_documents(SIGNALS)) < 1000:
                await asyncio.sleep(0.01)
        async with Stethoscope(fleet.store, fleet.broker, with_quick_logs(fleet.settings)):
            await fleet.until(lambda: bool(fleet.mail.mails))
    assert fleet.mail.subjects == ["[DTS] 1000 log records, among them ERROR on h0: cannot read line 0"]


def with_quick_logs(settings: Settings) -> Settings:
    """The settings with no wait for more records of the same kind."""
    daemons = {**settings_of(settings.daemons), "log_mail_interval": 0.0}
    sections = {"daemons": daemons, "mail": settings_of(settings.mail)}
    return load_settings(None, environment={}, flags=sections)


def settings_of(section: Any) -> dict[str, Any]:
    return {name: getattr(section, name) for name in section.__struct_fields__ if name != "password_file"}


class Killed(BaseException):
    """The process was killed here."""


STEPS = ["add_document:alerts", "add_document:outbox", "replace_document:alerts", "delete_document:alerts"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_leader_that_is_killed_at_any_step_neither_loses_nor_doubles_a_notice(
    tmp_path: Path, step: str, when: str
) -> None:
    """A first leader dies at its first such write, and another one goes on with what it finds."""
    async with a_fleet(tmp_path) as fleet:
        store, now = fleet.store, fleet.store.now()
        a, b = (WorkerState(f"{host}-1", host, now, disk=99.0, state="working") for host in "ab")
        await store.save_heartbeats([a, b])
        if step.startswith("delete"):
            await evaluate(fleet)
            await store.save_heartbeats([replace(each, time=now + 1, disk=10.0) for each in (a, b)])
        dying = Dying(store, step, when)
        with pytest.raises(Killed):
            await evaluate(replace(fleet, store=dying))  # type: ignore[arg-type]
        await evaluate(fleet)
        await store.save_heartbeats([replace(each, time=now + 2, disk=10.0) for each in (a, b)])
        await evaluate(fleet)
        titles = sorted(each.data["notice"]["title"] for each in await store.list_documents(OUTBOX))
        assert await store.count_documents(COLLECTION) == 0
    subjects = [each for title in titles for each in "ab" if f"{each}: disk" in title or "at once" in title]
    began = [title for title in titles if "well again" not in title]
    ended = [title for title in titles if "well again" in title]
    assert len(began) in (1, 2), titles
    assert len(ended) in (1, 2), titles
    assert sorted(subjects) == ["a", "a", "b", "b"], titles


class Dying:
    """A store whose user is killed before or after its first write of a kind."""

    def __init__(self, store: Store, step: str, when: str) -> None:
        self._store = store
        self._method, self._collection = step.split(":")
        self._when = when

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name != self._method:
            return method

        async def call(document: Document) -> Any:
            if document.collection != self._collection:
                return await method(document)
            if self._when == "after":
                await method(document)
            raise Killed

        return call


async def evaluate(fleet: Fleet) -> None:
    """One evaluation by a process that leads."""
    engine = Engine(fleet.store, fleet.broker, fleet.settings, Notifier(fleet.store, fleet.settings))
    try:
        await engine.tick()
    finally:
        await engine.close()


async def test_events_that_a_dead_leader_has_counted_are_not_counted_again(tmp_path: Path) -> None:
    async with a_fleet(tmp_path, log_mail_interval=0.0) as fleet:
        signals = Signals(fleet.store)
        for _ in range(10):
            signals.add(Signal("log", "on fire", "a", level=40, rule="default.log"))
        await signals.flush()
        dying = Dying(fleet.store, "delete_documents:", "before")

        async def killed(*_: object) -> None:
            raise Killed

        dying.delete_documents = killed  # type: ignore[attr-defined]
        with pytest.raises(Killed):
            await evaluate(replace(fleet, store=dying))  # type: ignore[arg-type]
        await evaluate(fleet)
        [alert] = await fleet.store.list_documents(COLLECTION)
        assert alert.data["total"] == 10
        assert await fleet.store.count_documents(SIGNALS) == 0


async def test_a_store_that_is_away_is_mailed_past_the_outbox_once_and_so_is_its_return(
    tmp_path: Path,
) -> None:
    async with a_fleet(tmp_path) as fleet:
        await fleet.store.add_record(AlertRule("gone", "store", 0.0))
        engine = Engine(fleet.store, fleet.broker, fleet.settings, Notifier(fleet.store, fleet.settings))
        await engine.tick()
        for _ in range(3):
            await engine.store_is_away(StoreUnavailable("no answer"))
        await engine.tick()
        assert fleet.mail.subjects == ["[DTS] the store is away"]
        titles = [each.data["notice"]["title"] for each in await fleet.store.list_documents(OUTBOX)]
    assert titles == ["the store is back"]


async def test_the_groups_of_a_host_are_those_of_its_record(tmp_path: Path) -> None:
    async with a_fleet(tmp_path) as fleet:
        await fleet.store.add_record(VirtualHost("a", groups=("gpu",)))
        await fleet.store.add_record(AlertRule("gpu", "disk", 50.0, lasting=0.0, groups=("gpu",)))
        now = fleet.store.now()
        await fleet.store.save_heartbeats(
            [WorkerState(f"{host}-1", host, now, disk=60.0, state="working") for host in "ab"]
        )
        await evaluate(fleet)
        assert [each.id for each in await fleet.store.list_documents(COLLECTION)] == ["gpu/a"]


async def test_an_alert_of_a_target_that_is_gone_ends_and_one_that_cannot_be_read_is_deleted(tmp_path: Path) -> None:
    async with a_fleet(tmp_path) as fleet:
        store = fleet.store
        rule = AlertRule("tls", "certificate", 14.0, lasting=0.0, target=str(tmp_path / "no.pem"))
        await store.add_record(rule)
        firing = AlertState(
            rule="tls",
            kind="certificate",
            subject=rule.target,
            phase=Phase.FIRING,
            since=1.0,
            began="runs out",
            ended="is valid",
            notified=1.0,
        )
        key = alert_id("tls", rule.target)
        bad = Document(COLLECTION, "x/y", {"rule": None}, group="firing")
        await store.put_documents([Document(COLLECTION, key, msgspec.to_builtins(firing), group="firing"), bad])
        await evaluate(fleet)
        assert await store.count_documents(COLLECTION) == 0
        titles = [each.data["notice"]["title"] for each in await store.list_documents(OUTBOX)]
    assert titles == ["is valid"]
