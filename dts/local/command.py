"""`dts-client --local`: runs the function in children of this process, with no server; same rows and exit statuses."""

from __future__ import annotations

import argparse
import asyncio
import os
from contextlib import ExitStack, aclosing, suppress

from dts.client.command import exits
from dts.client.command.files import make_source, make_writer, open_files, shape
from dts.client.components import Batch, DataSource
from dts.client.processors import RowWriter
from dts.client.rows import Results, bad_lines
from dts.client.run.blocks import CutBlock
from dts.client.run.ledger import SUFFIX
from dts.client.stdio import tell
from dts.errors import ConfigError, ReaderGone
from dts.local.worker import LocalWorker, open_local_worker
from dts.model import new_id
from dts.model.attempts import ATTEMPT_OPTIONS
from dts.runtime import process
from dts.wire.dts_pb2 import JobBatch, Options

_BLOCK = 64  # jobs in a message, at most
_AT_A_TIME = 64  # messages whose results are waited for before others follow
_LONGEST_LINE = 8 * 1024 * 1024  # bytes
_NEED_A_SERVER = ("resume", "changed", "retry_failed", "detach", "notify", "plot", "not_before", "priority", "weight")


async def run_local(options: argparse.Namespace, shutdown: process.Shutdown) -> int:
    """Run the function over every line; returns the exit status.

    Raises:
        ConfigError: an option needs a server, or two do not go together.
        ClientError: a file cannot be read or written.
    """
    for name in _NEED_A_SERVER:
        if getattr(options, name, None) not in (None, False, []):
            raise ConfigError(f"--{name.replace('_', '-')} needs a server: leave it out, or leave --local out")
    source = make_source(options)
    with ExitStack() as stack:
        files = open_files(options, stack, source)
        writer = make_writer(options, files.out, files.errors, None, None)
        running = asyncio.create_task(_run(options, shape(source, options), writer))
        ended = asyncio.Event()
        running.add_done_callback(lambda _: ended.set())
        await shutdown.wait(ended)
        if not running.done():
            running.cancel()
            await asyncio.wait([running])
        if files.ledger is not None:  # that of an earlier run knows nothing of these rows
            with suppress(FileNotFoundError):
                os.unlink(files.out.name + SUFFIX)
        if running.cancelled():
            return exits.of_signal(shutdown)
        try:
            lines, failed = running.result()
        except ReaderGone:
            return exits.READER_GONE
    if not options.quiet:
        tell(f"{lines} lines: {lines - failed} succeeded, {failed} failed → {files.out.name}")
    return exits.of_failures(failed)


async def _run(options: argparse.Namespace, source: DataSource, writer: RowWriter) -> tuple[int, int]:
    """Write a row for every line; returns how many lines there were, and how many failed."""
    run, asked = new_id(), Options()
    for option in ATTEMPT_OPTIONS:
        value = getattr(options, option.name, None)
        if value and option.values is None:
            getattr(asked, option.name).extend(value)
        elif value is not None and option.values is not None:
            setattr(asked, option.name, value)
    if options.deadline is not None:
        asked.deadline = options.deadline
    lines = failed = 0
    await writer.begin()
    async with (
        open_local_worker("functions", processes=0) as worker,
        aclosing(source.batches(_LONGEST_LINE)) as batches,
    ):
        async for batch in batches:
            cuts = _cut(batch, lines)
            lines += len(batch.args)
            if batch.bad:
                bad = [(lines - len(batch.args) + 1 + at, reason) for at, reason in sorted(batch.bad.items())]
                await writer.process([bad_lines(run, bad)])
                failed += len(bad)
            for first in range(0, len(cuts), _AT_A_TIME):
                template = JobBatch(run=run, function=options.function, options=asked)
                results = await _work(worker, template, cuts[first : first + _AT_A_TIME], options.id_field)
                await writer.process(results)
                failed += sum(len(each.failed) for each in results)
    await writer.commit({}, (), (lines - failed, failed))
    return lines, failed


def _cut(batch: Batch, before: int) -> list[CutBlock]:
    """The lines of a batch that became jobs, as blocks; `before` is how many lines came before them."""
    good = [at for at in range(len(batch.args)) if at not in batch.bad]
    return [
        CutBlock(
            [batch.args[at] for at in chosen],
            None if batch.kwargs is None else [batch.kwargs[at] for at in chosen],
            [before + at + 1 for at in chosen],
            0,
        )
        for chosen in (good[first : first + _BLOCK] for first in range(0, len(good), _BLOCK))
    ]


async def _work(worker: LocalWorker, template: JobBatch, cuts: list[CutBlock], id_field: str) -> list[Results]:
    """Run the jobs of some blocks."""
    sent, messages = {}, []
    for cut in cuts:
        first = cut.lines[0] - 1  # a job's number is that of its line, if all lines before became jobs
        message = cut.to_message(id_field)
        message.MergeFrom(template)
        message.block = f"{template.run}-{first}"
        block = cut.to_sent(0, _BLOCK, keep=True)
        block.first_job = first
        sent[message.block] = block
        messages.append((first, message))
    parts = await worker.run(messages)
    return [Results.split(template.run, sent[part.block], part, ended) for part, ended in parts if ended]
