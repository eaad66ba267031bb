"""What follows a run comes about once, whoever dies: results passed on and reduced, functions told of the end."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from dts.broker import Broker, Event, open_broker
from dts.errors import StoreUnavailable
from dts.model import Candidate, Function, Limits, Namespace, Run, RunState, User, bitmap, derived_id, new_id
from dts.server.ending import retention
from dts.server.ending.cancel import cancel_run
from dts.server.ending.finished import FinishedRuns
from dts.server.intake.following import FOLLOWING, Following, follow, reduce_run_id, run_ids, then_run_id, what_follows
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.server.lookup.catalogue import Catalogue
from dts.server.record.blocks import decode_block
from dts.server.record.lines import line_numbers
from dts.server.record.results import part_results
from dts.server.unattended import passing
from dts.server.unattended.follower import Follower
from dts.server.unattended.submit import has_finished
from dts.store import Store, open_store
from dts.wire import codec, dts_pb2
from dts.wire.queues import TOPIC_RESULTS
from tests.services.dying_store import Died, DyingStore
from tests.services.waiting import within

CLAIM = 0.1

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "text/double": lambda number: 2 * number,
    "text/even": lambda number: number if number % 2 == 0 else 1 // 0,
    "text/add": sum,
    "text/broken": lambda *_: 1 // 0,
    "text/hear": lambda summary: summary,
}


@dataclass
class Site:
    """A store, a broker, a user, and a worker that is as good as many."""

    store: Store
    broker: Broker
    executed: Counter[str] = field(default_factory=Counter)
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    part: int = 7
    """Jobs whose results come together."""

    def follower(self, store: object | None = None) -> Follower:
        return Follower(cast("Store", store or self.store), self.broker, Catalogue(self.store), claim=CLAIM)

    async def open(self, function: str, **wants: Any) -> Run:
        run = Run(new_id(), "ann", function, 100, created=self.store.now(), follow_up=bool(wants))
        await follow(self.store, run.id, Following(**wants))
        await self.store.add_run(run)
        return run

    async def send(self, run: Run, number: int, values: list[Any]) -> None:
        batch = batch_from_arguments([Arguments(json.dumps([value]).encode(), b"") for value in values])
        batch.first_line = number * run.block_size + 1
        await self.store.add_blocks([new_block(run, number, run.function, batch)])

    async def run_of(self, function: str, blocks: list[list[Any]], **wants: Any) -> Run:
        """A closed run with these blocks, none of whose jobs has run."""
        run = await self.open(function, **wants)
        for number, values in enumerate(blocks):
            await self.send(run, number, values)
        await self.store.update_run(run.id, state=RunState.CLOSED)
        return run

    async def work(self, run_id: str, *, most: int = 10**9) -> int:
        """Run what has not ended of a run, in parts of a few jobs in no given order; how many jobs that were."""
        done = 0
        for outcome in await self.store.list_blocks(run_id, limit=1000):
            block = await self.store.get_block(outcome.block)
            assert block is not None
            jobs = [job for job in decode_block(block).jobs if outcome.unfinished >> job.index & 1]
            self.rng.shuffle(jobs)
            while jobs and done < most:
                some, jobs = jobs[: self.part], jobs[self.part :]
                await self.store.record([self._executed(run_id, outcome.block, block.function, some)])
                done += len(some)
        return done

    def _executed(self, run_id: str, block_id: str, function: str, jobs: list[Any]) -> Candidate:
        batch = dts_pb2.ResultBatch(block=block_id, run=run_id, function=function, worker="w")
        good = []
        for job in jobs:
            self.executed[f"{block_id}.{job.index}"] += 1
            try:
                value = json.dumps(FUNCTIONS[function](*json.loads(job.args))).encode()
            except ZeroDivisionError:
                batch.results.add(index=job.index, status=dts_pb2.FAILED, error=dts_pb2.Error(type="E", message="no"))
            else:
                batch.results.add(index=job.index, status=dts_pb2.SUCCEEDED, value=value)
                good.append(job.index)
        body = codec.encode(batch)
        succeeded, every = bitmap.from_indices(good), bitmap.from_indices(job.index for job in jobs)
        return Candidate(block_id, body.body, body.content_encoding, succeeded=succeeded, failed=every & ~succeeded)

    async def runs_of(self, run_id: str) -> list[Run]:
        """A run, and those that were made of it: their ids have its time."""
        return [run for run in await self.store.list_runs("ann", limit=100) if run.id[:10] == run_id[:10]]

    async def settle(self, run_id: str) -> None:
        """Work, and do what follows, until nothing is left of a run and of what follows it."""
        followed = [run_id, then_run_id(run_id), then_run_id(then_run_id(run_id))]
        async with asyncio.timeout(100):
            while True:
                await self.follower().follow()
                for run in await self.runs_of(run_id):
                    await self.work(run.id)
                left = await self.store.get_documents(FOLLOWING, followed)
                if all(document.due is None for document in left):
                    return
                for document in left:
                    if document.due is not None:
                        await self.store.replace_document(replace(document, due=self.store.now()))

    async def results(self, run_id: str) -> list[Any]:
        """Successful results of a run, by job."""
        found = []
        for outcome in await self.store.list_blocks(run_id, limit=1000):
            results = [result for part in await self.store.get_parts(outcome.block) for _, result in part_results(part)]
            for result in sorted(results, key=lambda each: each.index):
                if result.status == dts_pb2.SUCCEEDED:
                    found.append(json.loads(result.value))
        return found

    async def keep_runs_for(self, seconds: float) -> None:
        user = await self.store.get_user("ann")
        assert user is not None
        limited = replace(user, limits=Limits(retention=seconds), version=2)
        await self.store.replace_record(limited, version=1)

    async def get(self, run_id: str) -> Run:
        run = await self.store.get_run(run_id)
        assert run is not None
        return run


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
        for name in FUNCTIONS:
            await store.add_function(Function(name))
        await store.add_user(User("ann", b"", namespaces=("text",)))
        yield Site(store, broker)


async def test_a_chain_gives_the_right_result_once_whenever_a_timekeeper_dies(
    site: Site, urls: tuple[str, str]
) -> None:
    """At each of its steps, before and after it had its effect; results come between the steps."""
    call, survived = 0, 0
    while survived < 2:
        call += 1
        for after in (False, True):
            blocks = [list(range(20)), list(range(20, 30)), [40, 41]]
            run = await site.run_of("text/even", blocks, then=("text/double",), reduce="text/add", on_end="text/hear")
            await site.work(run.id, most=10)
            dying = site.follower(DyingStore(site.store, call, after=after))
            try:
                for _ in range(4):
                    await dying.follow()
                    for each in await site.runs_of(run.id):
                        if each.state is not RunState.CANCELLED:
                            await site.work(each.id, most=20)
                    for document in await site.store.get_documents(FOLLOWING, [run.id, then_run_id(run.id)]):
                        await site.store.replace_document(replace(document, due=site.store.now()))
                survived += 1
            except Died:
                survived = 0
            await site.settle(run.id)
            then = then_run_id(run.id)
            assert sorted(await site.results(then)) == [4 * number for number in range(15)] + [80]
            assert await site.results(reduce_run_id(then)) == [sum(4 * number for number in range(15)) + 80]
            [summary] = await site.results(derived_id(run.id, "/on_end"))
            assert (summary["succeeded"], summary["failed"], summary["success"]) == (16, 16, False)
        call += 6  # a prime in all: every kind of step has its turn
    assert set(site.executed.values()) == {1}, "no job was made twice under two numbers"


async def test_results_are_passed_on_as_they_come_with_the_lines_they_are_for(site: Site) -> None:
    run = await site.open("text/even", then=("text/double",))
    await site.send(run, 0, [1, 2, 3, 4])
    follower = site.follower()
    await follower.follow()
    then = await site.get(then_run_id(run.id))
    assert (then.state, then.function, then.user) == (RunState.OPEN, "text/double", "ann")
    await site.work(run.id)
    follower.on_event(Event(TOPIC_RESULTS, f"{new_id()} {run.id}"))
    await follower.follow()
    [outcome] = await site.store.list_blocks(then.id)
    block = await site.store.get_block(outcome.block)
    assert block is not None
    batch = decode_block(block)
    assert sorted(json.loads(job.args)[0] for job in batch.jobs) == [2, 4]
    assert line_numbers(batch) == [2, 4]
    assert (await site.get(then.id)).state is RunState.OPEN
    await site.send(run, 1, [5, 6])
    await site.store.update_run(run.id, state=RunState.CLOSED)
    await site.settle(run.id)
    assert (await site.get(then.id)).state is RunState.CLOSED
    assert sorted(await site.results(then.id)) == [4, 8, 12]


async def test_thousands_of_results_are_reduced_in_rounds(site: Site) -> None:
    site.part = 50
    run = await site.run_of("text/double", [list(range(100))] * 110, reduce="text/add")
    await site.settle(run.id)
    assert await site.results(reduce_run_id(run.id)) == [110 * 2 * sum(range(100))]
    sizes = [(await site.store.run_statistics(each.id)).total for each in await site.runs_of(run.id)]
    assert sorted(sizes) == [1, 2, 110, 11_000]
    assert (await what_follows(site.store, run.id)) == {"reduce_run": reduce_run_id(run.id)}


async def test_a_chain_of_steps_hands_what_follows_on(site: Site) -> None:
    wants = Following(then=("text/double", "text/double"), reduce="text/add")
    run = await site.run_of("text/double", [[1, 2, 3]], then=wants.then, reduce=wants.reduce)
    await site.settle(run.id)
    ids = run_ids(run.id, wants)
    assert ids["then_run"] == then_run_id(run.id)
    assert ids["reduce_run"] == reduce_run_id(then_run_id(then_run_id(run.id)))
    assert await site.results(ids["reduce_run"]) == [48]


async def test_the_end_of_a_run_is_heard_of_though_every_event_is_lost(site: Site) -> None:
    run = await site.run_of("text/double", [[1]], on_end="text/hear")
    follower = site.follower()
    await follower.follow()
    await site.work(run.id)
    waiting = await site.store.get_document(FOLLOWING, run.id)
    assert waiting is not None
    await site.store.replace_document(replace(waiting, due=site.store.now() + 600))
    finished = FinishedRuns(site.store, (follower.on_finished,))
    async with within():
        while not await site.store.get_run(derived_id(run.id, "/on_end")):
            await finished.follow_up()
            await follower.follow()


async def test_who_is_told_of_which_end(site: Site) -> None:
    wants = {"on_success": "text/hear", "on_failure": "text/hear", "on_end": "text/hear"}
    ends = {"good": [2], "bad": [1, 2], "cancelled": [3]}
    for end, values in ends.items():
        run = await site.run_of("text/even", [values], **wants)
        if end == "cancelled":
            await cancel_run(site.store, site.broker, run.id)
        await site.settle(run.id)
        told = {name for name in ("success", "failure", "end") if await site.results(derived_id(run.id, f"/on_{name}"))}
        assert told == {"success" if end == "good" else "failure", "end"}, end
        [summary] = await site.results(derived_id(run.id, "/on_end"))
        assert (summary["run"], summary["total"]) == (run.id, len(values))
        if end == "good":
            assert summary["job"]["result"] == 2
        if end == "cancelled":
            assert (summary["state"], summary["job"]["success"]) == ("cancelled", False)
        answered = await what_follows(site.store, run.id)
        assert answered["on_end_run"] == derived_id(run.id, "/on_end")


async def test_what_follows_a_cancelled_run_is_cancelled(site: Site) -> None:
    run = await site.run_of("text/double", [[1], [2]], then=("text/double",), reduce="text/add")
    await site.work(run.id, most=1)
    await site.follower().follow()
    await cancel_run(site.store, site.broker, run.id)
    await site.settle(run.id)
    for run_id in run_ids(run.id, Following(then=("text/double",), reduce="text/add")).values():
        assert (await site.get(run_id)).state is RunState.CANCELLED
    assert (await what_follows(site.store, run.id))["follow_problem"].endswith(f"run {run.id} was cancelled")


async def test_a_chunk_that_fails_leaves_no_wrong_result(site: Site) -> None:
    run = await site.run_of("text/double", [list(range(100))] * 3, reduce="text/broken")
    await site.settle(run.id)
    assert (await site.get(reduce_run_id(run.id))).state is RunState.CANCELLED
    assert "3 of 3 chunks in run" in (await what_follows(site.store, run.id))["follow_problem"]


async def test_nothing_to_reduce_is_no_result(site: Site) -> None:
    run = await site.run_of("text/even", [[1]], reduce="text/add")
    await site.settle(run.id)
    assert (await site.get(reduce_run_id(run.id))).state is RunState.CLOSED
    assert await site.results(reduce_run_id(run.id)) == []


async def test_what_the_user_may_not_run_any_more_is_not_run_and_says_so(site: Site) -> None:
    wants: dict[str, Any] = {"then": ("text/double",), "on_end": "text/hear"}
    run = await site.run_of("text/double", [[1]], **wants)
    user = await site.store.get_user("ann")
    assert user is not None
    await site.store.replace_record(replace(user, disabled=True, version=2), version=1)
    await site.settle(run.id)
    assert (await site.get(then_run_id(run.id))).state is RunState.CANCELLED
    answered = await what_follows(site.store, run.id)
    assert answered == {
        "then_run": then_run_id(run.id),
        "follow_problem": "text/double is not called: the user ann is disabled",
    }


async def test_a_limit_holds_what_follows_back_until_there_is_room(site: Site) -> None:
    user = await site.store.get_user("ann")
    assert user is not None
    limited = replace(user, limits=Limits(unfinished=3), version=2)
    await site.store.replace_record(limited, version=1)
    run = await site.run_of("text/double", [[1, 2, 3], [4]], then=("text/double",))
    await site.work(run.id, most=1)
    await site.follower().follow()
    assert (await site.store.run_statistics(then_run_id(run.id))).total == 0
    await site.settle(run.id)
    assert sorted(await site.results(then_run_id(run.id))) == [4, 8, 12, 16]


async def test_a_run_that_never_came_is_waited_for_and_given_up(site: Site) -> None:
    await follow(site.store, run_id := new_id(), Following(then=("text/double",)))
    await site.follower().follow()
    document = await site.store.get_document(FOLLOWING, run_id)
    assert document is not None
    assert document.due is not None
    late = replace(document, data={**document.data, "made": site.store.now() - 700}, due=site.store.now())
    await site.store.replace_document(late)
    await site.follower().follow()
    document = await site.store.get_document(FOLLOWING, run_id)
    assert document is not None
    assert document.due is None


async def test_a_run_whose_first_request_was_given_up_is_followed_when_it_comes(site: Site) -> None:
    await follow(site.store, run_id := new_id(), Following(then=("text/double",)))
    document = await site.store.get_document(FOLLOWING, run_id)
    assert document is not None
    await site.store.replace_document(replace(document, due=None))
    await follow(site.store, run_id, Following(then=("text/double",)))
    document = await site.store.get_document(FOLLOWING, run_id)
    assert document is not None
    assert document.due is not None
    await site.store.add_run(Run(run_id, "ann", "text/double", 100, created=site.store.now()))
    await site.store.replace_document(replace(document, due=None))
    await follow(site.store, run_id, Following(then=("text/double",)))
    document = await site.store.get_document(FOLLOWING, run_id)
    assert document is not None
    assert document.due is None, "its run is there, so it was followed to the end"


async def test_a_run_that_waits_for_results_is_not_closed_as_one_that_was_left(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_IDLE", 0.0)
    monkeypatch.setattr(retention, "_PAGE", 1)
    await site.keep_runs_for(1e-6)
    waiting: dict[str, Any] = {"then": ("text/double",), "reduce": "text/add"}
    runs = [await site.open("text/double", **{kind: wants}) for kind, wants in waiting.items()]
    for run in runs:
        await site.send(run, 0, [1])
    await site.follower().follow()
    following = [then_run_id(runs[0].id), reduce_run_id(runs[1].id)]
    left = await site.open("text/double")
    await retention.Retention(site.store).sweep()
    assert (await site.get(left.id)).state is RunState.CLOSED
    for run, run_id, expected in zip(runs, following, (4, 2), strict=True):
        assert (await site.get(run_id)).state is RunState.OPEN
        await site.store.update_run(run.id, state=RunState.CLOSED)
        await site.settle(run.id)
        assert await site.results(run_id) == [expected]
    assert await site.store.count_documents(retention.KEPT_OPEN) == 0


async def test_a_finished_run_stays_until_what_follows_it_is_done(site: Site) -> None:
    await site.keep_runs_for(1e-6)
    run = await site.run_of("text/double", [[1, 2]], then=("text/double",))
    await site.work(run.id)
    assert await retention.Retention(site.store).sweep() == 0
    await site.settle(run.id)
    assert sorted(await site.results(then_run_id(run.id))) == [4, 8]
    assert await retention.Retention(site.store).sweep() == 2


async def test_results_that_come_after_the_next_run_was_closed_are_a_problem_that_shows(site: Site) -> None:
    run = await site.run_of("text/double", [[1]], then=("text/double",))
    await site.follower().follow()
    await site.store.update_run(then_run_id(run.id), state=RunState.CLOSED)
    await site.settle(run.id)
    answered = await what_follows(site.store, run.id)
    assert answered["follow_problem"].startswith("text/double is not called: run ")


async def test_a_single_run_whose_jobs_are_not_stored_yet_has_not_finished(site: Site) -> None:
    run = Run(new_id(), "ann", "text/double", 100, RunState.CLOSED, created=site.store.now(), single=True)
    await site.store.add_run(run)
    assert not await has_finished(site.store, run.id)
    empty = await site.run_of("text/double", [])
    assert await has_finished(site.store, empty.id)


async def test_a_run_with_gaps_between_its_blocks_is_passed_on_and_then_behind(site: Site) -> None:
    run = await site.run_of("text/double", [[1, 2], [3], [4]], then=("text/double",) * 3)
    await site.settle(run.id)
    third = then_run_id(then_run_id(then_run_id(run.id)))
    await site.settle(then_run_id(then_run_id(run.id)))
    assert sorted(await site.results(third)) == [16, 32, 48, 64]
    second = await site.store.get_document(FOLLOWING, then_run_id(then_run_id(run.id)))
    assert second is not None
    assert second.data["progress"].get("passed", {}) == {}
    assert second.data["progress"]["low"] > 2 * run.block_size


async def test_numbers_that_would_be_too_large_end_what_follows(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passing, "_LAST_JOB", 1000)
    run = await site.run_of("text/double", [[1], [2]], then=("text/double",))
    await site.settle(run.id)
    assert (await what_follows(site.store, run.id))["follow_problem"].endswith("would be too large")


async def test_news_are_not_lost_with_the_store(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [await site.run_of("text/double", [[1]], then=("text/double",)) for _ in range(3)]
    follower = site.follower()
    await follower.follow()
    for run in runs:
        await site.work(run.id)
    follower.on_event(Event(TOPIC_RESULTS, " ".join(run.id for run in runs)))

    async def unavailable(_: object) -> bool:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(site.store, "replace_document", unavailable)
        patch.setattr(site.store, "claim_documents", unavailable)
        with pytest.raises(StoreUnavailable):
            await follower.follow()

    async def nothing(*_: object, **__: object) -> list[Any]:
        return []

    monkeypatch.setattr(site.store, "claim_documents", nothing)  # only by news
    await follower.follow()
    for run in runs:
        assert (await site.store.run_statistics(then_run_id(run.id))).total == 1
