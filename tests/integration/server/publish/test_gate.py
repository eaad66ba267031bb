"""As many jobs at once as a limit says: the others wait, and go when there is room."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from dts.broker import Event, Message
from dts.config import Settings
from dts.errors import RouteUnavailable
from dts.model import Candidate, DelayedSlice, Function, Limits, Unsent, User, bitmap, new_outcome
from dts.server.app import Server
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.server.lookup.catalogue import Catalogue
from dts.server.publish import leader as leader_module
from dts.server.publish.gate import Gate, gated, hold_back, place_at_gate
from dts.store import Store, open_store
from dts.store.contract.gate import Release
from dts.wire import codec, dts_pb2, queues
from tests.conformance.store.builders import make_run
from tests.integration.conftest import Api, Site
from tests.integration.server.access.test_limits import SUBJECTS
from tests.services.fleet import open_sealed
from tests.services.waiting import within

QUEUE = queues.jobs_queue("default")


class Hands:
    """A worker's hands: takes whatever messages there are, and ends their jobs when it is told to."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.held: list[dts_pb2.JobBatch] = []

    @property
    def jobs(self) -> int:
        """How many jobs are in hand."""
        return sum(len(batch.jobs) for batch in self.held)

    async def take(self, count: int) -> None:
        """Take until there are so many jobs in hand, and see to it that no more come."""
        async with within():
            self.held += await self._site.take_messages(count - self.jobs)
        await asyncio.sleep(0.15)  # a few times the interval at which timekeeper looks
        assert (await self._site.broker.depth(QUEUE)).ready == 0
        assert self.jobs == count

    async def finish(self, messages: int) -> None:
        """End the jobs of the messages that were taken first."""
        for batch in self.held[:messages]:
            await self._site.finish(batch)
        del self.held[:messages]


async def statistics(api: Api) -> Any:
    return (await api.call("GET", "/jobs/"))["statistics"]


async def limited(site: Site, path: str, running: int | None) -> None:
    await site.api().call("PATCH", f"/admin/{path}", {"limits": {"running": running}})


@pytest.mark.parametrize("path", SUBJECTS)
async def test_jobs_over_the_limit_wait_until_others_have_ended(site: Site, path: str) -> None:
    bob, hands = await site.add_user("bob", namespaces=("text",)), Hands(site)
    await limited(site, path, 3)
    ids = await bob.call("POST", "/jobs/", [{"function": "text/upper"}] * 8, status=201)
    await hands.take(3)
    assert [len(batch.jobs) for batch in hands.held] == [1, 1, 1], "one message each, to run side by side"
    last = await bob.call("GET", f"/jobs/{ids[-1]}")
    assert (last["state"], last["waits_for"]) == ("delayed", "limits.running")
    assert "due" not in last
    seen = await statistics(bob)
    assert (seen["queued"], seen["delayed"]) == (3, 5)
    await hands.finish(1)
    await hands.take(3)
    await hands.finish(3)
    await hands.take(3)
    await hands.finish(3)
    await hands.take(1)
    await hands.finish(1)
    assert (await bob.call("GET", f"/jobs/{ids[-1]}?wait=10"))["state"] == "succeeded"
    assert (await statistics(bob))["succeeded"] == 8


async def test_the_limit_is_changed_while_jobs_wait(site: Site) -> None:
    api, hands = site.api(), Hands(site)
    await limited(site, "functions/text%2Fupper", 2)
    run = await api.call("POST", "/runs/", {"function": "text/upper"}, status=201)
    assert (await api.send("PUT", f"/runs/{run['id']}/blocks/0", b"{}\n" * 30)).code == 201
    await hands.take(2)
    await limited(site, "functions/text%2Fupper", 5)
    await hands.take(5)
    await limited(site, "functions/text%2Fupper", 1)
    await asyncio.sleep(2.1)  # for as long the limit may be remembered
    await hands.finish(4)
    await hands.take(1)
    await hands.finish(1)
    await hands.take(1)
    await limited(site, "functions/text%2Fupper", None)
    await hands.take(25)
    await api.refused(
        "PATCH", "/admin/functions/text%2Fupper", {"limits": {"running": 0}}, status=400, code="argument_invalid"
    )


