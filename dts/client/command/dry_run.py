"""`dts-client --dry-run`: show the first jobs as they would be sent, and send nothing."""

from __future__ import annotations

import argparse
from contextlib import aclosing

import msgspec

from dts.client.command.files import make_source, shape
from dts.client.components import Batch
from dts.client.stdio import show, tell
from dts.runtime import process

_FIRST = 10  # jobs that are shown unless --head says how many
_LONGEST_LINE = 64 * 1024 * 1024  # bytes; what the server takes is not asked


async def dry_run(options: argparse.Namespace, shutdown: process.Shutdown) -> int:
    """Print the first jobs, one JSON object a line; returns the exit status.

    Raises:
        ClientError: the input cannot be read.
        ConfigError: options do not go together.
    """
    most = options.head or _FIRST
    file = make_source(options)
    file.open()
    line = shown = 0
    async with aclosing(shape(file, options).batches(_LONGEST_LINE)) as batches:
        async for batch in batches:
            for index in range(min(len(batch.args), most - shown)):
                show(msgspec.json.encode(_job(batch, index, line + index + 1)).decode())
            line += len(batch.args)
            shown = min(line, most)
            if shown == most:
                break
    file.close()
    tell(f"dts-client: these are the first {shown} jobs for {options.function}; nothing was sent")
    return process.EXIT_OK


def _job(batch: Batch, index: int, line: int) -> dict[str, object]:
    if (reason := batch.bad.get(index)) is not None:
        return {"line": line, "error": reason}
    kwargs = batch.kwargs[index] if batch.kwargs else b""
    return {"line": line, "args": msgspec.Raw(batch.args[index] or b"[]"), "kwargs": msgspec.Raw(kwargs or b"{}")}
