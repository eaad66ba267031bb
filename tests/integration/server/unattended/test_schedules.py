"""Schedules fire once each, whoever dies; and not for those who may not, or while the run before is at work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from dts.broker import Broker, open_broker
from dts.model import Candidate, Document, Function, Limits, Namespace, Run, RunState, Schedule, User
from dts.server.lookup.catalogue import Catalogue
from dts.server.record.blocks import decode_block
from dts.server.unattended.firing import FIRINGS, encode_work
from dts.server.unattended.scheduler import SCHEDULES, Scheduler, wake
from dts.store import Store, open_store
from tests.services.dying_store import Died, DyingStore
from tests.services.waiting import within

CLAIM = 0.1
"""Seconds for which a schedule is claimed here: whoever is slower than that has others beside them, which is right."""


@dataclass
class Site:
    """A store and a broker with a user, and timekeepers as they are needed."""

    store: Store
    broker: Broker

    def scheduler(self, store: object | None = None) -> Scheduler:
        store = cast("Store", store or self.store)
        return Scheduler(store, self.broker, Catalogue(self.store), claim=CLAIM)

    async def add(self, name: str, **fields: Any) -> Schedule:
        """A schedule that was made some time ago."""
        made = Schedule(name, "ann", "text/upper", **{"work": encode_work([name], None, None), **fields})
        await self.store.add_record(made)
        await wake(self.store, name)
        return made

    async def change(self, schedule: Schedule, **fields: Any) -> Schedule:
        changed = replace(schedule, version=schedule.version + 1, modified=self.store.now(), **fields)
        assert await self.store.replace_record(changed, version=schedule.version)
        await wake(self.store, schedule.id)
        return changed

    async def settle(self, name: str) -> Document:
        """Fire what is due until nothing of a schedule waits; its document."""
        async with within():
            while True:
                await self.scheduler().fire_due()
                document = await self.store.get_document(SCHEDULES, name)
                assert document is not None
                if document.data and not document.data["waiting"] and (document.due or 1e12) > self.store.now() + 1:
                    return document
                await asyncio.sleep(0.02)

    async def history(self, name: str) -> list[dict[str, Any]]:
        """The firings of a schedule, the oldest first."""
        return [dict(entry.data) for entry in await self.store.list_documents(FIRINGS, group=name)]

    async def states(self, name: str) -> list[str]:
        return [entry["state"] for entry in await self.history(name)]

    async def finish(self, run_id: str) -> None:
        """End the one job of a run."""
        await self.store.record([Candidate(f"{run_id}-0", b"", succeeded=1)])


@pytest.fixture
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    """On SQLite, unless the test asks for both back ends by `urls`."""
    urls = (f"sqlite:///{tmp_path}/store.db", f"sqlite:///{tmp_path}/queue.db")
    if "urls" in request.fixturenames:
        urls = request.getfixturevalue("urls")
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(urls[0]))
        broker = await stack.enter_async_context(open_broker(urls[1]))
        await store.add_record(Namespace("text"))
        await store.add_function(Function("text/upper"))
        await store.add_user(User("ann", b"", namespaces=("text",)))
        yield Site(store, broker)


async def check_fired_once(site: Site, name: str, times: list[float]) -> None:
    """Each of these times has one run with one job, complete and closed, and nothing else has."""
    history = await site.history(name)
    assert [(entry["time"], entry["state"]) for entry in history] == [(time, "started") for time in times]
    for entry in history:
        run = await site.store.get_run(entry["run"])
        assert run is not None
        assert (run.state, run.user, run.function) == (RunState.CLOSED, "ann", "text/upper")
        statistics = await site.store.run_statistics(run.id)
        block = await site.store.get_block(f"{run.id}-0")
        assert block is not None
        assert (statistics.total, decode_block(block).jobs[0].args) == (1, f'["{name}"]'.encode())


async def test_each_firing_is_once_whenever_one_of_three_timekeepers_dies(site: Site, urls: tuple[str, str]) -> None:
    call, finished = 0, False
    runs = 0
    while not finished:
        call += 1
        for after in (False, True):
            name = f"s{call}-{'after' if after else 'before'}"
            made = await site.add(name, every=1000.0, overlap="allow", created=round(site.store.now() - 3500, 3))
            dying = site.scheduler(DyingStore(site.store, call, after=after))
            others = [site.scheduler() for _ in range(2)]
            ends = await asyncio.gather(
                *(each.fire_due() for each in (dying, *others) if call % 2 or each is dying), return_exceptions=True
            )
            assert all(isinstance(end, int | Died) for end in ends), ends
            finished = call % 2 == 0 and isinstance(ends[0], int)
            await site.settle(name)
            await check_fired_once(site, name, [round(made.created + number * 1000, 3) for number in (1, 2, 3)])
            runs += 3
    assert call > 10, "a timekeeper died at each of its steps"
    assert len(await site.store.list_runs("ann", limit=1000)) == runs


async def test_a_firing_that_broke_off_is_completed_though_the_schedule_was_paused(site: Site) -> None:
    lines = encode_work(None, None, "a\nb\nc")
    made = await site.add("lines", at=round(site.store.now() - 1, 3), created=site.store.now() - 5, work=lines)
    cut = 8  # claims, reads, notes what waits, opens the run, and stores no block
    with pytest.raises(Died):
        await site.scheduler(DyingStore(site.store, cut, after=True)).fire_due()
    [run] = await site.store.list_runs("ann")
    assert run.state is RunState.OPEN
    await site.change(made, paused=True)
    async with within():
        while (now := await site.store.get_run(run.id)) is None or now.state is RunState.OPEN:
            await site.scheduler().fire_due()
            await asyncio.sleep(0.02)
    assert (await site.store.run_statistics(run.id)).total == 3


async def test_what_is_late_is_caught_up_within_the_window_and_the_rest_is_missed(site: Site) -> None:
    now = site.store.now()
    await site.add("late", every=100.0, created=now - 1050, catch_up=220.0, overlap="allow")
    await site.settle("late")
    history = await site.history("late")
    assert [entry["state"] for entry in history] == ["missed", "started", "started"]
    assert "catch_up (220 s)" in history[0]["reason"]
    assert [round(entry["time"] - now) for entry in history] == [-950, -150, -50]


async def test_a_firing_is_skipped_while_the_run_before_is_at_work(site: Site) -> None:
    made = await site.add("busy", every=100.0, created=site.store.now() - 250)
    await site.settle("busy")
    assert await site.states("busy") == ["started", "skipped"]
    [first, second] = await site.history("busy")
    assert second["reason"] == f"run {first['run']} had not finished"
    await site.finish(first["run"])
    await site.change(made, every=None, at=round(site.store.now() + 0.05, 3))
    await site.settle("busy")
    assert (await site.states("busy"))[-1] == "started"


async def test_a_firing_waits_for_the_run_before_when_it_is_queued(site: Site) -> None:
    await site.add("queue", every=100.0, created=site.store.now() - 350, overlap="queue")
    for number in range(3):
        async with within():
            while len(await site.history("queue")) <= number:
                await wake(site.store, "queue")
                await site.scheduler().fire_due()
        assert await site.states("queue") == ["started"] * (number + 1)
        await site.finish((await site.history("queue"))[-1]["run"])


async def test_a_firing_takes_the_place_of_the_run_before(site: Site) -> None:
    await site.add("newest", every=100.0, created=site.store.now() - 350, overlap="cancel")
    await site.settle("newest")
    runs = [await site.store.get_run(entry["run"]) for entry in await site.history("newest")]
    assert [cast("Run", run).state for run in runs] == [RunState.CANCELLED, RunState.CANCELLED, RunState.CLOSED]
    assert (await site.store.run_statistics(cast("Run", runs[0]).id)).cancelled == 1


async def refuse_by(site: Site, change: str) -> None:
    """Take away from the user, or the function, what a firing needs."""
    user, function = await site.store.get_user("ann"), await site.store.get_function("text/upper")
    assert user is not None
    assert function is not None
    if change == "removed":
        await site.store.delete_record(User, "ann", version=1)
    elif change == "function":
        await site.store.delete_record(Function, "text/upper", version=1)
    elif change == "off":
        await site.store.replace_record(replace(function, enabled=False, version=2), version=1)
    else:
        fields: dict[str, Any] = {
            "disabled": {"disabled": True},
            "namespace": {"namespaces": ("math",)},
            "role": {"roles": frozenset({"operator"})},
        }[change]
        await site.store.replace_record(replace(user, version=2, **fields), version=1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("removed", "its user is not there any more"),
        ("disabled", "the user ann is disabled"),
        ("namespace", "ann does not belong to the namespace text"),
        ("role", "no role of ann allows to run functions"),
        ("function", "there is no function text/upper"),
        ("off", "the function text/upper is disabled"),
    ],
)
async def test_a_schedule_does_not_fire_when_its_user_could_not(site: Site, change: str, why: str) -> None:
    await refuse_by(site, change)
    await site.add("barred", every=100.0, created=site.store.now() - 150)
    await site.settle("barred")
    [entry] = await site.history("barred")
    assert (entry["state"], entry["reason"]) == ("refused", why)
    assert await site.store.list_runs("ann") == []


async def test_a_limit_keeps_a_firing_waiting_for_as_long_as_it_may_be_late(site: Site) -> None:
    user = await site.store.get_user("ann")
    assert user is not None
    await site.store.replace_record(replace(user, limits=Limits(unfinished=0), version=2), version=1)
    made = await site.add("full", every=1000.0, created=site.store.now() - 1500, catch_up=900.0)
    await site.scheduler().fire_due()
    assert await site.history("full") == []
    await site.change(made, catch_up=100.0)
    async with within():
        while not (history := await site.history("full")):
            await wake(site.store, "full")
            await site.scheduler().fire_due()
    assert history[0]["state"] == "refused"
    assert "over the limit of user ann: unfinished" in history[0]["reason"]


async def test_a_paused_schedule_catches_nothing_up(site: Site) -> None:
    made = await site.add("paused", every=100.0, created=site.store.now() - 350, paused=True)
    await site.scheduler().fire_due()
    document = await site.store.get_document(SCHEDULES, "paused")
    assert document is not None
    assert document.due is None
    await site.change(made, paused=False)
    document = await site.settle("paused")
    assert await site.history("paused") == []
    assert document.due == pytest.approx(made.created + 400, abs=1)


async def test_a_schedule_that_is_made_anew_under_its_name_has_firings_of_its_own(site: Site) -> None:
    at = round(site.store.now() - 10, 3)
    first = await site.add("again", at=at, created=at - 50)
    await site.settle("again")
    await site.store.delete_record(Schedule, "again", version=first.version)
    await site.add("again", at=at, created=at - 40)
    await site.settle("again")
    assert len(await site.store.list_runs("ann")) == 2


async def test_what_is_no_schedule_any_more_leaves_nothing_and_a_lost_one_is_found(site: Site) -> None:
    await wake(site.store, "gone")
    await site.store.add_record(Schedule("lost", "ann", "text/upper", every=1e6, created=time.time()))
    scheduler = site.scheduler()
    await scheduler.adopt()
    await scheduler.fire_due()
    assert [document.id for document in await site.store.list_documents(SCHEDULES)] == ["lost"]
