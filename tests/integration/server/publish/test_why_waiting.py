"""What is said of jobs that wait: what holds them, what goes first, and when they may begin and end."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dts.broker import Broker, Message, open_broker
from dts.config import ServerSettings
from dts.model import Function, Limits, Namespace, Route, Run, Statistics, User, new_id
from dts.server.access.parties import PartiesOf
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.server.lookup.catalogue import Catalogue
from dts.server.lookup.fleet import UNHEARD, Fleet
from dts.server.publish.marks import Marks
from dts.server.publish.waiting import Waiting, WaitingJob, WhyWaiting
from dts.store import Store, open_store
from dts.wire import queues
from tests.integration.conftest import Site

SECONDS = 1.0


@dataclass
class Desk:
    """A store in which jobs wait, since nothing publishes them."""

    store: Store
    broker: Broker

    def why(self) -> WhyWaiting:
        """Somebody who has not looked yet."""
        catalogue, fleet = Catalogue(self.store), Fleet(self.store)
        marks = Marks(self.broker, fleet, ServerSettings())
        return WhyWaiting(self.store, PartiesOf(self.store, catalogue), fleet, marks)

    async def accept(self, user: str, count: int, *, function: str = "crm/call", **fields: Any) -> Run:
        """A run with a block that waits."""
        run = replace(Run(new_id(), user, function, 2048, created=time.time()), **fields)
        block = new_block(run, 0, function, batch_from_arguments([Arguments(b"[]", b"")] * count))
        await self.store.add_blocks([replace(block, not_before=run.not_before)], run=run)
        return run

    async def of_run(self, run: Run, unserved: str | None = None) -> Waiting:
        """What its next job waits for."""
        known = await self.store.get_run(run.id)
        assert known is not None
        found = await self.why().of_run(known, await self.store.run_statistics(run.id), unserved)
        assert found is not None
        return found

    async def of_job(self, run: Run, index: int = 0) -> Waiting:
        """What a job of its first block waits for."""
        block = await self.store.get_block(f"{run.id}-0")
        assert block is not None
        return await self.why().of_job(WaitingJob(block, index, run, 0.0), None)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(f"sqlite:///{tmp_path}/store.db"))
        broker = await stack.enter_async_context(open_broker(f"sqlite:///{tmp_path}/queue.db"))
        for name in ("crm/call", "own/call"):
            await store.add_function(Function(name, mean_duration=SECONDS))
        yield Desk(store, broker)


async def test_a_run_that_is_alone_is_next_and_ends_when_its_work_is_done(desk: Desk) -> None:
    found = await desk.of_run(await desk.accept("ann", 100))
    assert (found.reason, found.jobs) == ("ahead", 0)
    assert isinstance(found.starts, float)
    assert isinstance(found.ends, float)
    assert found.ends - found.starts == pytest.approx(100 * SECONDS / UNHEARD, rel=0.1)


@pytest.mark.parametrize(("priority", "least", "most"), [(9, 0, 0), (None, 0, 1), (0, 300, 300)])
async def test_what_has_a_higher_priority_goes_first(desk: Desk, priority: int | None, least: int, most: int) -> None:
    await desk.accept("ann", 300)
    mine = await desk.accept("bob", 10, priority=priority)
    found = await desk.of_run(mine)
    assert found.reason == "ahead"
    assert isinstance(found.jobs, int)
    assert least <= found.jobs <= most
    assert ("300" in found.text) == (most == 300)


async def test_a_later_job_of_a_run_waits_for_its_share(desk: Desk) -> None:
    await desk.accept("ann", 1000)
    mine = await desk.accept("bob", 500)
    first, last = await desk.of_job(mine, 0), await desk.of_job(mine, 300)
    assert first.jobs == 0
    assert last.jobs == 600, "300 of its own, and as many of the other user's"
    await desk.store.add_user(User("bob", b"", weight=3.0))
    assert (await desk.of_job(mine, 300)).jobs == 400
    assert (await desk.of_run(mine)).starts < last.starts  # type: ignore[operator]


async def test_jobs_of_another_route_are_not_in_the_way(desk: Desk) -> None:
    await desk.store.add_function(Function("far/call", route="far", mean_duration=SECONDS))
    await desk.accept("ann", 300, function="far/call", priority=9)
    assert (await desk.of_run(await desk.accept("bob", 1))).jobs == 0


async def test_single_jobs_wait_in_the_order_in_which_they_came(desk: Desk) -> None:
    runs = [await desk.accept("ann", 1, single=True) for _ in range(4)]
    assert [(await desk.of_job(run)).jobs for run in runs] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("record", "what"),
    [
        (Namespace("crm", paused=True), "namespace crm"),
        (User("ann", b"", paused=True), "user ann"),
        (Route("default", paused=True), "route default"),
        (Route("*", paused=True), "route *"),
    ],
)
async def test_what_is_paused_is_named(desk: Desk, record: Namespace | User | Route, what: str) -> None:
    run = await desk.accept("ann", 3)
    await desk.store.add_record(record)
    for found in (await desk.of_run(run), await desk.of_job(run)):
        assert (found.reason, found.what) == ("paused", what)
        assert what in found.text


async def test_a_paused_run_a_time_and_a_route_without_workers(desk: Desk) -> None:
    paused = await desk.accept("ann", 3)
    await desk.store.update_run(paused.id, paused=True)
    assert (await desk.of_run(paused)).what == "run"
    later = await desk.accept("ann", 3, not_before=time.time() + 1000)
    found = await desk.of_run(later)
    assert (found.reason, found.due) == ("due", round(later.not_before, 6))
    found = await desk.of_run(await desk.accept("ann", 3), "far")
    assert (found.reason, found.route) == ("no_worker", "far")


async def test_a_limit_that_is_reached_is_named_with_its_numbers(desk: Desk) -> None:
    await desk.store.add_user(User("ann", b"", limits=Limits(running=2)))
    first, second = await desk.accept("ann", 1), await desk.accept("ann", 5)
    assert (await desk.of_run(second)).reason == "ahead"
    await desk.store.mark_published([f"{first.id}-0"])
    third = await desk.accept("ann", 1)
    await desk.store.mark_published([f"{third.id}-0"])
    found = await desk.of_run(second)
    assert (found.reason, found.limit, found.allowed, found.running) == ("limit", "user ann: running", 2, 2)


async def test_what_is_with_the_broker_says_how_much_is_in_its_queue(desk: Desk) -> None:
    run = await desk.accept("ann", 1)
    await desk.store.mark_published([f"{run.id}-0"])
    await desk.broker.publish(queues.jobs_queue("default"), [Message(b"x")] * 7)
    for found in (await desk.of_run(run), await desk.of_job(run)):
        assert (found.reason, found.messages) == ("queue", 7)


async def test_nothing_is_said_of_a_run_of_which_nothing_waits(desk: Desk) -> None:
    assert await desk.why().of_run(await desk.accept("ann", 1), Statistics(total=1, succeeded=1), None) is None


async def test_no_times_are_given_for_a_function_whose_speed_is_not_known(desk: Desk) -> None:
    await desk.store.add_function(Function("new/call"))
    found = await desk.of_run(await desk.accept("ann", 10, function="new/call"))
    assert (found.reason, found.jobs) == ("ahead", 0)
    assert not isinstance(found.starts, float)


async def test_it_is_told_by_the_interface(site: Site) -> None:
    api = site.api()
    await api.call("PATCH", "/admin/functions/text/upper", {"paused": True})
    run = await api.call("POST", "/runs/", {"function": "text/upper"}, status=201)
    assert "waiting" not in run
    assert (await api.send("PUT", f"/runs/{run['id']}/blocks/0", b'{"args": ["a"]}\n')).code == 201
    for path in (f"/runs/{run['id']}", f"/jobs/{run['id']}-0"):
        waiting = (await api.call("GET", path))["waiting"]
        assert (waiting["reason"], waiting["what"]) == ("paused", "function text/upper")
        assert set(waiting) == {"reason", "text", "what"}
    await api.call("DELETE", f"/runs/{run['id']}")
    assert "waiting" not in await api.call("GET", f"/runs/{run['id']}")
