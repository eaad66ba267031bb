"""The command `dts-client`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

from dts.client.client import DtsClient, Summary
from dts.client.command import exits, subcommands
from dts.client.command.attach import attach_spec
from dts.client.command.conclude import conclude
from dts.client.command.dry_run import dry_run
from dts.client.command.files import RunFiles, make_source, open_files
from dts.client.command.options import build_attach_parser, build_parser
from dts.client.command.plot import Chart
from dts.client.command.screen import Screen
from dts.client.components import STANDARD_STREAM, FileComponent
from dts.client.credentials import load_credentials, load_server_url
from dts.client.run.session import RunSpec
from dts.client.stdio import tell, tidy_streams
from dts.client.threads import in_thread
from dts.errors import ConfigError, InvalidInput
from dts.model import parse_function_name
from dts.runtime import process
from dts.runtime.tasks import wait_first

__all__ = ["attach", "build_attach_parser", "build_parser", "main", "run"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    with tidy_streams(failed=exits.COULD_NOT_RUN) as closed:
        return _main(argv, closed)


def _main(argv: Sequence[str] | None, closed: frozenset[int]) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    main_of: Callable[[argparse.Namespace, process.Shutdown], Awaitable[int]]
    if words and words[0] in subcommands.NAMES:
        parser, main_of = subcommands.build(words[0])
        options = parser.parse_intermixed_args(words[1:])
    elif words[:1] == ["attach"]:
        parser, main_of = build_attach_parser(), attach
        options = parser.parse_intermixed_args(words[1:])
    else:
        parser, main_of = build_parser(), run
        options = parser.parse_intermixed_args(words)
        main_of = dry_run if options.dry_run else _find_local() if options.local else run
    options.argv = words
    try:
        options.server_url = options.server_url or load_server_url()
        parse_function_name(options.function or "none/none")
    except (InvalidInput, ConfigError) as error:
        parser.error(error.message)
    if not options.server_url and main_of is not dry_run and not getattr(options, "local", False):
        parser.error("SERVER_URL is missing: give it as the last of them, or set DTS_SERVER_URL")
    if options.infile == STANDARD_STREAM and 0 in closed:  # by a mistake; an empty input would empty OUTFILE
        tell("dts-client: cannot read standard input: it is closed")
        return exits.COULD_NOT_RUN
    could_not_run = exits.COULD_NOT_RUN
    return process.run(partial(main_of, options), signals=(signal.SIGHUP,), usage=could_not_run, failed=could_not_run)


def _find_local() -> Callable[[argparse.Namespace, process.Shutdown], Awaitable[int]]:
    """What runs a function on this machine, which takes a worker: the client alone may be installed without one."""

    async def run_local(options: argparse.Namespace, shutdown: process.Shutdown) -> int:
        try:
            local = import_module("dts.local.command")
        except ModuleNotFoundError as error:
            raise ConfigError(f"--local needs the whole of DTS on this machine: {error}") from error
        status: int = await local.run_local(options, shutdown)
        return status

    return run_local


async def run(options: argparse.Namespace, shutdown: process.Shutdown) -> int:
    """Do what the command line says; returns the exit status.

    Raises:
        ConfigError: there are no credentials, a URL or a combination of files is wrong.
        DtsError: the run could not be done.
    """
    source = make_source(options)

    async def plan(client: DtsClient, files: RunFiles) -> RunSpec:
        return files.spec(options)

    return await _do(options, shutdown, source, plan)


async def attach(options: argparse.Namespace, shutdown: process.Shutdown) -> int:
    """Collect the rows of a run that another command began; returns the exit status.

    Raises:
        ConfigError: there are no credentials, a URL or a combination of files is wrong.
        DtsError: they could not be collected.
    """

    async def plan(client: DtsClient, files: RunFiles) -> RunSpec:
        spec, still_open = await attach_spec(client, files, options)
        if still_open:
            tell(f"dts-client: the run {options.run} is open: lines that are sent from now on are not collected")
        return spec

    return await _do(options, shutdown, None, plan)


async def _do(
    options: argparse.Namespace,
    shutdown: process.Shutdown,
    source: FileComponent | None,
    plan: Callable[[DtsClient, RunFiles], Awaitable[RunSpec]],
) -> int:
    """Open the files, do the run that `plan` makes of them, say how it went."""
    credentials = load_credentials(options.username, options.secret_file)
    chart = None if options.plot is None else Chart(options.plot)
    with ExitStack() as stack:
        opening = in_thread(lambda: open_files(options, stack, source))  # a FIFO may have no other end yet
        await _until_done_or_told_to_stop(opening, shutdown, opening.cancel)
        if opening.cancelled():
            return exits.of_signal(shutdown)
        files = opening.result()
        if options.changed or options.retry_failed:
            from dts.client.command import rerun  # what is rarely needed takes no time to import

            files = await rerun.prepare(files, options)
        elif files.complete and files.resumed is not None:
            tell(f"dts-client: every line has its row in {files.out.name} already")
            return exits.of_failures(files.resumed.failed)
        screen = Screen(options)
        client = DtsClient(
            credentials.user_id,
            credentials.secret,
            options.server_url,
            options.coroutines,
            options.snooze,
            give_up_after=options.give_up_after,
            detach=not options.cancel_on_interrupt,
            notify=screen.say,
            cacert=options.cacert,
        )
        stack.callback(client.close)

        async def work() -> Summary:
            spec = await plan(client, files)
            return await client.run_spec(replace(spec, watch=screen.watches, recorder=chart))

        async with screen.progress(client, files.source):
            running = asyncio.create_task(work())
            await _until_done_or_told_to_stop(running, shutdown, _stopper(options, client, running, screen))
        try:
            return conclude(options, files, client, running, shutdown=shutdown, screen=screen)
        finally:
            if chart is not None:
                chart.draw(f"{options.function or 'run'} {client.progress.run}")


def _stopper(
    options: argparse.Namespace, client: DtsClient, running: asyncio.Task[Summary], screen: Screen
) -> Callable[[], object]:
    """What the first signal does: it ends sending, or with --cancel-on-interrupt the run."""
    if options.cancel_on_interrupt:
        return running.cancel

    def stop() -> None:
        screen.say("interrupted: collecting what is under way; once more to leave at once")
        client.stop()

    return stop


async def _until_done_or_told_to_stop(
    running: asyncio.Future[Any], shutdown: process.Shutdown, stop: Callable[[], object]
) -> None:
    """Wait for the end; after a first signal `stop` brings it about, after a second it comes at once."""
    ended = asyncio.Event()
    running.add_done_callback(lambda _: ended.set())
    await shutdown.wait(ended)
    if not ended.is_set():
        stop()
        await wait_first(running, shutdown.hurry)
        if not running.done():
            running.cancel()
            await asyncio.wait([running])


if __name__ == "__main__":
    sys.exit(main())
