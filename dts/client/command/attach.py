"""`dts-client attach RUN OUTFILE [SERVER_URL]`: collect the rows of a run that another command began."""

from __future__ import annotations

import argparse
from dataclasses import replace

from dts.client.client import DtsClient
from dts.client.command.files import RunFiles
from dts.client.run.attached import attached_spec
from dts.client.run.session import RunSpec
from dts.errors import ClientError, ConfigError


async def attach_spec(client: DtsClient, files: RunFiles, options: argparse.Namespace) -> tuple[RunSpec, bool]:
    """The run to collect, and whether it is still open: more lines may be sent to it.

    Raises:
        RequestRefused: there is no such run.
        ClientError: OUTFILE holds another run.
        ConfigError: rows are to show arguments, which only the client that began the run has.
    """
    if files.writer.keep_arguments:
        raise ConfigError("rows of `attach` cannot show args or kwargs: only the client that began the run has them")
    if files.resumed is not None and files.resumed.header.id != options.run:
        raise ClientError(f"{options.outfile} holds the run {files.resumed.header.id}: --overwrite begins anew")
    spec, still_open = await attached_spec(
        client.transport,
        options.run,
        files.writer,
        again=options.again,
        settings=files.settings,
        resumed=files.resumed,
    )
    return replace(spec, ledger=files.ledger, outputs=files.outputs), still_open
