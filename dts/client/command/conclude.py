"""What a command says when a run has ended, and its exit status."""

from __future__ import annotations

import argparse
import asyncio
import shlex

from dts.client.client import DtsClient, Summary
from dts.client.command import exits
from dts.client.command.files import RunFiles
from dts.client.command.options import build_attach_parser, given_flags
from dts.client.command.report import details
from dts.client.command.screen import Screen
from dts.client.run.progress import Progress
from dts.client.stdio import show, tell
from dts.errors import ReaderGone, RunCancelled
from dts.runtime import process

_ONCE = frozenset({"--overwrite", "--resume", "--detach", "--changed", "--retry-failed"})
"""Options that say how a run begins: it goes on with `--resume` instead."""


def conclude(
    options: argparse.Namespace,
    files: RunFiles,
    client: DtsClient,
    running: asyncio.Task[Summary],
    *,
    shutdown: process.Shutdown,
    screen: Screen,
) -> int:
    """Say how it went; returns the exit status.

    Raises:
        DtsError: the run could not be done.
    """
    done = client.progress
    if running.cancelled() or (running.exception() is None and done.stopped):
        how_far = f"after {done.done} of {_lines_read(done)} lines" if done.run else "before it began"
        screen.say(f"interrupted {how_far}{_how_to_go_on(options, files, done)}")
        return exits.of_signal(shutdown)
    error = running.exception()
    if isinstance(error, ReaderGone):
        return exits.READER_GONE  # who reads the rows has seen enough of them, as `head` does
    if error is not None and done.run and not isinstance(error, RunCancelled):
        screen.say(f"stopped after {done.done} of {_lines_read(done)} lines{_how_to_go_on(options, files, done)}")
    summary = running.result()
    if options.detach:
        show(summary.run)
        if not options.quiet:
            command = _collect_command(options, files, done)
            screen.say(f"{summary.lines} lines are with the server; collect their rows with: {command}")
        return process.EXIT_OK
    if screen.is_for_programs:
        screen.conclude(client, files.source)
    elif not options.quiet:
        _tell_summary(summary, done, files.out.name)
    return exits.of_summary(summary)


def _tell_summary(summary: Summary, done: Progress, outfile: str) -> None:
    tell(
        f"{summary.lines} lines: {summary.succeeded} succeeded, {summary.failed} failed "
        f"in {summary.seconds:.1f} s ({done.rate:.0f}/s) → {outfile}"
    )
    for line in details(done):
        tell(line)


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
        return f"; the run {progress.run} is left open: collect with: {_attach_command(options, progress.run)}"
    return f"; go on with: {_resume_command(options)}"


def _lines_read(progress: Progress) -> str:
    return str(progress.lines) if progress.all_read else f"{progress.lines} or more"
