"""A resumed run whose input is compared with what it was: interrupted meanwhile, or found to differ."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dts.client import DtsClient
from dts.client.components import IterableComponent
from dts.client.processors import FunctionProcessor
from dts.client.run.ledger import hash_lines
from dts.client.run.ledger_state import Header, KnownBlock, LedgerState
from dts.client.run.session import RunSpec
from dts.errors import InputChanged
from dts.wire import dts_pb2
from tests.integration.client.test_run import BLOCK_SIZE, MAX_BODY, FakeServer, client, server

__all__ = ["client", "server"]


async def test_results_of_lines_that_were_not_reached_stay_on_the_server(client: DtsClient, server: FakeServer) -> None:
    state = LedgerState(Header(server.run_id, server.url, "text/upper", BLOCK_SIZE, MAX_BODY))
    for number, args in enumerate((b'["a"]', b'["b"]')):
        server.work(number, dts_pb2.JobBatch(jobs=[dts_pb2.Job(index=0, args=args)], first_line=number + 1))
        state.add(KnownBlock(number, array("Q", [number + 1]), hash_lines([args], None), stored=True), lost=0)
    server.state = "open"
    waiting = asyncio.Event()

    async def lines() -> AsyncIterator[str]:
        yield "a"
        waiting.set()
        await asyncio.Event().wait()

    rows: list[dict[str, Any]] = []
    spec = RunSpec("text/upper", IterableComponent(lines()), FunctionProcessor(rows.append), resumed=state)
    running = asyncio.create_task(client.run_spec(spec))
    await waiting.wait()
    client.stop()
    await running
    assert {int(receipt.partition(".")[0]) + 1 for receipt in server.collected} <= {row["line"] for row in rows}
    assert any(part.block == 1 for part in server.parts.values())


async def test_a_line_that_has_its_row_and_can_be_read_now_is_a_change(client: DtsClient, server: FakeServer) -> None:
    state = LedgerState(Header(server.run_id, server.url, "text/upper", BLOCK_SIZE, MAX_BODY), local={2})
    packed = hash_lines([b'["a"]'], None)
    state.add(KnownBlock(0, array("Q", [1]), packed, stored=True, done=1), lost=0)
    server.state = "open"
    rows: list[dict[str, Any]] = []
    spec = RunSpec("text/upper", IterableComponent(["a", "b", "c"]), FunctionProcessor(rows.append), resumed=state)
    with pytest.raises(InputChanged, match="line 2 of the input could not be sent when the run began"):
        await client.run_spec(spec)
    assert not server.blocks
