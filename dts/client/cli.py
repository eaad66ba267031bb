"""The command `dts-client`."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NoReturn

from dts.client.client import NUM_MAX_COROUTINES, SNOOZE_INTERVAL, DtsClient, Summary
from dts.client.command import exits
from dts.client.command.files import COMPONENTS, RunFiles, open_files
from dts.client.command.screen import Screen
from dts.client.components import STANDARD_STREAM
from dts.client.credentials import HELP as CREDENTIALS_HELP
from dts.client.credentials import load_credentials, load_server_url
from dts.client.rows import FIELDS, RowFormat
from dts.client.run.progress import Progress
from dts.client.stdio import tell, tidy_streams
from dts.client.threads import in_thread
from dts.errors import ConfigError, InvalidInput, ReaderGone, RunCancelled
from dts.model import parse_function_name
from dts.runtime import process
from dts.version import __version__

DESCRIPTION = """\
Run FUNCTION on every line of INFILE and write one JSON line for each to OUTFILE, in the order in which they end.

  {"line": 17, "success": true, "result": "ABC", "duration": 0.000400}
  {"line": 18, "success": false, "error": {"type": "…", "message": "…", "traceback": "…"}, "duration": 0.000400}

Lines count from 1, blank ones too. A line that cannot be read (invalid UTF-8 or JSON, too long) is a failed line.
An existing OUTFILE is overwritten once the server has accepted the run. A server that is away is waited for. What is
sent and written is noted in OUTFILE.dts: a run that was interrupted or killed goes on with --resume.
"""

EPILOG = f"""\
{CREDENTIALS_HELP}
the server, from the first of these: SERVER_URL, DTS_SERVER_URL, url in the credentials file

{exits.HELP}

examples:
  dts-client text/upper in.txt out.json http://127.0.0.1:8000
  dts-client math/add pairs.json out.json http://127.0.0.1:8000 --input-format json --errfile failed.json
    (each line of pairs.json is an array such as [1, 2])
  zcat calls.json.gz | dts-client crm/call - - https://dts.example.org --input-format json --fields id,args > out.json
  dts-client text/upper in.txt out.json http://127.0.0.1:8000 --resume
    (the same command again, after it was interrupted or killed)
