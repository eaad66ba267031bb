"""A job that takes longer than RabbitMQ lets a consumer keep a message. Takes minutes: `scripts/test -m slow`.

RabbitMQ looks for late consumers about once a minute, so that one with a timeout of a minute is noticed after two.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dts.broker import open_broker
from dts.wire.dts_pb2 import RETRY
from dts.wire.queues import RESULTS
from dts.worker.worker import Worker
from tests.services import rabbitmq
from tests.services.worker_bench import Bench, value

SECONDS = 150.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


async def test_a_leased_job_outlasts_the_consumer_timeout(tmp_path: Path) -> None:
    functions = tmp_path / "functions"
    functions.mkdir()
    server = rabbitmq.RabbitServer()
    with (server.folder / "rabbitmq.conf").open("a") as config:
        config.write("consumer_timeout = 60000\n")
    with server:
        async with open_broker(server.url) as broker, await broker.consume(RESULTS, prefetch=1000) as results:
            bench = Bench(broker, results, functions)
            log = functions / "log"
            bench.write(
                "own/long",
                "import time\n"
                "def main(log, seconds):\n"
                "    with open(log, 'a') as file: file.write('begun\\n')\n"
                "    time.sleep(seconds)\n"
                "    return 'done'\n",
            )
            async with Worker(bench.settings(lease=30), broker):
                run = await bench.send("own/long", [str(log), SECONDS], lease=True)
                async with asyncio.timeout(SECONDS + 30):
                    while not any(batch.results for batch in bench.batches):
                        await bench.receive()
                (result,) = await bench.wait(run, 1)
            assert value(result) == "done"
            assert result.status != RETRY
            assert log.read_text() == "begun\n"
            claims = [claim for batch in bench.batches for claim in batch.claims]
            assert len(claims) > SECONDS / 10 - 5
