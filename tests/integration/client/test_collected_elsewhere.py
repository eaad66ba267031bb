"""Results that do not come the usual way: another client has collected them, or their block was refused and stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dts.client import DtsClient
from dts.errors import ClientError, RunCancelled
from dts.wire import codec, dts_pb2
from tests.integration.client.test_run import MAX_BODY, FakeServer, Handler, client, run_lines, server

__all__ = ["client", "server"]


def another_client_collects(handler: Handler) -> bool:
    """What this request asks for was given to another client just before, once there is something."""
    if not handler.server.parts:
        handler.server.faults[handler.what].append(another_client_collects)
    handler.server.parts.clear()
    return False


async def test_rows_of_results_that_another_client_collected(
    client: DtsClient, server: FakeServer, tmp_path: Path
) -> None:
    server.faults["GET /runs/ID/results"] += [another_client_collects, lambda _: False, another_client_collects]
    rows = await run_lines(client, tmp_path, "".join(f"line {n}\n" for n in range(1000)))
    assert [row["result"] for row in rows] == [f"LINE {n}" for n in range(1000)]


async def attach(client: DtsClient, server: FakeServer) -> list[dict[str, Any]]:
    return [row async for row in client.attach(server.run_id)]


async def with_blocks(server: FakeServer, *arguments: bytes) -> None:
    for number, args in enumerate(arguments):
        server.blocks[number] = dts_pb2.JobBatch(jobs=[dts_pb2.Job(index=0, args=args)], first_line=number + 1)
        server.work(number, server.blocks[number])
    server.state = "closed"


async def test_one_that_attaches_beside_another_client_gets_every_row(client: DtsClient, server: FakeServer) -> None:
    await with_blocks(server, b'["a"]', b'["b"]')
    server.faults["GET /runs/ID/results"].append(another_client_collects)
    assert sorted(row["result"] for row in await attach(client, server)) == ["A", "B"]


async def test_what_was_collected_before_is_read_only_when_that_is_asked_for(
    client: DtsClient, server: FakeServer
) -> None:
    await with_blocks(server, b'["a"]', b'["b"]')
    server.parts.clear()
    with pytest.raises(ClientError, match="but 2 lines have none; `attach --again` has those"):
        await attach(client, server)
    assert len([row async for row in client.attach(server.run_id, again=True)]) == 2


@pytest.mark.parametrize("stored", [True, False])
async def test_a_block_that_was_refused_has_its_rows_if_the_server_stored_it(
    stored: bool, client: DtsClient, server: FakeServer
) -> None:
    def refuse(handler: Handler) -> bool:
        batch = codec.decode(dts_pb2.JobBatch, handler.request.body, max_size=MAX_BODY)
        if stored:
            server.blocks[0] = batch
            server.work(0, batch)
        server.state = "cancelled"
        return handler.error(409, "run_not_open", "it takes no more blocks")

    server.faults["PUT /runs/ID/blocks/0"].append(refuse)
    rows: list[dict[str, Any]] = []
    count = 3 if stored else 0
    with pytest.raises(RunCancelled, match=f"{count} lines have a row"):
        await client.run("text/upper", ["a", "b", "c"], rows.append)
    assert sorted(row["line"] for row in rows) == [1, 2, 3][:count]
