"""A client that attaches to a run whose own client is still at work, or has been."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import pytest

from dts.client import DtsClient, cli
from dts.client.command.options import build_attach_parser
from dts.client.components import IterableComponent
from dts.client.processors import FunctionProcessor
from dts.client.run.ledger_state import Header, KnownBlock, LedgerState
from dts.client.run.session import RunSpec
from dts.errors import ConfigError
from dts.runtime.process import Shutdown
from dts.wire import dts_pb2
from tests.integration.client.test_run import BLOCK_SIZE, MAX_BODY, FakeServer, client, server

__all__ = ["client", "server"]


async def test_blocks_that_are_sent_later_are_left_to_others(client: DtsClient, server: FakeServer) -> None:
    for number, args in ((1, b'["b"]'), (0, b'["a"]')):
        server.work(number, dts_pb2.JobBatch(jobs=[dts_pb2.Job(index=0, args=args)], first_line=number + 1))
    state = LedgerState(Header(server.run_id, server.url, "text/upper", BLOCK_SIZE, MAX_BODY), closed=1)
    state.add(KnownBlock(0, array("Q", [1]), bytes(8), stored=True), lost=0)
    server.state = "open"
    rows: list[dict[str, Any]] = []
    processor = FunctionProcessor(rows.append)
    spec = RunSpec("text/upper", IterableComponent(()), processor, resumed=state, rereadable=False, attached=True)
    await client.run_spec(spec)
    assert [row["result"] for row in rows] == ["A"]
    assert server.collected == ["0.0"]
    assert list(server.parts) == ["1.0"]


async def test_rows_cannot_show_arguments(server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DTS_USERNAME", "alice")
    monkeypatch.setenv("DTS_SECRET", "secret")
    argv = [server.run_id, str(tmp_path / "out"), server.url, "--fields", "args"]
    options = build_attach_parser().parse_intermixed_args(argv)
    with pytest.raises(ConfigError, match="cannot show args or kwargs"):
        await cli.attach(options, Shutdown())
