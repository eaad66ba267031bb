"""Runs: blocks in, results out, pause, close, cancel."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from dts.model import bitmap
from dts.server.handlers import runs as handlers
from dts.wire import codec, dts_pb2
from dts.wire.dts_pb2 import JobBatch, ResultBatch, ResultPage
from tests.integration.conftest import Api, Site, check_refusal
from tests.services.waiting import within

PROTOBUF = "application/x-protobuf"


def ndjson(count: int, start: int = 0) -> bytes:
    return b"".join(b'{"args": [%d]}\n' % number for number in range(start, start + count))


async def open_run(api: Api, function: str = "text/upper") -> str:
    run = await api.call("POST", "/runs/", {"function": function}, status=201)
    assert run["block_size"] == 2048
    assert run["max_body"] == 200_000
    return str(run["id"])


async def read_rows(api: Api, run: str, query: str = "wait=5") -> list[dict[str, Any]]:
    answer = await api.send("GET", f"/runs/{run}/results?{query}")
    assert answer.code == 200, answer.body
    return msgspec.json.Decoder().decode_lines(answer.body)


async def test_a_block_goes_out_as_messages_and_comes_back_as_results(site: Site) -> None:
    api = site.api()
    run = await open_run(api)
    assert (await api.send("PUT", f"/runs/{run}/blocks/3", ndjson(10))).code == 201
    batches = await site.take_messages(10)
    assert [job.index for batch in batches for job in batch.jobs] == list(range(10))
    assert {(batch.run, batch.block, batch.function) for batch in batches} == {(run, f"{run}-3", "text/upper")}
    assert batches[0].jobs[1].args == b"[1]"
    for batch in batches:
        await site.finish(batch, fail=(4,))
    rows: list[dict[str, Any]] = []
    while len(rows) < 10:
        fresh = await read_rows(api, run)
        rows += fresh
        receipts = list({row["receipt"] for row in fresh})
        assert await api.call("POST", f"/runs/{run}/collected", {"receipts": receipts}) == {"jobs": len(fresh)}
    rows.sort(key=lambda row: row["job"])
    assert [row["job"] for row in rows] == [3 * 2048 + index for index in range(10)]
    assert [row["success"] for row in rows] == [index != 4 for index in range(10)]
    assert rows[0]["result"] == "done"
    assert rows[4]["error"]["type"] == "ValueError"
    assert await read_rows(api, run, "wait=0") == []
    assert await api.call("POST", f"/runs/{run}/collected", {"receipts": receipts}) == {"jobs": 0}


async def test_protobuf_passes_through_as_it_is(site: Site) -> None:
    api = site.api()
    run = await open_run(api)
    batch = JobBatch(jobs=[dts_pb2.Job(index=index, args=b'["x"]') for index in range(100)])
    encoded = codec.encode(batch)
    headers = {"Content_Type": PROTOBUF, "Content_Encoding": encoded.content_encoding}
    assert (await api.send("PUT", f"/runs/{run}/blocks/0", encoded.body, **headers)).code == 201
    for message in await site.take_messages(100):
        await site.finish(message)
    seen = 0
    while seen < bitmap.full(100):
        answer = await api.send("GET", f"/runs/{run}/results?wait=5", Accept=PROTOBUF)
        assert answer.headers["Content-Type"] == PROTOBUF
        page = ResultPage.FromString(answer.body)
        for part in page.parts:
            results = codec.decode(ResultBatch, part.body, part.content_encoding)
            assert {result.value for result in results.results} == {b'"done"'}
            assert part.block == 0
            assert seen & bitmap.from_bytes(part.jobs) == 0
            seen |= bitmap.from_bytes(part.jobs)
        await api.call("POST", f"/runs/{run}/collected", {"receipts": [part.receipt for part in page.parts]})


async def test_the_same_block_again_changes_nothing_and_another_is_a_conflict(site: Site) -> None:
    api = site.api()
    run = await open_run(api)
    assert (await api.send("PUT", f"/runs/{run}/blocks/0", ndjson(5))).code == 201
    assert (await api.send("PUT", f"/runs/{run}/blocks/0", ndjson(5))).code == 200
    batch = JobBatch(jobs=[dts_pb2.Job(index=index, args=b"[%d]" % index) for index in range(5)])
    repeat = await api.send("PUT", f"/runs/{run}/blocks/0", batch.SerializeToString(), Content_Type=PROTOBUF)
    assert repeat.code == 200, "the same jobs in another format are the same block"
    check_refusal(await api.send("PUT", f"/runs/{run}/blocks/0", ndjson(6)), 409, "block_conflict")
    check_refusal(await api.send("PUT", f"/runs/{run}/blocks/0", ndjson(5, start=1)), 409, "block_conflict")
    assert (await api.call("GET", f"/runs/{run}"))["statistics"]["total"] == 5


async def test_bad_blocks_are_refused_naming_the_line(site: Site) -> None:
    api = site.api()
    run = await open_run(api)
    path = f"/runs/{run}/blocks/0"
    for body, code, named in [
        (b"", "argument_invalid", "no job"),
        (b'{"args": [1]}\n{"args": 2}\n', "argument_invalid", "line 2"),
        (b'{"args": [1]}\n{"args": [2]}\n{"args": [\n', "argument_invalid", "line 3"),
        (b'{"args": [1], "x": 1}\n', "argument_invalid", "x"),
        (b'{"args": [1e999]}\n', "argument_invalid", "line 1"),
        (b'{"kwargs": []}\n', "argument_invalid", "kwargs"),
        (b'{"args": ' + b"[" * 90_000 + b"]" * 90_000 + b"}\n", "argument_invalid", "nested"),
    ]:
        assert named in check_refusal(await api.send("PUT", path, body), 400, code), body[:50]
    check_refusal(await api.send("PUT", path, ndjson(2049)), 413, "too_large")
    check_refusal(await api.send("PUT", path, b"\xff\xff", Content_Type=PROTOBUF), 400, "body_invalid")
    check_refusal(await api.send("PUT", path, b"x", Content_Encoding="deflate"), 400, "body_invalid")
    check_refusal(await api.send("PUT", path, b"x", Content_Encoding="br"), 415, "unsupported_media_type")
    check_refusal(await api.send("PUT", path, b"x", Content_Type="image/png"), 415, "unsupported_media_type")
    check_refusal(await api.send("PUT", f"/runs/{run}/blocks/x", ndjson(1)), 404, "not_found")
    wrong = JobBatch(jobs=[dts_pb2.Job(index=5)]).SerializeToString()
    check_refusal(await api.send("PUT", path, wrong, Content_Type=PROTOBUF), 400, "argument_invalid")
    assert (await api.call("GET", f"/runs/{run}"))["statistics"]["total"] == 0


async def test_a_bomb_in_a_block_is_refused(site: Site) -> None:
    api = site.api()
    run = await open_run(api)
    bomb = codec.compress(bytes(100_000_000))
    answer = await api.send("PUT", f"/runs/{run}/blocks/0", bomb.body, Content_Encoding="deflate")
    check_refusal(answer, 413, "too_large")


async def test_a_closed_run_takes_no_more_and_finishes(site: Site) -> None:
    api = site.api()
    run = await open_run(api)
    await api.send("PUT", f"/runs/{run}/blocks/0", ndjson(3))
    closed = await api.call("PATCH", f"/runs/{run}", {"state": "closed"})
    assert (closed["state"], closed["finished"]) == ("closed", False)
    check_refusal(await api.send("PUT", f"/runs/{run}/blocks/1", ndjson(3)), 409, "run_not_open")
    assert (await api.send("PUT", f"/runs/{run}/blocks/0", ndjson(3))).code == 200, "a repeat stays a repeat"
    for batch in await site.take_messages(3):
        await site.finish(batch)
    while not (state := await api.call("GET", f"/runs/{run}"))["finished"]:
        await read_rows(api, run)
    assert state["statistics"]["succeeded"] == 3


async def test_a_wait_for_results_ends_when_they_come(site: Site) -> None:
    api = site.api()
    run = await open_run(api)
    await api.send("PUT", f"/runs/{run}/blocks/0", ndjson(1))
    waiting = asyncio.create_task(read_rows(api, run, "wait=30"))
    [batch] = await site.take_messages(1)
    assert not waiting.done()
    await site.finish(batch)
    async with within():
        assert len(await waiting) == 1


async def test_a_paused_run_is_stored_and_goes_out_when_resumed(site: Site) -> None:
    api = site.api()
    run = await open_run(api)
    assert (await api.call("PATCH", f"/runs/{run}", {"state": "paused"}))["paused"] is True
    await api.send("PUT", f"/runs/{run}/blocks/0", ndjson(3))
    assert (await api.call("GET", f"/runs/{run}"))["statistics"]["accepted"] == 3
    assert (await api.call("PATCH", f"/runs/{run}", {"state": "open"}))["paused"] is False
    async with within():
        assert sum(len(batch.jobs) for batch in await site.take_messages(3)) == 3


@pytest.mark.parametrize("path", ["/runs/", "/admin/runs/"])
async def test_a_run_that_has_finished_cannot_be_cancelled(site: Site, path: str) -> None:
    api = site.api()
    run = (await api.call("POST", "/runs/", {"function": "text/upper"}, status=201))["id"]
    assert (await api.send("PUT", f"/runs/{run}/blocks/0", b"{}\n{}\n")).code == 201
    await api.call("PATCH", f"/runs/{run}", {"state": "closed"})
    [batch] = await site.take_messages(2)
    await site.finish(batch)
    async with within():
        while not (await api.call("GET", f"/runs/{run}"))["finished"]:
            await asyncio.sleep(0.02)
    message = await api.refused("DELETE", f"{path}{run}", status=409, code="run_ended")
    assert "has finished already" in message
    assert (await api.call("GET", f"/runs/{run}"))["state"] == "closed"


async def test_an_open_run_is_cancelled_also_when_nothing_is_under_way_and_stays_so(site: Site) -> None:
    api = site.api()
    run = (await api.call("POST", "/runs/", {"function": "text/upper"}, status=201))["id"]
    for _ in range(2):
        assert (await api.call("DELETE", f"/runs/{run}"))["state"] == "cancelled"
    check_refusal(await api.send("PUT", f"/runs/{run}/blocks/0", b"{}"), 409, "run_not_open")


async def test_cancelling_a_run_ends_what_has_not_ended(site: Site) -> None:
    api = site.api()
    run = await open_run(api)
    await api.send("PUT", f"/runs/{run}/blocks/0", ndjson(10))
    batches = await site.take_messages(10)
    await site.finish(batches[0])
    done = len(batches[0].jobs)
    assert len(await read_rows(api, run)) == done
    cancelled = await api.call("DELETE", f"/runs/{run}")
    assert (cancelled["state"], cancelled["finished"]) == ("cancelled", True)
    assert cancelled["statistics"]["succeeded"] == done
    assert cancelled["statistics"]["cancelled"] == 10 - done
    await site.finish(batches[1])  # a worker that did not hear of it
    rows = await read_rows(api, run)
    assert sorted(row["success"] for row in rows) == [False] * (10 - done) + [True] * done
    assert {row["error"]["type"] for row in rows if not row["success"]} == {"Cancelled"}
    check_refusal(await api.send("PUT", f"/runs/{run}/blocks/1", ndjson(1)), 409, "run_not_open")
    await api.refused("PATCH", f"/runs/{run}", {"state": "closed"}, status=409, code="run_not_open")


async def test_runs_are_listed_newest_first(site: Site) -> None:
    api = site.api()
    runs = [await open_run(api) for _ in range(3)]
    assert [run["id"] for run in await api.call("GET", "/runs/?limit=2")] == [runs[2], runs[1]]
    assert [run["id"] for run in await api.call("GET", f"/runs/?after={runs[1]}")] == [runs[0]]


async def test_runs_of_single_jobs_do_not_drown_those_of_files(site: Site) -> None:
    api = site.api()
    run = await open_run(api)
    jobs = [await api.call("POST", "/jobs/", {"function": "text/upper"}, status=201) for _ in range(3)]
    for path in ("/runs/", "/admin/runs/", "/admin/runs/?user=admin"):
        listed = await api.call("GET", path)
        assert [each["id"] for each in listed] == [run]
        assert "single" not in listed[0]
        everything = await api.call("GET", f"{path}{'&' if '?' in path else '?'}all=true")
        assert [each["id"] for each in everything] == [*(job.partition("-")[0] for job in jobs[::-1]), run]
        assert [each.get("single") for each in everything] == [True] * 3 + [None]
    await api.refused("GET", "/runs/?all=perhaps", status=400, code="argument_invalid")


async def test_a_page_of_text_ends_after_some_bytes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored is compressed: a page of it may be many times larger as text."""
    monkeypatch.setattr(handlers, "_MAX_PAGE_BYTES", 50_000)
    api = site.api()
    run = await open_run(api)
    assert (await api.send("PUT", f"/runs/{run}/blocks/0", ndjson(20))).code == 201
    for batch in await site.take_messages(20):
        await site.finish(batch, value=b'"%s"' % (b"x" * 10_000))
    async with within():
        while (await site.store.run_statistics(run)).ended < 20:
            await asyncio.sleep(0.02)
    numbers: list[int] = []
    pages = 0
    while rows := await read_rows(api, run, "max=100000"):
        pages += 1
        assert len(rows) < 20
        numbers += [row["job"] for row in rows]
        receipts = list({row["receipt"] for row in rows})
        assert await api.call("POST", f"/runs/{run}/collected", {"receipts": receipts}) == {"jobs": len(rows)}
    assert sorted(numbers) == list(range(20))
    assert pages > 1