async def test_a_limit_of_a_route_is_for_all_its_functions(site: Site) -> None:
    api, hands = site.api(), Hands(site)
    await limited(site, "routes/default", 3)
    for function in ("text/upper", "text/reverse"):
        await api.call("POST", "/jobs/", [{"function": function}] * 4, status=201)
    await hands.take(3)
    await hands.finish(2)
    await hands.take(3)
    await limited(site, "routes/default", None)
    await hands.take(6)


async def test_jobs_of_one_key_wait_for_each_other_and_for_no_others(site: Site) -> None:
    api, hands = site.api(), Hands(site)
    limits = {"limits": {"key": "kwargs.customer", "key_running": 1}}
    await api.call("PATCH", "/admin/functions/text%2Fupper", limits)
    customers = ["a"] * 5 + ["b", "b", "c"]
    jobs = [{"function": "text/upper", "kwargs": {"customer": each}} for each in customers]
    ids = await api.call("POST", "/jobs/", [*jobs, {"function": "text/upper"}], status=201)
    await hands.take(4)
    assert sorted(job.index for batch in hands.held for job in batch.jobs) == [0, 5, 7, 8]
    waiting = (await api.call("GET", f"/jobs/{ids[1]}"))["waiting"]
    assert (waiting["reason"], waiting["limit"]) == ("limit", "function text/upper: key_running")
    first = next(batch for batch in hands.held if 0 in [job.index for job in batch.jobs])
    ended = {job.index for job in first.jobs}
    hands.held.remove(first)
    await site.finish(first)
    await hands.take(4 - len(ended) + 1 + (5 in ended))  # the next of customer a, and of b if it was in that message
    assert 1 in [job.index for batch in hands.held for job in batch.jobs]
    await api.refused(
        "PATCH", "/admin/functions/text%2Fupper", {"limits": {"key": None}}, status=400, code="argument_invalid"
    )


async def test_no_more_jobs_begin_in_a_second_than_a_function_may(site: Site) -> None:
    api = site.api()
    await api.call("PATCH", "/admin/functions/text%2Fupper", {"limits": {"starts_per_second": 4}})
    began = time.monotonic()
    await api.call("POST", "/jobs/", [{"function": "text/upper"}] * 10, status=201)
    await api.call("POST", "/jobs/", [{"function": "text/reverse"}] * 3, status=201)
    batches = await site.take_messages(13)
    assert sum(len(batch.jobs) for batch in batches) == 13
    assert time.monotonic() - began > (10 - 4 - 1) / 4, "it had at most a second's worth, and what came since"


async def test_the_highest_priority_is_let_go_first_also_when_it_is_changed(site: Site) -> None:
    api, hands = site.api(), Hands(site)
    await limited(site, "functions/text%2Fupper", 1)
    runs = {}
    for name, priority in (("first", 5), ("second", 5), ("urgent", 9)):
        asked = {"function": "text/upper", "priority": priority}
        runs[name] = (await api.call("POST", "/runs/", asked, status=201))["id"]
        assert (await api.send("PUT", f"/runs/{runs[name]}/blocks/0", b"{}\n" * 2)).code == 201
        if name == "first":
            await hands.take(1)
    async with within():
        while len([group for run in runs.values() for group in await site.store.list_delayed(f"{run}-0")]) < 3:
            await asyncio.sleep(0.02)
    order = [runs["first"]]
    for _ in range(5):
        if len(order) == 3:
            await api.call("PATCH", f"/runs/{runs['second']}", {"priority": 8})
        await hands.finish(1)
        await hands.take(1)
        order.append(hands.held[0].run)
    assert order == [runs[name] for name in ("first", "urgent", "urgent", "second", "second", "first")]


