"""A message alone gives the server no orders: what it runs, and for whom, is in the store."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from dts.broker import Message
from dts.model import DeadLetter, Run, job_id, new_id
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.wire import codec, dts_pb2
from dts.wire.queues import RESULTS, jobs_queue
from tests.integration.conftest import Site
from tests.services.waiting import within


async def stored(site: Site, user: str, function: str, *arguments: bytes) -> dts_pb2.JobBatch:
    """Jobs in the store, as the server publishes them."""
    run = Run(new_id(), user, function, 2048, created=time.time())
    batch = batch_from_arguments([Arguments(each, b"") for each in arguments])
    block = replace(new_block(run, 0, function, batch), published=True)
    await site.store.add_blocks([block], run=run)
    batch.block, batch.run, batch.function = block.id, run.id, function
    return batch


async def order(site: Site, batch: dts_pb2.JobBatch, queue: str = jobs_queue("server")) -> None:
    headers: dict[str, str | int] = {"block": batch.block, "run": batch.run, "function": batch.function}
    await site.broker.publish(queue, [Message(*codec.encode(batch), headers)])


async def letter(site: Site, count: int = 1) -> DeadLetter:
    async with within():
        while len(letters := await site.store.list_dead_letters()) < count:
            await asyncio.sleep(0.02)
    return letters[-1]


async def test_a_plugin_runs_what_is_in_the_store_not_what_the_message_says(site: Site) -> None:
    batch = await stored(site, "admin", "server/ping", b"[]")
    batch.jobs[0].args = b'["another argument"]'
    await order(site, batch)
    done = await site.api().call("GET", f"/jobs/{job_id(batch.run, 0)}?wait=10")
    assert (done["state"], done["result"]) == ("succeeded", "pong")


async def test_a_plugin_does_not_run_for_a_block_that_nobody_has_asked_for(site: Site) -> None:
    run = new_id()
    batch = dts_pb2.JobBatch(block=f"{run}-0", run=run, function="server/ping")
    batch.jobs.add(index=0)
    await order(site, batch)
    assert "nobody has asked for block" in (await letter(site)).reason


async def test_a_plugin_does_not_run_for_the_block_of_another_function(site: Site) -> None:
    batch = await stored(site, "admin", "text/upper", b'["x"]')
    batch.function = "server/ping"
    await order(site, batch)
    assert "nobody has asked for block" in (await letter(site)).reason


async def test_a_plugin_does_not_run_for_a_user_who_is_no_administrator(site: Site) -> None:
    await site.add_user("alice")
    batch = await stored(site, "alice", "server/ping", b"[]")
    await order(site, batch)
    assert "for administrators only" in (await letter(site)).reason
    done = await site.api("alice", "secret of alice").call("GET", f"/jobs/{job_id(batch.run, 0)}?wait=10")
    assert done["state"] == "failed"


async def test_results_count_only_for_the_jobs_that_their_worker_was_given(site: Site) -> None:
    own = await stored(site, "admin", "text/upper", b'["x"]')
    others = await stored(site, "admin", "text/upper", b'["y"]')
    forged = dts_pb2.ResultBatch(block=others.block, run=others.run, function=others.function, worker="w")
    forged.results.add(index=0, status=dts_pb2.SUCCEEDED, value=b'"forged"')
    headers: dict[str, str | int] = {"block": own.block, "run": own.run, "function": own.function, "count": 1}
    await site.broker.publish(RESULTS, [Message(*codec.encode(forged), headers)])
    assert "its worker was given" in (await letter(site)).reason
    outcome = await site.store.get_outcome(others.block)
    assert outcome is not None
    assert outcome.ended == 0


async def test_a_value_that_is_not_json_breaks_out_of_no_answer(site: Site) -> None:
    batch = await stored(site, "admin", "text/upper", b'["x"]', b'["y"]')
    results = dts_pb2.ResultBatch(block=batch.block, run=batch.run, function=batch.function, worker="w")
    results.results.add(index=0, status=dts_pb2.SUCCEEDED, value=b'"x", "state": "succeeded", "owner": "admin"')
    results.results.add(index=1, status=dts_pb2.SUCCEEDED, value=b'"Y"')
    await site.broker.publish(RESULTS, [Message(*codec.encode(results))])
    api = site.api()
    bad = await api.call("GET", f"/jobs/{job_id(batch.run, 0)}?wait=10")
    assert (bad["state"], bad["error"]["reason"]) == ("failed", "not_json")
    assert "owner" not in bad
    good = await api.call("GET", f"/jobs/{job_id(batch.run, 1)}?wait=10")
    assert (good["state"], good["result"]) == ("succeeded", "Y")
