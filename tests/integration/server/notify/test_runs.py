"""Who asked for it is notified when a run has finished: once, with what became of its jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from msgspec import structs

from dts.config import MailSettings, NotifySettings, Settings
from dts.model import AlertRule
from dts.wire.queues import jobs_queue
from tests.integration.conftest import Api, Site
from tests.services.receivers import MailServer, Webhook, mail_server, webhook_receiver


@pytest.fixture
async def mail() -> AsyncIterator[MailServer]:
    async with mail_server() as server:
        yield server


@pytest.fixture
async def hook() -> AsyncIterator[Webhook]:
    async with webhook_receiver() as receiver:
        yield receiver


@pytest.fixture
def settings(settings: Settings, mail: MailServer) -> Settings:
    return structs.replace(
        settings,
        mail=MailSettings(host="127.0.0.1", port=mail.port, to=("ops@example.com",)),
        notify=NotifySettings(allow=("127.0.0.1",), url="https://dts.example"),
        daemons=structs.replace(settings.daemons, alert_interval=0.05),
    )


async def finished_run(site: Site, api: Api, *, fail: tuple[int, ...] = (), **params: object) -> str:
    """A run of two jobs that has finished."""
    run = (await api.call("POST", "/runs/", {"function": "text/upper", **params}, status=201))["id"]
    assert (await api.send("PUT", f"/runs/{run}/blocks/0", b"{}\n{}\n")).code == 201
    await api.call("PATCH", f"/runs/{run}", {"state": "closed"})
    for batch in await site.take_messages(2):
        await site.finish(batch, fail=fail)
    return str(run)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_run_notifies_whom_its_user_has_named(site: Site, mail: MailServer, hook: Webhook) -> None:
    bob = await site.add_user("bob", namespaces=("text",))
    user = await site.store.get_user("bob")
    assert user is not None
    assert await site.store.replace_record(replace(user, email="bob@example.com", version=2), version=1)
    run = await finished_run(site, bob, fail=(1,), notify=["me", hook.url])
    await until(lambda: bool(mail.mails and hook.calls))
    quiet = await finished_run(site, bob)
    await finished_run(site, bob, notify=["me"])
    await until(lambda: len(mail.mails) >= 2)
    assert mail.subjects == [
        "[DTS] text/upper: run finished, 1 of 2 jobs failed",
        "[DTS] text/upper: run finished, all well",
    ]
    assert [each["To"] for each in mail.mails] == ["bob@example.com"] * 2
    [body] = hook.bodies
    assert body["type"] == "run.finished"
    assert body["data"]["run"] == run != quiet
    assert body["data"]["counts"] == {"total": 2, "succeeded": 1, "failed": 1, "cancelled": 0}
    secret = await bob.call("GET", f"/webhooks/secret?url={hook.url}")
    assert secret["secret"].startswith("whsec_")


@pytest.mark.parametrize("name", ["role:user", "stranger@example.com", "user:admin", "ftp://x", "default"])
async def test_a_user_cannot_have_mail_sent_to_others(site: Site, name: str) -> None:
    bob = await site.add_user("bob", namespaces=("text",))
    params = {"function": "text/upper", "notify": [name]}
    message = await bob.refused("POST", "/runs/", params, status=400, code="argument_invalid")
    assert name[:10] in message


async def test_rules_notify_of_runs_that_have_finished_and_of_those_that_failed(site: Site, mail: MailServer) -> None:
    rules = [AlertRule("all", "run_finished", functions=("text/*",), notify=("all@example.com",))]
    rules += [AlertRule("bad", "run_failed", notify=("bad@example.com",))]
    for rule in rules:
        await site.store.add_record(rule)
    async with asyncio.timeout(60):
        while await site.store.get_document("alert_cursors", "runs") is None:
            await asyncio.sleep(0.01)
    await finished_run(site, site.api(), fail=(0,))
    await finished_run(site, site.api())
    await until(lambda: len(mail.mails) >= 3)
    assert sorted((each["To"], each["Subject"]) for each in mail.mails) == [
        ("all@example.com", "[DTS] text/upper: run finished, 1 of 2 jobs failed"),
        ("all@example.com", "[DTS] text/upper: run finished, all well"),
        ("bad@example.com", "[DTS] text/upper: run finished, 1 of 2 jobs failed"),
    ]


async def test_a_dead_letter_is_notified_by_the_rules_of_its_function(site: Site, mail: MailServer) -> None:
    await site.store.add_record(AlertRule("dead", "dead", lasting=0.0, functions=("text/*",)))
    await site.api().call("POST", "/jobs/", {"function": "text/upper"}, status=201)
    async with await site.broker.consume(jobs_queue("default"), prefetch=1) as consumer:
        await consumer.reject(await consumer.receive(), "nobody could read it")
    await until(lambda: bool(mail.mails))
    assert mail.subjects == ["[DTS] text/upper: nobody could read it"]


async def test_a_test_of_the_way_of_notices_is_on_record_and_the_log_stays_whole(site: Site, mail: MailServer) -> None:
    api = site.api()
    begun = await api.call("POST", "/admin/alerts/test", {"to": ["ann@example.com"]}, status=201)
    await until(lambda: bool(mail.mails))
    assert begun["notices"] == 1
    [entry, _] = await api.call("GET", "/admin/operations/?op_type=alerts.test")
    assert entry["ops"] == {"to": ["ann@example.com"]}
    assert (await api.call("GET", "/admin/operations/verify"))["faults"] == []
