"""The command `dts-client`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

from dts.client.client import NUM_MAX_COROUTINES, SNOOZE_INTERVAL, DtsClient, Summary
from dts.client.components import (
    STANDARD_STREAM,
    FileComponent,
    JsonFileIOComponent,
    TextFileIOComponent,
    WordFileIOComponent,
)
from dts.client.credentials import HELP as CREDENTIALS_HELP
from dts.client.credentials import load_credentials, load_server_url
from dts.client.output import DailyRotatingOutputFile, Output, OutputFile
from dts.client.processors import RowWriter
from dts.client.rows import FIELDS, RowFormat
from dts.client.run import Progress
from dts.client.stdio import tell, tidy_streams
from dts.client.threads import in_thread
from dts.errors import ConfigError, InvalidInput, ReaderGone, RunCancelled
from dts.model import parse_function_name
from dts.runtime import process
from dts.version import __version__

EXIT_LINES_FAILED = 3
EXIT_CANCELLED = 4
EXIT_INTERRUPTED = 130

COMPONENTS: dict[str, type[FileComponent]] = {
    "text": TextFileIOComponent,
    "word": WordFileIOComponent,
    "json": JsonFileIOComponent,
}

DESCRIPTION = """\
Run FUNCTION on every line of INFILE and write one JSON line for each to OUTFILE, in the order in which they end.

  {"line": 17, "success": true, "result": "ABC", "duration": 0.000400}
  {"line": 18, "success": false, "error": {"type": "…", "message": "…", "traceback": "…"}, "duration": 0.000400}

Lines count from 1, blank ones too. A line that cannot be read (invalid UTF-8 or JSON, too long) is a failed line.
An existing OUTFILE is overwritten once the server has accepted the run. A server that is away is waited for.
"""

EPILOG = f"""\
{CREDENTIALS_HELP}
the server, from the first of these: SERVER_URL, DTS_SERVER_URL, url in the credentials file

exit status:
  0    every line succeeded
  1    it could not be done; stderr says why, unless it is that nobody reads the rows any more (| head)
  2    the command line or the configuration is wrong
  3    every line has its row, but some failed
  4    somebody else cancelled the run: lines that the server had have rows, which say so; the others have none
  130  interrupted; the run was cancelled, unless --detach is given

