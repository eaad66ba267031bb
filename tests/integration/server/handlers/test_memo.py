"""`memo` and `unique` of a function: results that are given again, and jobs that are the same job."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest

from dts.broker import Message
from dts.model import Function, Run, User, new_id
from dts.server.intake import memo
from dts.server.intake import unique as module
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.server.intake.memo import MEMO, MEMO_VERSIONS, MemoWriter, answer_from_memo
from dts.server.intake.submission import JobParams
from dts.server.intake.unique import UNIQUE, AnotherRequest, OnItsWay, UniqueJobs
from dts.server.lookup.catalogue import Catalogue
from dts.server.record.blocks import decode_block
from dts.store import Store, open_store
from dts.wire import codec, dts_pb2, queues
from tests.integration.conftest import Site

LINES = [["a"], ["b"], ["a", 1.5], [{"x": 1, "y": 2}]]


async def set_function(site: Site, **fields: Any) -> None:
    """Change text/upper, and have the server see it."""
    await site.api().call("PATCH", "/admin/functions/text%2Fupper", fields)


async def a_run(site: Site, lines: list[list[Any]]) -> str:
    api = site.api()
    run = await api.call("POST", "/runs/", {"function": "text/upper"}, status=201)
    await send(site, run["id"], 0, [json.dumps({"args": line}) for line in lines])
    return str(run["id"])


async def send(site: Site, run: str, number: int, lines: list[str]) -> None:
    answer = await site.api().send("PUT", f"/runs/{run}/blocks/{number}", "\n".join(lines).encode())
    assert answer.code == 201, answer.body


async def work(site: Site, count: int, *, version: str = "v1") -> list[dts_pb2.JobBatch]:
    """Take messages with so many jobs, and report a result of each, as a worker does."""
    async with asyncio.timeout(100):
        batches = await site.take_messages(count)
    for batch in batches:
        results = dts_pb2.ResultBatch(block=batch.block, run=batch.run, function=batch.function, worker="w")
        results.version, results.started = version, time.time()
        for job in batch.jobs:
            value = json.dumps(f"{version} of {job.args.decode()}").encode()
            results.results.add(index=job.index, status=dts_pb2.SUCCEEDED, value=value, duration=0.01)
        body = codec.encode(results)
        await site.broker.publish(queues.RESULTS, [Message(body.body, body.content_encoding)])
    return batches


async def rows_of(site: Site, run: str, count: int) -> list[dict[str, Any]]:
    """The rows of a run, when there are so many, by job."""
    async with asyncio.timeout(100):
        while True:
            answer = await site.api().send("GET", f"/runs/{run}/results?wait=5")
            rows = [msgspec.json.decode(line) for line in answer.body.splitlines()]
            if len(rows) >= count:
                return sorted(rows, key=lambda row: int(row["job"]))


async def remembered(site: Site, count: int) -> None:
    """Wait until the memo has so many results, which porter puts there when it has recorded them."""
    async with asyncio.timeout(100):
        while await site.store.count_documents(MEMO) < count:
            await asyncio.sleep(0.02)


async def test_lines_that_were_run_before_are_not_run_again(site: Site) -> None:
    await set_function(site, memo=60)
    first = await a_run(site, LINES)
    await work(site, 4)
    rows = await rows_of(site, first, 4)
    assert not any("memo" in row for row in rows)
    await remembered(site, 4)

    again = await a_run(site, [["new"], *LINES])
    batches = await work(site, 1)
    assert [job.args for batch in batches for job in batch.jobs] == [b'["new"]'], "nothing else reaches a worker"
    answered = await rows_of(site, again, 5)
    assert [row.get("memo", False) for row in answered] == [False, True, True, True, True]
    assert [row["result"] for row in answered[1:]] == [row["result"] for row in rows]
    assert {row["version"] for row in answered} == {"v1"}

    await send(site, again, 1, ['{"args": [ {"y": 2,  "x": 1} ]}', '{"args": ["a"], "kwargs": {}}'])
    both = [row for row in await rows_of(site, again, 7) if row["job"] >= 2048]
    assert [row["memo"] for row in both] == [True, True], "however it is spelled"
    statistics = (await site.api().call("GET", f"/runs/{again}"))["statistics"]
    assert (statistics["total"], statistics["succeeded"]) == (7, 7)


async def test_a_single_job_is_answered_from_the_memo_and_says_so(site: Site) -> None:
    await set_function(site, memo=60)
    api = site.api()
    first = await api.call("POST", "/jobs/", {"function": "text/upper", "args": ["a"]}, status=201)
    await work(site, 1)
    await remembered(site, 1)
    second = await api.call("POST", "/jobs/", {"function": "text/upper", "args": ["a"]}, status=201)
    assert first != second
    job = await api.call("GET", f"/jobs/{second}?wait=20")
    assert (job["memo"], job["result"], job["state"]) == (True, 'v1 of ["a"]', "succeeded")
    assert "memo" not in await api.call("GET", f"/jobs/{first}")


async def test_another_version_of_the_code_shows_within_a_minute(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await set_function(site, memo=600)
    await a_run(site, LINES)
    await work(site, 4)
    await remembered(site, 4)
    monkeypatch.setattr(memo, "_CONFIRMED", 0.0)
    run = await a_run(site, LINES)
    await work(site, 1, version="v2")
    rows = await rows_of(site, run, 4)
    assert [row.get("memo", False) for row in rows] == [False, True, True, True], "one is run to see what there is now"
    await remembered(site, 5)
    monkeypatch.setattr(memo, "_CONFIRMED", 60.0)
    run = await a_run(site, LINES)
    await work(site, 3, version="v2")
    assert [row["version"] for row in await rows_of(site, run, 4)] == ["v2"] * 4


async def test_the_same_arguments_are_the_same_job(site: Site) -> None:
    await set_function(site, unique=600)
    api = site.api()
    job = {"function": "text/upper", "args": ["a"], "kwargs": {"x": 1, "y": 2}}
    first = await api.call("POST", "/jobs/", job, status=201)
    assert await api.call("POST", "/jobs/", {**job, "kwargs": {"y": 2, "x": 1}}, status=201) == first
    other, same, third, twice = await api.call(
        "POST", "/jobs/", [{**job, "args": ["b"]}, job, {**job, "args": ["c"]}, {**job, "args": ["b"]}], status=201
    )
    assert same == first
    assert other == twice
    assert len({first, other, third}) == 3
    await work(site, 3)
    for each in (first, other, third):
        assert (await api.call("GET", f"/jobs/{each}?wait=20"))["state"] == "succeeded"
    assert (await api.call("GET", "/jobs/"))["statistics"]["total"] == 3
    ann = await site.add_user("ann", namespaces=("text",))
    assert await ann.call("POST", "/jobs/", job, status=201) != first, "a job is its user's"


async def test_a_repeated_request_for_a_unique_job_gives_its_id(site: Site) -> None:
    await set_function(site, unique=600)
    body = b'{"params": {"function": "text/upper", "args": ["a"]}}'
    answers = [await site.api().send("POST", "/jobs/", body, Idempotency_Key=key) for key in ("k", "k", "other")]
    assert len({answer.body for answer in answers}) == 1


@dataclass
class Stores:
    """Two processes' ways to one store."""

    one: Store
    two: Store


