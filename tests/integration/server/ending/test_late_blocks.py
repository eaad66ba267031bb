"""Blocks, jobs and attempts that come while what they belong to is cancelled: none is left that never ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pymongo import MongoClient

from dts.broker import Message
from dts.client import DtsClient
from dts.client.run import remote
from dts.config import load_settings
from dts.errors import RunCancelled
from dts.model import Block, Run, RunState, new_id
from dts.server.app import Server
from dts.server.daemons import timekeeper
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.store import Store, open_store
from dts.wire import codec, dts_pb2, queues
from tests.integration.conftest import Api, Site, check_refusal
from tests.services.fleet import open_sealed
from tests.services.mongodb import MongoServer
from tests.services.waiting import within

LINES = b'{"args": [1]}\n' * 3
SWEEP_INTERVAL = 0.05


@pytest.fixture(params=["sqlite", "mongodb"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server: MongoServer = request.getfixturevalue("mongo")
    return server.url(f"late_{new_id()}")


@pytest.fixture
async def site(store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """A server whose timekeeper sweeps all the time."""
    monkeypatch.setattr(timekeeper, "_SWEEP_INTERVAL", SWEEP_INTERVAL)
    flags: dict[str, dict[str, Any]] = {
        "store": {"url": store_url},
        "broker": {"url": f"sqlite:///{tmp_path}/queue.db"},
        "server": {"port": 0, "key_file": f"{tmp_path}/key", "admin_secret_file": f"{tmp_path}/secret"},
        "daemons": {"relay_interval": 0.05},
    }
    settings = load_settings(None, environment={}, flags=flags)
    async with (
        Server(settings) as server,
        open_store(settings.store.url) as store,
        open_sealed(settings) as broker,
    ):
        yield Site(f"http://127.0.0.1:{server.port}", settings, store, broker)


class Held:
    """Calls of a method of the server's store that wait until they are let go."""

    def __init__(self, site: Site, name: str, patch: pytest.MonkeyPatch) -> None:
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        original = getattr(type(site.store), name)

        async def held(store: Store, *args: Any, **options: Any) -> Any:
            if store is not site.store:
                self.reached.set()
                await self.go_on.wait()
            return await original(store, *args, **options)

        patch.setattr(type(site.store), name, held)


def a_block(run: Run, number: int = 0) -> Block:
    block = new_block(run, number, run.function, batch_from_arguments([Arguments(b"[1]", b"")] * 3))
    return replace(block, created=time.time() - 100)


async def a_run(site: Site, *, age: float = 0.0, **fields: object) -> Run:
    run = Run(new_id(), "admin", "text/upper", 2048, created=time.time() - age, **fields)  # type: ignore[arg-type]
    await site.store.add_run(run)
    return run


async def swept(site: Site, run: str) -> None:
    """Wait until nothing is left to do of a cancelled run."""
    async with within():
        while run in await site.store.unswept_runs(due_before=time.time(), limit=100):
            await asyncio.sleep(0.01)


async def finished(api: Api, run: str) -> dict[str, Any]:
    """The statistics of a run once all its jobs have ended."""
    async with within():
        while not (seen := await api.call("GET", f"/runs/{run}"))["finished"]:
            await asyncio.sleep(0.01)
    assert seen["state"] == "cancelled"
    return dict(seen["statistics"])


