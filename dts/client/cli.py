"""The command `dts-client`."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from dts.client.client import DtsClient, Summary
from dts.client.command import exits, rerun, subcommands
from dts.client.command.attach import attach_spec
from dts.client.command.files import RunFiles, make_source, open_files
from dts.client.command.options import EPILOG, build_attach_parser, build_parser, given_flags
from dts.client.command.screen import Screen
from dts.client.components import STANDARD_STREAM, FileComponent
from dts.client.credentials import load_credentials, load_server_url
from dts.client.run.progress import Progress
from dts.client.run.session import RunSpec
from dts.client.stdio import show, tell, tidy_streams
from dts.client.threads import in_thread
from dts.errors import ConfigError, InvalidInput, ReaderGone, RunCancelled
from dts.model import parse_function_name
from dts.runtime import process
from dts.runtime.tasks import wait_first

__all__ = ["EPILOG", "attach", "build_attach_parser", "build_parser", "main", "run"]


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
    options.argv = words
    try:
        options.server_url = options.server_url or load_server_url()
        parse_function_name(options.function or "none/none")
    except (InvalidInput, ConfigError) as error:
        parser.error(error.message)
    if not options.server_url:
        parser.error("SERVER_URL is missing: give it as the last of them, or set DTS_SERVER_URL")
    if options.infile == STANDARD_STREAM and 0 in closed:  # by a mistake; an empty input would empty OUTFILE
        tell("dts-client: cannot read standard input: it is closed")
        return exits.COULD_NOT_RUN
    could_not_run = exits.COULD_NOT_RUN
    return process.run(partial(main_of, options), signals=(signal.SIGHUP,), usage=could_not_run, failed=could_not_run)


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
    with ExitStack() as stack:
        opening = in_thread(lambda: open_files(options, stack, source))  # a FIFO may have no other end yet
        await _until_done_or_told_to_stop(opening, shutdown, opening.cancel)
        if opening.cancelled():
            return exits.of_signal(shutdown)
        files = opening.result()
        if options.changed or options.retry_failed:
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
            return await client.run_spec(await plan(client, files))

        with screen.progress(client, files.source):
            running = asyncio.create_task(work())
            await _until_done_or_told_to_stop(running, shutdown, _stopper(options, client, running, screen))
        return _conclude(options, files, client.progress, running, shutdown)


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


def _conclude(
    options: argparse.Namespace,
    files: RunFiles,
    done: Progress,
    running: asyncio.Task[Summary],
    shutdown: process.Shutdown,
) -> int:
    """Say how it went; returns the exit status.

    Raises:
        DtsError: the run could not be done.
    """
    if running.cancelled() or (running.exception() is None and done.stopped):
        how_far = f"after {done.done} of {_lines_read(done)} lines" if done.run else "before it began"
        tell(f"dts-client: interrupted {how_far}{_how_to_go_on(options, files, done)}")
        return exits.of_signal(shutdown)
    error = running.exception()
    if isinstance(error, ReaderGone):
        return exits.READER_GONE  # who reads the rows has seen enough of them, as `head` does
    if error is not None and done.run and not isinstance(error, RunCancelled):
        tell(f"dts-client: stopped after {done.done} of {_lines_read(done)} lines{_how_to_go_on(options, files, done)}")
    summary = running.result()
    if options.detach:
        show(summary.run)
        if not options.quiet:
            command = _collect_command(options, files, done)
            tell(f"dts-client: {summary.lines} lines are with the server; collect their rows with: {command}")
        return process.EXIT_OK
    if not options.quiet:
        tell(
            f"{summary.lines} lines: {summary.succeeded} succeeded, {summary.failed} failed "
            f"in {summary.seconds:.1f} s ({done.rate:.0f}/s) → {files.out.name}"
        )
        most = sorted(done.errors.items(), key=lambda item: -item[1][0])[:_MOST_ERRORS]
        for what, (count, first) in most:
            tell(f"  {count} × {what} (first in line {first})")
    return exits.of_summary(summary)


def _collect_command(options: argparse.Namespace, files: RunFiles, progress: Progress) -> str:
    """The command that collects the rows of a run that was left to the server, into the same OUTFILE."""
    if files.ledger is not None:
        return _resume_command(options)
    return _attach_command(options, progress.run)


def _attach_command(options: argparse.Namespace, run: str) -> str:
    """The command that collects the rows of a run, with the same credentials and in the same shape."""
    words = [run, options.outfile, options.server_url, *given_flags(build_attach_parser(), options)]
    return shlex.join(["dts-client", "attach", *words])


def _resume_command(options: argparse.Namespace) -> str:
    words = [word for word in options.argv or ("…",) if word not in _ONCE]
    return shlex.join(["dts-client", *words, "--resume"])


def _how_to_go_on(options: argparse.Namespace, files: RunFiles, progress: Progress) -> str:
    """What became of the run, and the one command that goes on with it."""
    if not progress.run:
        return ""
    if progress.cancelled:
        return "; the run is cancelled"
    if files.ledger is None:
        return (
            f"; the run {progress.run} is left open: collect what it has with: {_attach_command(options, progress.run)}"
        )
    return f"; go on with: {_resume_command(options)}"


_MOST_ERRORS = 10  # that the summary has, the most frequent ones

_ONCE = frozenset({"--overwrite", "--resume", "--detach", "--changed", "--retry-failed"})
"""Options that say how a run begins: it goes on with `--resume` instead."""


def _lines_read(progress: Progress) -> str:
    return str(progress.lines) if progress.all_read else f"{progress.lines} or more"


if __name__ == "__main__":
    sys.exit(main())
