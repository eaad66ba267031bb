"""Daemons keep the promises that others were kept from keeping."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import cast

import msgspec
import pytest

from dts.broker import Broker, Message
from dts.config import BrokerSettings, Settings
from dts.errors import BrokerUnavailable, ConfigError
from dts.model import Block, Run, RunState, new_id
from dts.server.app import Server
from dts.server.ending import cancel, notices
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.store import Store, open_store
from dts.wire import queues
from tests.integration.conftest import Site
from tests.services.waiting import within


def a_block(run: Run, number: int = 0, count: int = 3) -> Block:
    return new_block(run, number, run.function, batch_from_arguments([Arguments(b"[1]", b"")] * count))


async def an_unpublished_run(store: Store, user: str = "admin") -> Run:
    """A run as a server leaves it that was killed between storing and publishing."""
    run = Run(new_id(), user, "text/upper", 2048, created=time.time())
    await store.add_blocks([a_block(run)], run=run)
    return run


async def test_what_was_stored_and_not_published_is_relayed(site: Site) -> None:
    run = await an_unpublished_run(site.store)
    async with within():
        batches = await site.take_messages(3)
    assert {batch.run for batch in batches} == {run.id}
    async with within():
        while not (block := await site.store.get_block(f"{run.id}-0")) or not block.published:
            await asyncio.sleep(0.01)


async def test_a_server_accepts_while_the_broker_is_away(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    publish = Broker.publish
    away = True

    async def refuse(self: Broker, queue: str, messages: list[Message], **options: float) -> None:
        if away and queue.startswith(queues.JOBS_PREFIX):
            raise BrokerUnavailable
        await original(self, queue, messages, **options)

    original = type(site.broker).publish
    assert original is not publish
    monkeypatch.setattr(type(site.broker), "publish", refuse)
    api = site.api()
    job = await api.call("POST", "/jobs/", {"function": "text/upper"}, status=201)
    assert (await api.call("GET", f"/jobs/{job}"))["state"] == "accepted"
    away = False
    async with within():
        [batch] = await site.take_messages(1)
    await site.finish(batch)
    assert (await api.call("GET", f"/jobs/{job}?wait=10"))["state"] == "succeeded"


async def test_jobs_of_a_cancelled_run_are_ended_by_timekeeper(site: Site) -> None:
    """As when the server that was told to cancel was killed before it got to the jobs."""
    run = await an_unpublished_run(site.store)
    await site.store.update_run(run.id, state=RunState.CANCELLED)
    async with within():
        while (await site.store.run_statistics(run.id)).cancelled < 3:
            await asyncio.sleep(0.02)


async def test_a_job_that_was_cancelled_before_its_block_was_published_is_left_out(site: Site) -> None:
    run = Run(new_id(), "admin", "text/upper", 2048, created=time.time())
    block = replace(a_block(run), not_before=time.time() + 0.5)
    await site.store.add_blocks([block], run=run)
    outcome = await site.store.get_outcome(block.id)
    assert outcome is not None
    assert await cancel.cancel_job(site.store, site.broker, outcome, 1, f"{run.id}-1")
    async with within():
        batches = await site.take_messages(2)
    assert [job.index for batch in batches for job in batch.jobs] == [0, 2]


async def test_what_was_cancelled_while_nobody_could_tell_is_told_by_timekeeper(site: Site) -> None:
    run = Run(new_id(), "admin", "text/upper", 2048, created=time.time())
    await site.store.add_run(run)
    async with await site.broker.subscribe([queues.TOPIC_CANCELLED]) as events:
        await site.store.update_run(run.id, state=RunState.CANCELLED)
        await site.store.note_cancelled(["other-7"], now=time.time())
        told: set[str] = set()
        async with within():
            while not {run.id, "other-7"} <= told:
                event = await events.get()
                assert event is not None
                told |= set(event.payload.split())


class Loudspeaker:
    """A broker that may be away."""

    def __init__(self) -> None:
        self.away = False
        self.told: set[str] = set()

    async def broadcast(self, topic: str, payload: str) -> bool:
        if not self.away:
            self.told.update(payload.split())
        return not self.away


async def test_of_what_was_told_before_only_the_latest_is_told_again(site: Site) -> None:
    async def told() -> set[str]:
        broker.told.clear()
        await reminder.remind()
        return broker.told

    broker, now = Loudspeaker(), time.time()
    reminder = notices.Reminder(site.store, cast("Broker", broker))
    old = [f"a-{number}" for number in range(150)]
    for number, job in enumerate(old):
        await site.store.note_cancelled([job], now=now - 3600 + number)
    assert await told() == set(old)
    assert await told() == set(old[50:])

    broker.away = True
    new = [f"b-{number}" for number in range(150)]
    await site.store.note_cancelled(new, now=now)
    assert await told() == set()
    broker.away = False
    assert await told() >= set(new), "all that could not be told"
    assert await told() >= set(new), "and again for a while: a server's connection may come back later than this one"


async def test_jobs_of_a_dead_letter_end_as_failed(site: Site) -> None:
    api = site.api()
    job = await api.call("POST", "/jobs/", {"function": "text/upper"}, status=201)
    async with await site.broker.consume(queues.jobs_queue("default"), prefetch=1) as consumer:
        await consumer.reject(await consumer.receive(), "nobody could read it")
    done = await api.call("GET", f"/jobs/{job}?wait=10")
    assert done["state"] == "failed"
    assert (done["error"]["type"], done["error"]["reason"]) == ("DeadLetter", "dead_letter")
    assert "nobody could read it" in done["error"]["message"]
    [letter] = await site.store.list_dead_letters()
    assert letter.queue == queues.jobs_queue("default")


async def test_results_that_cannot_be_read_are_dead_letters_and_stop_nothing(site: Site) -> None:
    api = site.api()
    job = await api.call("POST", "/jobs/", {"function": "text/upper"}, status=201)
    await site.broker.publish(queues.RESULTS, [Message(b"\xff\xff"), Message(b"x", "deflate"), Message(b"x", "br")])
    [batch] = await site.take_messages(1)
    await site.finish(batch)
    assert (await api.call("GET", f"/jobs/{job}?wait=10"))["state"] == "succeeded"
    async with within():
        while len(await site.store.list_dead_letters()) < 3:
            await asyncio.sleep(0.01)


async def test_speeds_are_learnt_from_results(site: Site) -> None:
    api = site.api()
    await api.call("POST", "/jobs/", [{"function": "text/upper"}] * 3, status=201)
    for batch in await site.take_messages(3):
        await site.finish(batch)
    async with within():
        while (function := await site.store.get_function("text/upper")) and function.mean_duration is None:
            await asyncio.sleep(0.02)
    assert function is not None
    assert function.mean_duration == pytest.approx(0.001)


async def test_two_servers_on_the_same_back_ends_behave_as_one(site: Site, settings: Settings) -> None:
    async with Server(settings) as second:
        one, two = site.api(), site.api()
        two.url = f"http://127.0.0.1:{second.port}"
        run = await one.call("POST", "/runs/", {"function": "text/upper"}, status=201)
        assert (await two.send("PUT", f"/runs/{run['id']}/blocks/0", b"{}\n{}\n")).code == 201
        waiting = asyncio.create_task(one.send("GET", f"/runs/{run['id']}/results?wait=30"))
        for batch in await site.take_messages(2):
            await site.finish(batch)
        async with within():
            assert b'"success":true' in (await waiting).body
        closed = await two.call("PATCH", f"/runs/{run['id']}", {"state": "closed"})
        assert closed["state"] == "closed"
        assert (await one.call("GET", f"/runs/{run['id']}"))["state"] == "closed"


async def test_a_first_start_makes_one_administrator_and_keeps_it(settings: Settings) -> None:
    async with Server(settings), Server(settings):
        secret = settings.server.admin_secret_file.read_text()
    async with Server(settings), open_store(settings.store.url) as store:
        assert settings.server.admin_secret_file.read_text() == secret
        user = await store.get_user("admin")
        assert user is not None
        assert user.is_administrator
    assert settings.server.admin_secret_file.stat().st_mode & 0o777 == 0o600


async def test_claims_are_given_back_when_the_broker_goes_away(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks are claimed at once: those after the one that failed do not wait for their lease to end."""
    original = type(site.broker).publish
    failures = 0

    async def refuse(self: Broker, queue: str, messages: list[Message], **options: float) -> None:
        nonlocal failures
        if failures < 2 and queue.startswith(queues.JOBS_PREFIX):
            failures += 1
            raise BrokerUnavailable
        await original(self, queue, messages, **options)

    monkeypatch.setattr(type(site.broker), "publish", refuse)
    run = Run(new_id(), "admin", "text/upper", 2048, created=time.time())
    await site.store.add_blocks([a_block(run, number) for number in range(4)], run=run)
    async with within():
        await site.take_messages(12)
    assert failures == 2


async def test_wrong_settings_are_found_before_anything_is_touched(settings: Settings) -> None:
    same = msgspec.structs.replace(settings, broker=BrokerSettings(settings.store.url + "?lease=5"))
    unknown = msgspec.structs.replace(
        settings, server=msgspec.structs.replace(settings.server, daemons="porter nobody")
    )
    for wrong, named in ((same, "same file"), (unknown, "nobody")):
        with pytest.raises(ConfigError, match=named):
            await Server(wrong).start()
    assert not settings.server.admin_secret_file.exists()
    assert not settings.server.key_file.exists()
