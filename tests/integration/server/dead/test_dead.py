"""Dead letters: seen, and given another life."""

from __future__ import annotations

import asyncio
import time

import pytest
from msgspec import structs

from dts.broker import Message, open_broker
from dts.broker.abc import REASON_EXPIRED
from dts.config import Settings
from dts.model import DeadLetter, Lease
from dts.server.attempts.leases import MAX_LOSSES
from dts.server.attempts.poison import Poison
from dts.server.daemons import Timekeeper
from dts.server.record.results import failed_candidate
from dts.store import open_store
from dts.wire import codec, dts_pb2, queues
from tests.integration.conftest import Api, Site, a_run_with_jobs
from tests.services.waiting import within


async def kill(site: Site, api: Api, count: int, function: str = "text/upper") -> list[str]:
    """Send jobs whose message is rejected; their ids once they have ended."""
    jobs = await api.call("POST", "/jobs/", [{"function": function, "args": [n]} for n in range(count)], status=201)
    async with await site.broker.consume(queues.jobs_queue("default"), prefetch=1) as consumer:
        left = count
        while left > 0:
            [delivery] = await consumer.receive()
            left -= int(delivery.message.headers["count"])
            await consumer.reject([delivery], "unreadable")
    for job in jobs:
        assert (await api.call("GET", f"/jobs/{job}?wait=10"))["state"] == "failed"
    return list(jobs)


async def letters(api: Api, count: int, query: str = "") -> list[dict[str, object]]:
    """Dead letters once there are so many."""
    async with within():
        while len(found := await api.call("GET", f"/admin/dead/?{query}")) < count:
            await asyncio.sleep(0.02)
    return list(found)


async def test_jobs_of_dead_letters_are_replayed_as_new_jobs_of_the_same_user(site: Site) -> None:
    boss, bob = await site.add_user("boss", roles={"operator"}), await site.add_user("bob", namespaces=("text",))
    await kill(site, bob, 6)  # in messages of at most four
    await kill(site, bob, 1, "text/reverse")
    dead = await letters(boss, 3)
    assert {letter["function"] for letter in dead} == {"text/upper", "text/reverse"}
    assert {letter["reason"] for letter in dead} == {"unreadable"}
    assert len(await letters(boss, 2, "function=text/upper")) == 2
    assert await letters(boss, 0, "function=text/upper&reason=other") == []
    assert len(await letters(boss, 1, "limit=1")) == 1
    replayed = await boss.call("POST", "/admin/dead/replay", {"where": {"function": "text/upper"}})
    assert (replayed["replayed"], replayed["jobs"], replayed["skipped"]) == (2, 6, [])
    [run] = replayed["runs"]
    for batch in await site.take_messages(6):
        assert batch.run == run
        await site.finish(batch)
    async with within():
        while not (progress := await bob.call("GET", f"/runs/{run}"))["finished"]:
            await asyncio.sleep(0.02)
    assert progress["statistics"]["succeeded"] == 6
    assert {letter["function"] for letter in await letters(boss, 1)} == {"text/reverse"}