"""


class _Parser(argparse.ArgumentParser):
    """Ends with the status of what could not be run."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(exits.COULD_NOT_RUN, f"{self.prog}: error: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    """The command line of `dts-client`."""
    parser = _Parser(
        prog="dts-client",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("function", metavar="FUNCTION", help="namespace/function, such as text/upper")
    add("infile", metavar="INFILE", help="a file in UTF-8, or - for standard input")
    add("outfile", metavar="OUTFILE", help="a file, overwritten when it exists, or - for standard output")
    add("server_url", metavar="SERVER_URL", nargs="?", help="http://host:port (default: see below)")
    _add_data_options(parser)
    add("--username", metavar="NAME", help="who you are")
    add("--secret-file", metavar="FILE", help="the file with your secret")
    add(
        "--coroutines",
        type=_positive_int,
        default=NUM_MAX_COROUTINES,
        metavar="N",
        help="blocks of lines that are sent at once (default: %(default)s)",
    )
    add(
        "--snooze",
        type=_seconds,
        default=SNOOZE_INTERVAL,
        metavar="SECONDS",
        help="pause between two requests for results (default: %(default)s)",
    )
    add(
        "--give-up-after",
        type=_seconds,
        metavar="SECONDS",
        help="how long a server that is away, or a limit that holds, is waited for (default: for ever)",
    )
    add("--resume", action="store_true", help="go on with the run in OUTFILE")
    add("--overwrite", action="store_true", help="begin anew, also if OUTFILE holds a run that has not finished")
    add("--cancel-on-interrupt", action="store_true", help="when interrupted, cancel the run")
    add("--quiet", action="store_true", help="print nothing but errors")
    add(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="show a progress bar (default: when stderr is a terminal)",
    )
    add("--version", action="version", version=f"dts {__version__}")
    parser.set_defaults(argv=None)
    return parser


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input-format",
        choices=sorted(COMPONENTS),
        default="text",
        help="text: a line is one argument; word: its words are the arguments, as strings; json: an object is "
        "keyword arguments, an array is arguments (default: %(default)s)",
    )
    parser.add_argument(
        "--fields",
        type=_fields,
        default=RowFormat(),
        metavar="NAME,…",
        help=f"more fields in each row: {', '.join(FIELDS)}",
    )
    parser.add_argument("--errfile", metavar="FILE", help="write rows of lines that failed here, not to OUTFILE")
    parser.add_argument(
        "--rotate-daily",
        action="store_true",
        help="put the date into the names of OUTFILE and errfile, begin new ones at midnight, append to today's",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    with tidy_streams() as closed:
        return _main(argv, closed)


def _main(argv: Sequence[str] | None, closed: frozenset[int]) -> int:
    parser = build_parser()
    options = parser.parse_args(argv)
    options.argv = sys.argv[1:] if argv is None else argv
    try:
        options.server_url = options.server_url or load_server_url()
        parse_function_name(options.function)
    except (InvalidInput, ConfigError) as error:
        parser.error(error.message)
    if not options.server_url:
        parser.error("SERVER_URL is missing: give it after OUTFILE, or set DTS_SERVER_URL")
    if options.infile == STANDARD_STREAM and 0 in closed:  # by a mistake; an empty input would empty OUTFILE
        tell("dts-client: cannot read standard input: it is closed")
        return exits.COULD_NOT_RUN
    could_not_run = exits.COULD_NOT_RUN
    return process.run(partial(run, options), signals=(signal.SIGHUP,), usage=could_not_run, failed=could_not_run)


async def run(options: argparse.Namespace, shutdown: process.Shutdown) -> int:
    """Do what the command line says; returns the exit status.

    Raises:
        ConfigError: there are no credentials, a URL or a combination of files is wrong.
        DtsError: the run could not be done.
    """
    credentials = load_credentials(options.username, options.secret_file)
    with ExitStack() as stack:
        opening = in_thread(lambda: open_files(options, stack))  # a FIFO may have no other end yet
        await _until_done_or_told_to_stop(opening, shutdown, opening.cancel)
        if opening.cancelled():
            return exits.of_signal(shutdown)
        files = opening.result()
        if files.complete and files.resumed is not None:
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
        )
        stack.callback(client.close)
        with screen.progress(client, files.source):
            running = asyncio.create_task(client.run_spec(files.spec(options.function)))
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
        hurry = asyncio.create_task(shutdown.hurry.wait())
        await asyncio.wait([running, hurry], return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
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
    if not options.quiet:
        tell(
            f"{summary.lines} lines: {summary.succeeded} succeeded, {summary.failed} failed "
            f"in {summary.seconds:.1f} s ({done.rate:.0f}/s) → {files.out.name}"
        )
    return exits.of_summary(summary)


def _how_to_go_on(options: argparse.Namespace, files: RunFiles, progress: Progress) -> str:
    """What became of the run, and the one command that goes on with it."""
    if not progress.run:
        return ""
    if progress.cancelled:
        return "; the run is cancelled"
    if files.ledger is None:
        return f"; the run {progress.run} is left open"
    words = [word for word in options.argv or ("…",) if word not in ("--overwrite", "--resume")]
    return f"; go on with: {shlex.join(['dts-client', *words, '--resume'])}"


def _lines_read(progress: Progress) -> str:
    return str(progress.lines) if progress.all_read else f"{progress.lines} or more"


def _positive_int(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


def _fields(text: str) -> RowFormat:
    try:
        return RowFormat(name.strip() for name in text.split(",") if name.strip())
    except InvalidInput as error:
        raise argparse.ArgumentTypeError(error.message) from error


if __name__ == "__main__":
    sys.exit(main())
