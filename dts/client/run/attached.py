"""A run that another client began, put together from what the server has of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dts.client.components import IterableComponent
from dts.client.processors import ResultProcessor
from dts.client.run.ledger_state import Header, KnownBlock, LedgerState
from dts.client.run.remote import RemoteRun, RunInfo
from dts.client.run.session import RunSpec
from dts.client.transport import Transport

_MAX_BODY = 64 * 1024
"""Bytes of a request that every server takes: receipts go back in pieces of that size."""


async def attached_spec(
    transport: Transport,
    run: str,
    processor: ResultProcessor,
    *,
    again: bool = False,
    settings: Mapping[str, Any] | None = None,
    resumed: LedgerState | None = None,
) -> tuple[RunSpec, bool]:
    """The run to collect, and whether it is still open: more lines may be sent to it.

    With `again` also what was collected before is collected. `resumed` is how far an earlier attempt at this was.

    Raises:
        RequestRefused: there is no such run.
        ServerUnavailable: it was given up.
    """
    view = await RemoteRun(transport, RunInfo(run, 0, _MAX_BODY)).view()
    size = view["block_size"]
    header = Header(run, transport.server_url, view["function"], size, _MAX_BODY, dict(settings or {}))
    state = resumed or LedgerState(header)
    for block in await RemoteRun(transport, RunInfo(run, size, _MAX_BODY)).blocks():
        if block.block not in state.blocks:
            lines = block.line_numbers(size)
            state.blocks[block.block] = KnownBlock(block.block, lines, bytes(8 * len(lines)), stored=True)
            state.end = 0  # the ledger that was read has not got this block: it is written anew
    state.closed = sum(block.count for block in state.blocks.values())
    spec = RunSpec(
        view["function"],
        IterableComponent(()),
        processor,
        resumed=state,
        settings=settings,
        rereadable=False,
        attached=True,
        again=again,
        rereads=again or not view["finished"],
    )
    return spec, view["state"] == "open"