async def test_jobs_whose_message_the_broker_dropped_go_on(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """As RabbitMQ does by an operator's policy with a message-ttl."""
    api = site.api()
    [job] = await api.call("POST", "/jobs/", [{"function": "text/upper", "args": ["x"]}], status=201)
    async with await site.broker.consume(queues.jobs_queue("default"), prefetch=1) as consumer:
        await consumer.reject(await consumer.receive(), REASON_EXPIRED)
    [batch] = await site.take_messages(1)
    await site.finish(batch)
    assert (await api.call("GET", f"/jobs/{job}?wait=60"))["state"] == "succeeded"
    assert "take message-ttl, max-length and expires out of the policies" in caplog.text


async def test_what_was_no_message_of_jobs_goes_back_to_its_queue(site: Site) -> None:
    api = site.api()
    await site.broker.publish("dts.somewhere", [Message(b"x", "", {"a": 1})])
    async with await site.broker.consume("dts.somewhere", prefetch=1) as consumer:
        await consumer.reject(await consumer.receive(), "not now")
        [letter] = await letters(api, 1)
        replayed = await api.call("POST", "/admin/dead/replay", {"where": {"id": letter["id"]}})
        assert (replayed["replayed"], replayed["jobs"], replayed["runs"]) == (1, 0, [])
        [delivery] = await consumer.receive()
        assert (delivery.message.body, delivery.message.headers["a"], delivery.refused) == (b"x", 1, "")
    assert await letters(api, 0) == []


async def test_a_letter_that_cannot_be_replayed_stays_and_says_why(site: Site) -> None:
    api = site.api()
    await site.broker.publish(queues.jobs_queue("default"), [Message(b"\xff")])
    async with await site.broker.consume(queues.jobs_queue("default"), prefetch=1) as consumer:
        await consumer.reject(await consumer.receive(), "rubbish")
    [letter] = await letters(api, 1)
    replayed = await api.call("POST", "/admin/dead/replay", {"where": {}, "all": True})
    assert replayed["replayed"] == 0
    assert replayed["skipped"][0]["id"] == letter["id"]
    assert "cannot be read" in replayed["skipped"][0]["problem"]
    assert len(await letters(api, 1)) == 1


async def test_what_runs_inside_the_server_is_replayed_by_administrators_only(site: Site) -> None:
    """Whoever is no administrator does not get a plugin to run, not even once more."""
    admin, boss = site.api(), await site.add_user("boss", roles={"operator"})
    run, _ = await a_run_with_jobs(site, "admin", "server/ping")
    batch = dts_pb2.JobBatch(block=f"{run}-0", run=run, function="server/ping", jobs=[dts_pb2.Job(index=0)])
    headers = {"function": "server/ping", "run": run}
    await site.store.add_dead_letters(
        [DeadLetter("d1", queues.jobs_queue("server"), "unreadable", batch.SerializeToString(), "", headers)]
    )
    where = {"where": {"function": "server/ping"}}
    refused = await boss.call("POST", "/admin/dead/replay", where)
    assert (refused["replayed"], refused["skipped"][0]["id"]) == (0, "d1")
    [again] = (await admin.call("POST", "/admin/dead/replay", where))["runs"]
    assert b"pong" in (await admin.send("GET", f"/runs/{again}/results?wait=10")).body


async def test_all_letters_are_replayed_only_by_who_says_so(site: Site) -> None:
    api = site.api()
    await api.refused("POST", "/admin/dead/replay", {"where": {}}, status=400, code="argument_missing")
    await api.refused("POST", "/admin/dead/replay", {"where": {"body": "x"}}, status=400, code="argument_invalid")
    await api.refused("GET", "/admin/dead/?colour=red", status=400, code="argument_invalid")


async def poison(site: Site, batch: dts_pb2.JobBatch, *indices: int) -> None:
    """Report that jobs have killed their last process, as a worker would: twice, since that may happen."""
    results = dts_pb2.ResultBatch(block=batch.block, run=batch.run, function=batch.function, worker="w1")
    for index in indices:
        said = "the process of the job died of SIGSEGV; the job has killed 3 processes and is not tried again"
        error = dts_pb2.Error(type="ProcessDied", message=said, traceback="last words\n", reason="poison")
        results.results.add(index=index, status=dts_pb2.FAILED, error=error, attempt=3, kills=3)
    await site.broker.publish(queues.RESULTS, [Message(*codec.encode(results))] * 2)


async def test_a_poison_job_is_kept_as_a_dead_letter_with_its_signal_and_last_words(site: Site) -> None:
    boss, bob = await site.add_user("boss", roles={"operator"}), await site.add_user("bob", namespaces=("text",))
    given = [{"function": "text/upper", "args": [n]} for n in range(3)]
    jobs = await bob.call("POST", "/jobs/", given, status=201)
    [batch] = await site.take_messages(3)
    await poison(site, batch, 1)
    await site.finish(dts_pb2.JobBatch(block=batch.block, run=batch.run, function="text/upper", jobs=[batch.jobs[0]]))
    assert (await bob.call("GET", f"/jobs/{jobs[1]}?wait=10"))["error"]["reason"] == "poison"
    assert (await bob.call("GET", f"/jobs/{jobs[0]}?wait=10"))["state"] == "succeeded"
    [letter] = await letters(boss, 1, "function=text/upper&reason=poison")
    headers = letter["headers"]
    assert isinstance(headers, dict)
    assert (headers["job"], headers["worker"], headers["attempt"]) == (jobs[1], "w1", 3)
    assert "SIGSEGV" in headers["error"]
    assert headers["output"] == "last words\n"
    replayed = await boss.call("POST", "/admin/dead/replay", {"where": {"function": "text/upper"}})
    assert (replayed["replayed"], replayed["jobs"]) == (1, 1)
    [again] = await site.take_messages(1)
    assert (again.run, [job.args for job in again.jobs]) == (replayed["runs"][0], [b"[1]"])
    await site.finish(again)
    assert (await bob.call("GET", f"/jobs/{again.run}-0?wait=10"))["state"] == "succeeded"
    assert await letters(boss, 0) == []


async def test_a_job_that_ended_otherwise_before_leaves_no_letter(site: Site) -> None:
    api = site.api()
    [job] = await api.call("POST", "/jobs/", [{"function": "text/upper", "args": [1]}], status=201)
    [batch] = await site.take_messages(1)
    await api.call("DELETE", f"/jobs/{job}")
    await poison(site, batch, 0)
    other = await api.call("POST", "/jobs/", [{"function": "text/upper", "args": [2]}], status=201)
    await site.finish((await site.take_messages(1))[0])
    assert (await api.call("GET", f"/jobs/{other[0]}?wait=10"))["state"] == "succeeded", "porter has been there"
    assert await letters(api, 0) == []


async def test_a_leased_job_that_takes_every_worker_with_it_leaves_a_letter(site: Site) -> None:
    api = site.api()
    run, job = await a_run_with_jobs(site, "admin", "text/upper")
    lease = Lease(f"{run}-0", 0, run, "w1", MAX_LOSSES, 3, time.time() - 1)
    await site.store.take_leases([lease])
    assert (await api.call("GET", f"/jobs/{job}?wait=10"))["error"]["reason"] == "poison"
    [letter] = await letters(api, 1, "reason=poison")
    headers = letter["headers"]
    assert isinstance(headers, dict)
    assert (headers["job"], headers["worker"]) == (job, "w1")


async def test_a_replay_asks_for_what_was_asked_for_before_but_the_deadline(site: Site) -> None:
    api = site.api()
    params = [
        {"function": "text/upper", "args": ["a"], "timeout": 7, "deadline": time.time() + 60},
        {"function": "text/upper", "args": ["b"], "max_attempts": 4},
    ]
    await api.call("POST", "/jobs/", params, status=201)
    async with await site.broker.consume(queues.jobs_queue("default"), prefetch=1) as consumer:
        await consumer.reject(await consumer.receive(), "unreadable")
    await letters(api, 1)
    await api.call("POST", "/admin/dead/replay", {"where": {}, "all": True})
    [batch] = await site.take_messages(2)
    asked = {
        bytes(job.args): (job.options.timeout, job.options.max_attempts, job.options.deadline) for job in batch.jobs
    }
    assert asked == {b'["a"]': (7, 0, 0), b'["b"]': (0, 4, 0)}


async def test_poison_of_a_block_is_told_at_first_and_at_its_end(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A file of a million lines each of which kills its process must not fill the disk with as many lines of log."""
    run, _ = await a_run_with_jobs(site, "admin", "text/upper", 5)
    outcome = await site.store.get_outcome(f"{run}-0")
    assert outcome is not None
    poison_ = Poison(site.store)
    for index in range(5):
        result = dts_pb2.Result(index=index, error=dts_pb2.Error(message=f"SIGSEGV {index}"), attempt=3, kills=3)
        for _ in range(2):  # as when a delivery comes again
            await poison_.keep(outcome, {index: result}, "w1")
        failed = failed_candidate(outcome, 1 << index, kind="ProcessDied", message="", reason="poison")
        await site.store.record([failed])
        outcome = await site.store.get_outcome(f"{run}-0")
        assert outcome is not None
    said = [record.message for record in caplog.records if record.name == "dts.server.attempts.poison"]
    assert [line.split(",")[0] for line in said] == [
        f"poison: 1 of the 5 jobs of block {run}-0 of text/upper so far",
        f"poison: 5 of the 5 jobs of block {run}-0 of text/upper",
    ]
    assert len(await site.store.list_dead_letters()) == 5


async def test_only_so_many_dead_letters_are_kept_and_only_for_a_time(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    now = time.time()
    letters_ = [DeadLetter(f"d{age:03}", "q", "r", b"x", "", {}, now - age) for age in (1, 2, 3, 40, 50)]
    daemons = structs.replace(settings.daemons, keep_dead=2, keep_dead_for=30.0)
    async with open_store(settings.store.url) as store, open_broker(settings.broker.url) as broker:
        await store.add_dead_letters(letters_)
        async with Timekeeper(store, broker, structs.replace(settings, daemons=daemons)), within():
            while len(left := await store.list_dead_letters()) > 2:
                await asyncio.sleep(0.02)
    assert [letter.id for letter in left] == ["d001", "d002"]
    assert "deleted the 3 oldest dead letters" in caplog.text