async def test_receipts_are_bounded(site: Site) -> None:
    api = site.api()
    path = f"/runs/{await open_run(api)}/collected"
    message = await api.refused("POST", path, {"receipts": ["0.0"] * 20_001}, status=400, code="argument_invalid")
    assert "20000" in message
    assert await api.call("POST", path, {"receipts": ["0.0"] * 20_000}) == {"jobs": 0}


async def test_a_list_of_no_runs_is_refused(site: Site) -> None:
    await site.api().refused("GET", "/runs/?limit=0", status=400, code="argument_invalid")


async def test_priority_and_weight_are_asked_for_shown_and_changed(site: Site) -> None:
    api = site.api()
    run = await api.call("POST", "/runs/", {"function": "text/upper", "priority": 9, "weight": 2.5}, status=201)
    assert (run["priority"], run["weight"]) == (9, 2.5)
    changed = await api.call("PATCH", f"/runs/{run['id']}", {"priority": 0, "state": "paused"})
    assert (changed["priority"], changed["weight"], changed["paused"]) == (0, 2.5, True)
    changed = await api.call("PATCH", f"/runs/{run['id']}", {"priority": None, "weight": 1})
    assert not {"priority", "weight"} & changed.keys()
    assert (await api.call("PATCH", f"/runs/{run['id']}", {"state": "closed"}))["state"] == "closed"


@pytest.mark.parametrize("asked", [{"priority": 10}, {"priority": -1}, {"weight": 0}, {"priority": 1.5}, {}])
async def test_no_other_priorities_and_weights(site: Site, asked: dict[str, Any]) -> None:
    api = site.api()
    run = await open_run(api)
    code = "argument_invalid" if asked else "argument_missing"
    check_refusal(await api.send("PATCH", f"/runs/{run}", msgspec.json.encode({"params": asked})), 400, code)


async def test_jobs_of_one_request_have_priorities_of_their_own(site: Site) -> None:
    api = site.api()
    jobs = [{"function": "text/upper", "priority": priority} for priority in (1, None, 1)]
    ids = await api.call("POST", "/jobs/", jobs, status=201)
    run = ids[0].partition("-")[0]
    blocks = [await site.store.get_block(f"{run}-{number}") for number in range(2)]
    assert [(block.count, block.priority) for block in blocks if block] == [(2, 1), (1, None)]
    shown = await api.call("PATCH", f"/runs/{run}", {"priority": 7})
    assert shown["priority"] == 7
    check_refusal(await api.send("PATCH", f"/runs/{run}", b'{"params": {"weight": 2}}'), 400, "argument_invalid")