@pytest.fixture
async def stores(urls: tuple[str, str]) -> AsyncIterator[Stores]:
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(open_store(urls[0])) for _ in range(2)]
        yield Stores(*opened)


async def test_of_many_at_once_one_makes_the_job(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSES", (0.05,) * 1200)
    functions = {"text/upper": Function("text/upper", unique=600.0)}
    user = User("ann", b"")
    jobs = [JobParams(function="text/upper", args=msgspec.Raw(b"[%d]" % (number % 5))) for number in range(10)]

    async def ask(store: Store) -> list[str]:
        unique = UniqueJobs(store, user, jobs, functions)
        places = await unique.find()
        run = Run(new_id(), "ann", "text/upper", 2048, created=time.time(), single=True)
        made = [f"{run.id}-{number}" for number in range(len(places))]
        await unique.take(places, made)
        await store.add_run(run)
        return await unique.ids(places, made)

    answers = await asyncio.gather(*(ask(store) for store in (stores.one, stores.two) * 5))
    assert len({tuple(answer) for answer in answers}) == 1
    assert answers[0][:5] == answers[0][5:]
    assert len(set(answers[0])) == 5


async def test_a_key_is_free_again_when_its_time_is_over_or_its_job_never_came(stores: Stores) -> None:
    store = stores.one
    functions = {"text/upper": Function("text/upper", unique=600.0)}
    jobs = [JobParams(function="text/upper")]
    ids = []
    for change in ("", "expires", "made"):
        if change:
            [document] = await store.list_documents(UNIQUE)
            old = store.now() - 100
            fields: dict[str, Any] = (
                {"expires": old} if change == "expires" else {"data": {**document.data, "made": old}}
            )
            await store.replace_document(replace(document, **fields))
        unique = UniqueJobs(store, User("ann", b""), jobs, functions)
        assert await unique.find() == [0]
        ids.append(f"{new_id()}-0")
        assert await unique.take([0], ids[-1:]) == set()
        assert await unique.ids([0], ids[-1:]) == ids[-1:]
    assert len(set(ids)) == 3


async def test_no_one_is_given_a_job_that_was_never_stored_and_its_own_request_stores_it(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAUSES", (0.0,))
    functions = {"text/upper": Function("text/upper", unique=600.0)}
    jobs = [JobParams(function="text/upper")]

    def ask(store: Store, key: str, digest: bytes = b"d") -> UniqueJobs:
        return UniqueJobs(store, User("ann", b""), jobs, functions, (key, digest))

    run = Run(new_id(), "ann", "text/upper", 2048, created=time.time(), single=True)
    ids = [f"{run.id}-0"]
    broke_off = ask(stores.one, "k")
    assert await broke_off.find() == [0]
    assert await broke_off.take([0], ids) == set()
    with pytest.raises(OnItsWay):
        await ask(stores.two, "other").find()
    with pytest.raises(AnotherRequest):
        await ask(stores.two, "k", b"e").find()
    repeat = ask(stores.two, "k")
    assert await repeat.find() == [0]
    assert await repeat.take([0], ids) == set()
    await stores.two.add_run(run)
    assert await repeat.ids([0], ids) == ids
    other = ask(stores.one, "other")
    assert await other.find() == []
    assert await other.ids([], []) == ids


async def test_who_asks_while_the_same_job_is_on_its_way_is_asked_to_come_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAUSES", (0.0,))
    await set_function(site, unique=600)
    api = site.api()
    job = {"function": "text/upper", "args": ["a"]}
    await api.call("POST", "/jobs/", job, status=201)
    [document] = await site.store.list_documents(UNIQUE)
    lost = {"job": f"{new_id()}-0", "made": site.store.now()}
    await site.store.replace_document(replace(document, data=lost))
    message = await api.refused("POST", "/jobs/", job, status=503, code="store_unavailable")
    assert "try again" in message


async def test_a_memo_is_read_once_for_a_block_and_forgets(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stores.one
    function = Function("text/upper", memo=600.0)
    await store.add_function(function)
    run = Run(new_id(), "ann", "text/upper", 2048, created=time.time())
    jobs = batch_from_arguments([Arguments(b"[%d]" % number, b"") for number in range(2048)])
    block = new_block(run, 0, "text/upper", jobs)
    await store.add_blocks([block], run=run)
    results = dts_pb2.ResultBatch(block=block.id, run=run.id, function="text/upper", version="v")
    for number in range(2048):
        results.results.add(index=number, status=dts_pb2.SUCCEEDED, value=b"%d" % number)
    results.results[7].status = dts_pb2.FAILED
    results.results[8].partials = b"[1]"
    results.results[9].value = b'"' + b"x" * memo.MOST_BYTES + b'"'
    await MemoWriter(store, Catalogue(store)).remember([results])
    assert await store.get_document(MEMO_VERSIONS, "text/upper") is not None

    calls = []
    get_documents = store.get_documents
    monkeypatch.setattr(
        store, "get_documents", lambda *given, **named: calls.append(given) or get_documents(*given, **named)
    )
    answer = await answer_from_memo(store, function, block, decode_block(block))
    assert answer is not None
    assert answer.succeeded == ((1 << 2048) - 1) & ~(7 << 7), "not what failed, yielded, or is large"
    assert len(calls) == 2, "one for the version, one for all jobs"
    assert await answer_from_memo(store, replace(function, memo=None), block, decode_block(block)) is None

    stored = await get_documents(MEMO, [each.id for each in await store.list_documents(MEMO, limit=10)], body=True)
    await store.put_documents([replace(each, expires=store.now() - 1) for each in stored])
    less = await answer_from_memo(store, function, block, decode_block(block))
    assert less is not None
    assert less.succeeded.bit_count() == 2048 - 3 - 10


async def test_a_memo_that_is_full_takes_no_more(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stores.one
    monkeypatch.setattr(memo, "MOST_RESULTS", 3)
    monkeypatch.setattr(memo, "_COUNT_EACH", 1)
    await store.add_function(Function("text/upper", memo=600.0))
    run = Run(new_id(), "ann", "text/upper", 10, created=time.time())
    batch = batch_from_arguments([Arguments(b"[%d]" % number, b"") for number in range(10)])
    await store.add_blocks([new_block(run, 0, "text/upper", batch)], run=run)
    writer = MemoWriter(store, Catalogue(store))
    for number in range(10):
        results = dts_pb2.ResultBatch(block=f"{run.id}-0", run=run.id, function="text/upper", version="v")
        results.results.add(index=number, status=dts_pb2.SUCCEEDED, value=b"1")
        await writer.remember([results])
    assert await store.count_documents(MEMO) == 4