async def test_a_new_priority_of_single_jobs_is_as_high_as_each_function_may_have(site: Site) -> None:
    api = site.api()
    for function, limits in (("upper", {"running": 1, "priority": 4}), ("reverse", {"running": 1})):
        await api.call("PATCH", f"/admin/functions/text%2F{function}", {"limits": limits})
    jobs = [{"function": f"text/{function}"} for function in ("upper", "reverse") for _ in range(2)]
    ids = await api.call("POST", "/jobs/", jobs, status=201)
    run = (await api.call("GET", f"/jobs/{ids[0]}"))["run"]
    await site.take_messages(2)
    await api.call("PATCH", f"/runs/{run}", {"priority": 9})
    places = {group.function: group.first // 1e10 for group in await site.store.gated_groups()}
    assert places == {"text/upper": place_at_gate(4) // 1e10, "text/reverse": place_at_gate(9) // 1e10}


async def test_the_tightest_limit_counts_and_nobody_else_waits(site: Site) -> None:
    bob, hands = await site.add_user("bob", namespaces=("text",)), Hands(site)
    await limited(site, "users/bob", 3)
    await limited(site, "functions/text%2Freverse", 1)
    await bob.call("POST", "/jobs/", [{"function": "text/reverse"}] * 4, status=201)
    await hands.take(1)
    await bob.call("POST", "/jobs/", [{"function": "text/upper"}] * 4, status=201)
    await hands.take(3)
    await site.api().call("POST", "/jobs/", [{"function": "text/upper"}] * 4, status=201)
    await hands.take(7)


async def test_what_is_paused_waits_and_what_is_cancelled_takes_no_room(site: Site) -> None:
    api, hands = site.api(), Hands(site)
    await limited(site, "functions/text%2Fupper", 2)
    runs = []
    for _ in range(2):
        runs.append((await api.call("POST", "/runs/", {"function": "text/upper"}, status=201))["id"])
        assert (await api.send("PUT", f"/runs/{runs[-1]}/blocks/0", b"{}\n" * 6)).code == 201
    await hands.take(2)
    await api.call("PATCH", f"/runs/{runs[0]}", {"state": "paused"})
    await hands.finish(2)
    await hands.take(2)
    assert {batch.run for batch in hands.held} == {runs[1]}
    await api.call("PATCH", f"/runs/{runs[0]}", {"state": "open"})
    await api.call("DELETE", f"/runs/{runs[1]}")
    hands.held.clear()
    await hands.take(2)
    assert {batch.run for batch in hands.held} == {runs[0]}
    await api.call("DELETE", "/jobs/?all=true")
    async with within():
        while await site.store.gated_groups():
            await asyncio.sleep(0.02)


async def test_another_attempt_waits_for_its_time_and_then_for_room(site: Site) -> None:
    api, hands = site.api(), Hands(site)
    await limited(site, "functions/text%2Fupper", 1)
    first, second = await api.call("POST", "/jobs/", [{"function": "text/upper"}] * 2, status=201)
    await hands.take(1)
    [batch] = hands.held
    error = dts_pb2.Error(type="OSError", message="not now")
    results = dts_pb2.ResultBatch(block=batch.block, run=batch.run, function=batch.function, worker="w")
    results.results.add(index=0, status=dts_pb2.RETRY, delay=0.3, error=error, attempt=1)
    await site.broker.publish(queues.RESULTS, [Message(*codec.encode(results))])
    hands.held.clear()
    await hands.take(1)
    assert hands.held[0].jobs[0].index == 1
    async with within():
        while "waits_for" not in (seen := await api.call("GET", f"/jobs/{first}")):
            await asyncio.sleep(0.02)
    assert (seen["state"], seen["attempt"], seen["error"]["message"]) == ("delayed", 2, "not now")
    await hands.finish(1)
    await hands.take(1)
    assert (hands.held[0].jobs[0].index, hands.held[0].jobs[0].attempt) == (0, 2)
    await hands.finish(1)
    assert (await api.call("GET", f"/jobs/{second}?wait=10"))["state"] == "succeeded"
    assert (await api.call("GET", f"/jobs/{first}?wait=10"))["state"] == "succeeded"


# one gate, and several


@pytest.fixture
async def waiting(site: Site) -> DelayedSlice:
    """Four jobs at the gate, of which two may run at once, in a store that no server looks after."""
    store = site.store
    await store.add_user(User("ann", b"", limits=Limits(running=2)))
    run = replace(make_run("ann"), function="text/upper")
    block = new_block(run, 0, "text/upper", batch_from_arguments([Arguments(b"[]", b"")] * 4))
    await store.add_blocks([block], run=run)
    await hold_back(store, site.broker, [gated(Unsent(new_outcome(block), 0), 5)], 5)
    return gated(Unsent(new_outcome(block), 0), 5)


@pytest.fixture
async def site(settings: Settings, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """A site; one where no daemons run for those tests that bring their own gates."""
    if "waiting" in request.fixturenames:
        settings = structs.replace(settings, server=structs.replace(settings.server, daemons="none"))
    async with (
        Server(settings) as server,
        open_store(settings.store.url) as store,
        open_sealed(settings) as broker,
    ):
        yield Site(f"http://127.0.0.1:{server.port}", settings, store, broker)


def a_gate(site: Site) -> Gate:
    return Gate(site.store, site.broker, Catalogue(site.store), site.settings.server)


async def test_one_of_several_gates_lets_jobs_go_until_it_is_closed(site: Site, waiting: DelayedSlice) -> None:
    gates = [a_gate(site) for _ in range(4)]
    released = await asyncio.gather(*(gate.release() for gate in gates))
    assert sorted(released) == [0, 0, 0, 2]
    assert [batch.block for batch in await site.take_messages(2)] == [waiting.block] * 2
    winner = gates[released.index(2)]
    assert [await gate.release() for gate in gates] == [0, 0, 0, 0]
    await winner.close()
    other = a_gate(site)
    assert await other.release() == 0, "there is no room"


async def test_what_was_let_go_before_a_crash_is_published_after_it(site: Site, waiting: DelayedSlice) -> None:
    both = bitmap.from_indices([0, 1])
    await site.store.release_gated([Release(waiting, both, waiting.jobs & ~both)])
    assert (await site.broker.depth(QUEUE)).ready == 0
    assert await a_gate(site).release() == 0, "nothing new"
    assert [batch.jobs[0].index for batch in await site.take_messages(2)] == [0, 1]
    assert await site.store.list_released(limit=10) == []


async def test_with_many_jobs_let_go_at_once_messages_are_larger(site: Site, waiting: DelayedSlice) -> None:
    user = await site.store.get_user("ann")
    assert user is not None
    await site.store.replace_record(replace(user, limits=Limits(running=64), version=2), version=1)
    assert await a_gate(site).release() == 4
    assert [len(batch.jobs) for batch in await site.take_messages(4)] == [4]


async def test_a_block_that_its_server_left_behind_comes_to_the_gate_too(site: Site) -> None:
    await site.store.add_function(Function("text/own", limits=Limits(running=1)))
    run = make_run("admin")
    block = new_block(run, 0, "text/own", batch_from_arguments([Arguments(b"[]", b"")] * 3))
    await site.store.add_blocks([replace(block, created=time.time() - 100)], run=run)
    await Hands(site).take(1)


async def test_a_gate_that_was_frozen_counts_anew(
    site: Site, waiting: DelayedSlice, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("_HELD", 0.2), ("_TRUSTED", 0.1), ("_RENEW", 0.05)):
        monkeypatch.setattr(leader_module, name, seconds)
    frozen, other = a_gate(site), a_gate(site)
    assert await frozen.release() == 2
    await site.store.record([Candidate(waiting.block, b"done", succeeded=bitmap.from_indices([0]))])
    await asyncio.sleep(0.3)  # in which it does nothing, and what it holds is over
    assert await other.release() == 1
    await asyncio.sleep(0.3)
    assert await frozen.release() == 0
    assert (await site.broker.depth(QUEUE)).ready == 3


class Away:
    """A broker whose jobs queue cannot be reached for now."""

    def __init__(self) -> None:
        self.tried = 0

    async def publish(self, queue: str, messages: list[Message]) -> None:
        """Refuse them."""
        self.tried += 1
        raise RouteUnavailable("it is away")


async def at_gate(site: Site, user: str, function: str, jobs: int) -> DelayedSlice:
    """Jobs of a user that wait at the gate."""
    run = replace(make_run(user), function=function)
    block = new_block(run, 0, function, batch_from_arguments([Arguments(b"[]", b"")] * jobs))
    await site.store.add_blocks([block], run=run)
    each = gated(Unsent(new_outcome(block), 0), 5)
    await hold_back(site.store, site.broker, [each], 5)
    return each


async def test_users_under_one_limit_take_turns_also_when_the_gate_looks_anew(
    site: Site, waiting: DelayedSlice
) -> None:
    await site.store.add_function(Function("text/shared", limits=Limits(running=1)))
    for user in ("bea", "cid", "dan"):
        await at_gate(site, user, "text/shared", 9)
    gate, order = a_gate(site), list[str]()
    assert await gate.release() == 3, "two of the other function"
    for count in (3, 1, 1, 1, 1, 1):
        [batch] = [batch for batch in await site.take_messages(count) if batch.function == "text/shared"]
        outcome = await site.store.get_outcome(batch.block)
        assert outcome is not None
        order.append(outcome.user)
        done = bitmap.from_indices([batch.jobs[0].index])
        await site.store.record([Candidate(batch.block, b"done", succeeded=done)])
        gate.on_event(Event(queues.TOPIC_GATED, "new"))
        assert await gate.release() == 1
    assert order == ["bea", "cid", "dan"] * 2


async def test_a_rate_holds_while_the_broker_of_a_route_is_away(
    site: Site, waiting: DelayedSlice, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.store.add_function(Function("text/slow", limits=Limits(starts_per_second=0.001)))
    for user in ("bea", "cid"):
        await at_gate(site, user, "text/slow", 5)
    gate, away = a_gate(site), Away()
    with monkeypatch.context() as patch:
        patch.setattr(site.broker, "publish", away.publish)
        for _ in range(3):
            gate.on_event(Event(queues.TOPIC_GATED, "new"))
            await gate.release()
    let_go = [each for each in await site.store.list_released(limit=10) if each.function == "text/slow"]
    assert sum(each.released.bit_count() for each in let_go) == 1
    await gate.release()
    batches = await site.take_messages(3)
    assert sum(len(batch.jobs) for batch in batches if batch.function == "text/slow") == 1


async def test_single_jobs_are_asked_about_together(
    site: Site, waiting: DelayedSlice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round trip for each would let a hundred or two go in a second."""
    user = await site.store.get_user("ann")
    assert user is not None
    await site.store.replace_record(replace(user, limits=Limits(running=40), version=2), version=1)
    for _ in range(30):
        run = replace(make_run("ann", single=True), function="text/upper")
        block = new_block(run, 0, "text/upper", batch_from_arguments([Arguments(b"[]", b"")]))
        await site.store.add_blocks([block], run=run)
        await hold_back(site.store, site.broker, [gated(Unsent(new_outcome(block), 0), 5)], 5)
    rounds = {
        name: counting_rounds(monkeypatch, site.store, name)
        for name in ("get_outcome", "get_block", "release_gated", "confirm_released")
    }
    assert await a_gate(site).release() == 34
    assert {name: calls.count(0) for name, calls in rounds.items()} == {
        "get_outcome": 1,
        "get_block": 4,
        "release_gated": 1,
        "confirm_released": 1,
    }
    assert len({batch.block for batch in await site.take_messages(34)}) == 31


def counting_rounds(monkeypatch: pytest.MonkeyPatch, store: Store, name: str) -> list[int]:
    """For each call of a method of a store, how many others of it were under way."""
    original, under_way, calls = getattr(store, name), 0, list[int]()

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal under_way
        calls.append(under_way)
        under_way += 1
        try:
            return await original(*args, **options)
        finally:
            under_way -= 1

    monkeypatch.setattr(store, name, counted)
    return calls