examples:
  dts-client text/upper in.txt out.json http://127.0.0.1:8000
  dts-client math/add pairs.json out.json http://127.0.0.1:8000 --input-format json --errfile failed.json
    (each line of pairs.json is an array such as [1, 2])
  zcat calls.json.gz | dts-client crm/call - - https://dts.example.org --input-format json --fields id,args > out.json
  DTS_SERVER_URL=http://127.0.0.1:8000 dts-client text/upper in.txt out.json
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of `dts-client`."""
    parser = argparse.ArgumentParser(
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
    add("--detach", action="store_true", help="when interrupted, let the server go on with what it has")
    add("--quiet", action="store_true", help="print nothing but errors")
    add(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="show a progress bar (default: when stderr is a terminal)",
    )
    add("--version", action="version", version=f"dts {__version__}")
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
    try:
        options.server_url = options.server_url or load_server_url()
        parse_function_name(options.function)
    except (InvalidInput, ConfigError) as error:
        parser.error(error.message)
    if not options.server_url:
        parser.error("SERVER_URL is missing: give it after OUTFILE, or set DTS_SERVER_URL")
    if options.infile == STANDARD_STREAM and 0 in closed:  # by a mistake; an empty input would empty OUTFILE
        tell("dts-client: cannot read standard input: it is closed")
        return process.EXIT_FAILED
    return process.run(partial(run, options))


async def run(options: argparse.Namespace, shutdown: process.Shutdown) -> int:
    """Do what the command line says; returns the exit status.

    Raises:
        ConfigError: there are no credentials, a URL or a combination of files is wrong.
        DtsError: the run could not be done.
    """
    credentials = load_credentials(options.username, options.secret_file)
    with ExitStack() as stack:
        opening = in_thread(lambda: _open_files(options, stack))  # a FIFO may have no other end yet
        await _until_done_or_told_to_stop(opening, shutdown)
        if opening.cancelled():
            return EXIT_INTERRUPTED
        source, out, writer = opening.result()
        screen = _Screen()
        client = DtsClient(
            credentials.user_id,
            credentials.secret,
            options.server_url,
            options.coroutines,
            options.snooze,
            give_up_after=options.give_up_after,
            detach=options.detach,
            notify=screen.say,
        )
        stack.callback(client.close)
        with screen.progress(client, source, options) if _wants_progress(options) else nullcontext():
            running = asyncio.create_task(client.run(options.function, source, writer))
            await _until_done_or_told_to_stop(running, shutdown)
        return _conclude(options, out, client.progress, running)


def _wants_progress(options: argparse.Namespace) -> bool:
    wanted: bool | None = options.progress
    return sys.stderr.isatty() and not options.quiet if wanted is None else wanted


class _Screen:
    """Where sentences for the user go: stderr, above the progress bar when there is one."""

    def __init__(self) -> None:
        self._print: Callable[[str], None] = tell

    @contextmanager
    def progress(self, client: DtsClient, source: FileComponent, options: argparse.Namespace) -> Iterator[None]:
        """Show a progress bar meanwhile."""
        from dts.client.progress import ProgressBar  # rich takes long to import and is not always needed

        with ProgressBar(lambda: client.progress, source, options.function, lambda: client.held_by) as bar:
            self._print = bar.say
            yield
        self._print = tell

    def say(self, sentence: str) -> None:
        self._print(f"dts-client: {sentence}")


def _open_files(options: argparse.Namespace, stack: ExitStack) -> tuple[FileComponent, Output, RowWriter]:
    """Open the files, so that what cannot work is refused before anything is sent.

    Raises:
        ClientError: one cannot be read or written, or is being written by another client.
        ConfigError: two of them are the same file.
    """
    source = COMPONENTS[options.input_format](options.infile)
    kind = DailyRotatingOutputFile if options.rotate_daily else OutputFile
    out: Output = kind(options.outfile)
    errors: Output | None = kind(options.errfile) if options.errfile is not None else None
    stack.callback(source.close)
    source.open()
    for each in filter(None, (out, errors)):
        stack.callback(each.close)
        each.open()
        if source.identity is not None and each.identity == source.identity:
            raise ConfigError(f"{each.name} is INFILE, too: write the rows to another file")
    if errors is not None and (out.name == errors.name or (out.identity and out.identity == errors.identity)):
        raise ConfigError("OUTFILE and --errfile are the same file: leave --errfile out to have all rows in one")
    for each in filter(None, (out, errors)):
        each.lock()
    return source, out, RowWriter(out, errors, row_format=options.fields)


async def _until_done_or_told_to_stop(running: asyncio.Future[Any], shutdown: process.Shutdown) -> None:
    ended = asyncio.Event()
    running.add_done_callback(lambda _: ended.set())
    await shutdown.wait(ended)
    if not ended.is_set():
        running.cancel()
        hurry = asyncio.create_task(shutdown.hurry.wait())
        await asyncio.wait([running, hurry], return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        running.cancel()
        await asyncio.wait([running])


def _conclude(options: argparse.Namespace, out: Output, done: Progress, running: asyncio.Task[Summary]) -> int:
    """Say how it went; returns the exit status.

    Raises:
        DtsError: the run could not be done.
    """
    if running.cancelled():
        how_far = (
            f"after {done.done} of {_lines_read(done)} lines; {_fate(done, options)}" if done.run else "before it began"
        )
        tell(f"dts-client: interrupted {how_far}")
        return EXIT_INTERRUPTED
    error = running.exception()
    if isinstance(error, ReaderGone) and (done.cancelled or done.ended):
        return process.EXIT_FAILED  # who reads the rows has seen enough of them, as `head` does
    if isinstance(error, RunCancelled):
        tell(f"dts-client: {error.message}")
        return EXIT_CANCELLED
    if error is not None and done.run:
        tell(f"dts-client: stopped after {done.done} of {_lines_read(done)} lines; {_fate(done, options)}")
    summary = running.result()
    if not options.quiet:
        rate = summary.lines / max(summary.seconds, 0.001)
        tell(
            f"{summary.lines} lines: {summary.succeeded} succeeded, {summary.failed} failed "
            f"in {summary.seconds:.1f} s ({rate:.0f}/s) → {out.name}"
        )
    return EXIT_LINES_FAILED if summary.failed else process.EXIT_OK


def _fate(progress: Progress, options: argparse.Namespace) -> str:
    if progress.cancelled:
        return "the run is cancelled"
    if progress.ended or options.detach:
        return f"the server {'has finished' if progress.ended else 'goes on with'} run {progress.run}"
    return f"run {progress.run} could not be cancelled"


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
