"""What a running job has told of itself, and what remains of that when it is cancelled."""

from __future__ import annotations

import asyncio

from dts.broker import Message
from dts.wire import codec, dts_pb2, queues
from tests.integration.conftest import Site
from tests.services.waiting import within


async def test_what_a_running_job_has_told_is_on_record_when_it_is_cancelled(site: Site) -> None:
    api = site.api()
    told, silent = await api.call("POST", "/jobs/", [{"function": "text/upper"}] * 2, status=201)
    batch = dts_pb2.JobBatch()
    for each in await site.take_messages(2):
        batch.MergeFrom(each)
    progress = [dts_pb2.Progress(index=0, partials=b"[1,2]"), dts_pb2.Progress(index=1, done=1)]
    news = dts_pb2.ResultBatch(block=batch.block, run=batch.run, function=batch.function, worker="w", version="v1")
    news.running.extend(range(2))
    news.progress.extend(progress)
    await site.broker.publish(queues.RESULTS, [Message(*codec.encode(news))])
    for job, key in ((told, "partials"), (silent, "progress")):
        async with within():
            while key not in await api.call("GET", f"/jobs/{job}"):
                await asyncio.sleep(0.02)
        await api.call("DELETE", f"/jobs/{job}")
    first, second = [await api.call("GET", f"/jobs/{job}") for job in (told, silent)]
    assert (first["state"], first["partials"], first["version"]) == ("cancelled", [1, 2], "v1")
    assert (second["state"], "partials" in second, second["version"]) == ("cancelled", False, "v1")