async def test_a_block_that_is_stored_after_its_run_was_cancelled_and_swept_is_refused_and_ended(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = site.api()
    run = (await api.call("POST", "/runs/", {"function": "text/upper"}, status=201))["id"]
    assert (await api.send("PUT", f"/runs/{run}/blocks/0", LINES)).code == 201
    held = Held(site, "add_blocks", monkeypatch)
    late = asyncio.create_task(api.send("PUT", f"/runs/{run}/blocks/1", LINES))
    await held.reached.wait()  # it has seen the run open
    await api.call("DELETE", f"/runs/{run}")
    await swept(site, run)
    held.go_on.set()
    assert run in check_refusal(await late, 409, "run_not_open")
    seen = await api.call("GET", f"/runs/{run}")
    assert seen["finished"], "at once: nobody has to come and sweep it"
    assert seen["statistics"]["cancelled"] == seen["statistics"]["total"]
    await swept(site, run)


async def test_a_block_that_is_stored_after_its_run_was_deleted_goes_the_same_way(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = site.api()
    run = (await api.call("POST", "/runs/", {"function": "text/upper"}, status=201))["id"]
    held = Held(site, "add_blocks", monkeypatch)
    late = asyncio.create_task(api.send("PUT", f"/runs/{run}/blocks/1", LINES))
    await held.reached.wait()
    assert await site.store.delete_run(run, blocks=10)  # as retention does
    held.go_on.set()
    assert "no longer there" in check_refusal(await late, 409, "run_not_open")
    assert await site.store.list_blocks(run) == []
    assert (await api.call("GET", "/jobs/"))["statistics"]["total"] == 0


async def test_a_client_whose_block_is_late_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = site.settings.server.admin_secret_file.read_text().strip()
    held = Held(site, "add_blocks", monkeypatch)
    monkeypatch.setattr(remote, "LONG_POLL", 0.5)  # no results come of a block that was refused
    async with DtsClient("admin", secret, site.url, snooze_interval=0.01) as client:
        rows: list[dict[str, Any]] = []
        running = asyncio.create_task(client.run("text/upper", ["a", "b", "c"], rows.append))
        await held.reached.wait()
        [run] = await site.api().call("GET", "/runs/")
        await site.api().call("DELETE", f"/runs/{run['id']}")
        await swept(site, run["id"])
        held.go_on.set()
        async with within():
            with pytest.raises(RunCancelled, match="somebody else cancelled the run"):
                await running


async def test_a_block_is_ended_whose_server_died_before_it_heard_that_the_run_was_cancelled(site: Site) -> None:
    """The run was swept before, since it had no more jobs then."""
    run = await a_run(site, paused=True)
    await site.store.add_blocks([a_block(run)])
    await site.store.update_run(run.id, state=RunState.CANCELLED)
    await site.store.note_swept([run.id])
    assert (await finished(site.api(), run.id))["cancelled"] == 3


async def test_a_run_is_ended_that_was_opened_days_ago_and_whose_server_died_cancelling_it(site: Site) -> None:
    run = await a_run(site, age=3 * 86400)
    await site.store.add_blocks([replace(a_block(run, number), published=True) for number in range(3)])
    await site.store.update_run(run.id, state=RunState.CANCELLED)
    assert (await finished(site.api(), run.id))["cancelled"] == 9
    await swept(site, run.id)


async def test_a_cancelled_run_is_ended_however_long_nobody_was_there_to_do_so(site: Site) -> None:
    run = await a_run(site, age=30 * 86400)
    await site.store.add_blocks([replace(a_block(run), published=True)])
    await site.store.update_run(run.id, state=RunState.CANCELLED, now=time.time() - 20 * 86400)
    assert (await finished(site.api(), run.id))["cancelled"] == 3


async def test_a_starting_worker_hears_of_a_run_that_is_older_than_its_cancelling(site: Site) -> None:
    run = await a_run(site, age=3 * 86400)
    forgotten = await a_run(site, age=3 * 86400)
    await site.store.update_run(forgotten.id, state=RunState.CANCELLED, now=time.time() - 2 * 86400)
    await site.store.update_run(run.id, state=RunState.CANCELLED)
    async with await site.broker.subscribe([queues.TOPIC_CANCELLED]) as events:
        await site.broker.broadcast(queues.TOPIC_CANCELLED_WHICH, "me")
        told: set[str] = set()
        async with within():
            while queues.end_of_answer("me") not in told:
                event = await events.get()
                assert event is not None
                told |= set(event.payload.split())
    assert run.id in told
    assert forgotten.id not in told


async def test_jobs_are_cancelled_of_which_a_part_was_stored_only_later(site: Site, store_url: str) -> None:
    """Two blocks of one request are two documents: all jobs of the user are cancelled between the two."""
    if not store_url.startswith("mongodb"):
        return  # one transaction
    api = site.api()
    body = msgspec.json.encode({"params": [{"function": "text/upper"}, {"function": "text/reverse"}]})
    key = "a key"
    first = await api.send("POST", "/jobs/", body, Idempotency_Key=key)
    ids = msgspec.json.decode(first.body)["result"]
    run = ids[0].partition("-")[0]
    client: MongoClient[dict[str, Any]]
    with MongoClient(store_url) as client:
        client.get_default_database()["outcomes"].delete_one({"_id": f"{run}-1"})
    assert (await api.call("DELETE", "/jobs/?all=true"))["cancelled"] == 1
    check_refusal(await api.send("POST", "/jobs/", body, Idempotency_Key=key), 409, "run_not_open")
    again = await api.send("POST", "/jobs/", body, Idempotency_Key=key)
    assert msgspec.json.decode(again.body)["result"] == ids
    assert [(await api.call("GET", f"/jobs/{job}"))["state"] for job in ids] == ["cancelled"] * 2


async def test_to_cancel_the_jobs_of_a_function_drops_no_others_of_their_run(site: Site) -> None:
    api = site.api()
    asked = [{"function": "text/upper"}, {"function": "text/reverse"}, {"function": "text/upper"}]
    ids = await api.call("POST", "/jobs/", asked, status=201)
    alone = await api.call("POST", "/jobs/", {"function": "text/upper"}, status=201)
    async with await site.broker.subscribe([queues.TOPIC_CANCELLED]) as events:
        assert (await api.call("DELETE", "/jobs/?function=text/upper"))["cancelled"] == 3
        told: set[str] = set()
        expected = {ids[0], ids[2], alone.partition("-")[0]}
        async with within():
            while not expected <= told:
                event = await events.get()
                assert event is not None
                told |= set(event.payload.split())
    assert told == expected
    assert (await api.call("GET", f"/jobs/{ids[1]}"))["state"] in ("accepted", "queued")
    kept = await site.store.recently_cancelled(0.0, limit=9)
    assert sorted(kept) == sorted([ids[0], ids[2]])


async def test_an_attempt_to_come_of_a_job_that_is_cancelled_meanwhile_waits_for_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = site.api()
    run = (await api.call("POST", "/runs/", {"function": "text/upper"}, status=201))["id"]
    assert (await api.send("PUT", f"/runs/{run}/blocks/0", LINES)).code == 201
    [batch] = await site.take_messages(3)
    held = Held(site, "add_delayed", monkeypatch)
    later = dts_pb2.ResultBatch(block=batch.block, run=run, function=batch.function, worker="w")
    later.results.add(index=1, status=dts_pb2.RETRY, delay=3600.0)
    await site.broker.publish(queues.RESULTS, [Message(*codec.encode(later))])
    await held.reached.wait()  # porter has seen the job unfinished
    assert (await api.call("DELETE", f"/runs/{run}"))["finished"]
    held.go_on.set()
    async with within():
        while not (slices := await site.store.list_delayed(batch.block)):
            await asyncio.sleep(0.01)
        while any(each.jobs for each in slices):
            await asyncio.sleep(0.01)
            slices = await site.store.list_delayed(batch.block)
    assert (await api.call("GET", f"/runs/{run}"))["statistics"]["delayed"] == 0
