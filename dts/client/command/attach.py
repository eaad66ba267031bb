"""`dts-client attach RUN OUTFILE [SERVER_URL]`: collect the rows of a run that another command began."""

from __future__ import annotations

import argparse

from dts.client.client import DtsClient
from dts.client.command.files import RunFiles
from dts.client.components import IterableComponent
from dts.client.run.ledger_state import Header, KnownBlock, LedgerState
from dts.client.run.remote import RemoteRun, RunInfo
from dts.client.run.session import RunSpec
from dts.errors import ClientError

_MAX_BODY = 64 * 1024
"""Bytes of a request that every server takes: receipts go back in pieces of that size."""


async def attach_spec(client: DtsClient, files: RunFiles, options: argparse.Namespace) -> tuple[RunSpec, bool]:
    """The run to collect, and whether it is still open: more lines may be sent to it.

    Raises:
        RequestRefused: there is no such run.
        ClientError: OUTFILE holds another run.
    """
    transport = client.transport
    view = await RemoteRun(transport, RunInfo(options.run, 0, _MAX_BODY)).view()
    if files.resumed is not None and files.resumed.header.id != options.run:
        raise ClientError(f"{options.outfile} holds the run {files.resumed.header.id}: --overwrite begins anew")
    size = view["block_size"]
    remote = RemoteRun(transport, RunInfo(options.run, size, _MAX_BODY))
    header = Header(options.run, transport.server_url, view["function"], size, _MAX_BODY, dict(files.settings))
    state = files.resumed or LedgerState(header)
    for block in await remote.blocks():
        if block.block not in state.blocks:
            lines = block.line_numbers(size)
            state.blocks[block.block] = KnownBlock(block.block, lines, bytes(8 * len(lines)), stored=True)
    state.closed = sum(block.count for block in state.blocks.values())
    spec = RunSpec(
        view["function"],
        IterableComponent(()),
        files.writer,
        ledger=files.ledger,
        resumed=state,
        settings=files.settings,
        outputs=files.outputs,
        rereadable=False,
        attached=True,
        again=options.again,
    )
    return spec, view["state"] == "open"
