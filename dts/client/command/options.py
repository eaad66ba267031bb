"""The command lines of `dts-client` and of its subcommands."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import datetime
from typing import Any, NoReturn

import msgspec

from dts.client.client import NUM_MAX_COROUTINES, SNOOZE_INTERVAL
from dts.client.command import exits
from dts.client.command.files import COMPONENTS
from dts.client.credentials import HELP as CREDENTIALS_HELP
from dts.client.formats import TemplateFormat
from dts.client.rows import FIELDS, RowFormat
from dts.client.stdio import show
from dts.errors import ClientError, InvalidInput
from dts.model.units import parse_bytes, parse_seconds
from dts.version import __version__

USAGE = "dts-client FUNCTION INFILE OUTFILE [SERVER_URL] [options]"

DESCRIPTION = """\
Run FUNCTION (namespace/name) on every line of INFILE and write a row for each to OUTFILE; - is standard input, output.
  {"line": 17, "success": true, "result": "ABC", "duration": 0.000400}
  {"line": 18, "success": false, "error": {"type": "...", "message": "...", "traceback": "..."}, "duration": 0.000400}
A run that was interrupted or killed goes on with --resume: OUTFILE.dts notes what was sent and what is written.
Also: dts-client attach|runs|status|why|cancel|pause|resume, each with its --help.
"""

EPILOG = f"""\
attempts, within what the function's record allows:
  --timeout S --soft-timeout S --max-attempts N --retry-on NAMES --memory-limit BYTES --not-before TIME --deadline TIME

{CREDENTIALS_HELP}
the server, from the first of these: SERVER_URL, DTS_SERVER_URL, url in the credentials file

{exits.HELP}

examples:
  dts-client text/upper in.txt out.json http://127.0.0.1:8000
  dts-client math/add pairs.json out.json http://127.0.0.1:8000 --input-format json --errfile failed.json
  dts-client -k text/upper in.txt.gz - http://127.0.0.1:8000 --format '{{line}} {{result}}'
  dts-client text/upper in.txt out.json http://127.0.0.1:8000 --resume
"""


class _OneLineEach(argparse.RawDescriptionHelpFormatter):
    """Leaves room for an option and what it does on one line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=120)


class Parser(argparse.ArgumentParser):
    """Ends with the status of what could not be run."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line, and end."""
        self.print_usage(sys.stderr)
        self.exit(exits.COULD_NOT_RUN, f"{self.prog}: error: {message}\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help; argparse itself ignores that it cannot be written."""
        if file is not sys.stdout:
            super()._print_message(message, file)
            return
        try:
            show(message.rstrip("\n"))
        except ClientError as error:
            self.exit(exits.COULD_NOT_RUN, f"{self.prog}: {error.message}\n")


def build_parser() -> Parser:
    """The command line of `dts-client`."""
    parser = Parser(
        prog="dts-client",
        usage=USAGE,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=_OneLineEach,
    )
    add = parser.add_argument
    add("function", metavar="FUNCTION", help=argparse.SUPPRESS)
    add("infile", metavar="INFILE", help=argparse.SUPPRESS)
    add("outfile", metavar="OUTFILE", help=argparse.SUPPRESS)
    add("server_url", metavar="SERVER_URL", nargs="?", help=argparse.SUPPRESS)
    _add_input_options(parser)
    _add_output_options(parser)
    _add_attempt_options(parser)
    parser.add_argument("-k", "--keep-order", action="store_true", help="write rows in the order of the input")
    _add_run_options(parser)
    add = parser.add_argument
    add("--changed", action="store_true", help="run lines that are new or differ, and keep the rows of the others")
    add("--retry-failed", action="store_true", help="run again what has failed, and keep the other rows")
    parser.add_argument("--detach", action="store_true", help="end when all lines are accepted, print the run's id")
    parser.add_argument("--cancel-on-interrupt", action="store_true", help="when interrupted, cancel the run")
    _add_connection_options(parser)
    parser.set_defaults(argv=None)
    return parser


def build_attach_parser() -> Parser:
    """The command line of `dts-client attach`."""
    parser = Parser(
        prog="dts-client attach",
        description="Collect the rows of a run that another command began: with --detach, or on a machine that is lost",
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="the run's id, as --detach prints it and `dts-client runs` lists it")
    add("outfile", metavar="OUTFILE", help="a file, or - for standard output")
    add("server_url", metavar="SERVER_URL", nargs="?", help="http://host:port")
    add("--again", action="store_true", help="read what was collected before, too")
    _add_output_options(parser)
    _add_run_options(parser)
    _add_connection_options(parser)
    parser.set_defaults(
        argv=None, function="", infile="", detach=False, cancel_on_interrupt=False, changed=False, retry_failed=False
    )
    return parser


def build_control_parser(name: str, description: str, *, takes_run: bool) -> Parser:
    """The command line of a subcommand that asks about a run, or changes one."""
    parser = Parser(prog=f"dts-client {name}", description=description)
    if takes_run:
        parser.add_argument("run", metavar="RUN", help="the run's id")
    parser.add_argument("server_url", metavar="SERVER_URL", nargs="?", help="http://host:port")
    parser.add_argument("--json", action="store_true", help="print JSON as the server gives it")
    _add_connection_options(parser)
    parser.set_defaults(argv=None, function="", infile="")
    return parser


def given_flags(parser: Parser, options: argparse.Namespace) -> list[str]:
    """The flags of `parser` that `options` say something else than the default of, as they are written."""
    words: list[str] = []
    for action in parser._actions:
        value = getattr(options, action.dest, None)
        if not action.option_strings or value in (None, False, [], action.default):
            continue
        words.append(action.option_strings[-1])
        if action.nargs != 0:
            words.append(",".join(value) if isinstance(value, list) else str(value))
    return words


def _add_input_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("input").add_argument
    add(
        "--input-format",
        choices=sorted(COMPONENTS),
        default="text",
        metavar="FORMAT",
        help="text: a line is one argument; word, json, csv, tsv: see docs/client.md",
    )
    more = "more_infiles"
    add(
        "--infile",
        metavar="FILE",
        dest=more,
        action="append",
        default=[],
        help="a file to be read after INFILE; several times",
    )
    add("-0", "--null", action="store_true", help="lines end with a null byte")
    add("--args", type=_object, default={}, metavar="JSON", help="keyword arguments of every line, as an object")
    add("--head", type=_positive_int, metavar="N", help="only the first N lines")
    add("--infile-start-position", type=_position, default=0, metavar="BYTE", help="begin at this byte of INFILE")


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    names = ", ".join(FIELDS)
    add("--fields", type=_fields, default=[], metavar="NAME,...", help=f"add {names}")
    add("--output-format", choices=["json", "csv", "tsv"], default="json", metavar="FORMAT", help="json, csv or tsv")
    add("--format", type=_template, metavar="TEXT", help="a line of text for each row, such as '{line}: {result}'")
    add("--errfile", metavar="FILE", help="write rows of lines that failed here, not to OUTFILE")
    add(
        "--rotate-daily",
        action="store_true",
        help="put the day into the names of OUTFILE and errfile, append to today's",
    )
    add("--quiet", action="store_true", help="print nothing but errors")
    add(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="show a progress bar (default: when stderr is a terminal)",
    )


def _add_attempt_options(parser: argparse.ArgumentParser) -> None:
    for name, kind in (
        ("--timeout", _seconds),
        ("--soft-timeout", _seconds),
        ("--max-attempts", _positive_int),
        ("--retry-on", _names),
        ("--memory-limit", _bytes),
        ("--not-before", _time),
        ("--deadline", _time),
    ):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)  # all on one line, in the epilog


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("run").add_argument
    add("--resume", action="store_true", help="go on with the run in OUTFILE")
    add("--overwrite", action="store_true", help="begin anew, also if OUTFILE holds a run that has not finished")


def _add_connection_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("connection").add_argument
    add("--username", metavar="NAME", help="who you are")
    add("--secret-file", metavar="FILE", help="the file with your secret")
    add("--cacert", metavar="FILE", help="the authorities that the server's certificate may be of")
    add(
        "--coroutines",
        type=_positive_int,
        default=NUM_MAX_COROUTINES,
        metavar="N",
        help="blocks that are sent at once (default: %(default)s)",
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
        help="how long a server that is away, or a limit, is waited for (for ever)",
    )
    add("--version", action="version", version=f"dts {__version__}")


def _positive_int(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = parse_seconds(text)
    except InvalidInput as error:
        raise argparse.ArgumentTypeError(error.message) from error
    if seconds < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is below 0")
    return seconds


def _bytes(text: str) -> int:
    try:
        return parse_bytes(text)
    except InvalidInput as error:
        raise argparse.ArgumentTypeError(error.message) from error


def _position(text: str) -> int:
    return 0 if text == "0" else _positive_int(text)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _object(text: str) -> dict[str, object]:
    try:
        value = msgspec.json.decode(text.encode())
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is not an object, such as {{"lang": "en"}}')
    return value


def _time(text: str) -> float:
    try:
        if text.startswith("+"):
            return time.time() + float(text[1:])
        return datetime.fromisoformat(text).timestamp() if "-" in text[1:] else float(text)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 2026-12-24T18:00, or +3600") from error


def _template(text: str) -> str:
    try:
        text.encode()
        TemplateFormat(text)
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(f"{text!a} is not valid UTF-8") from error
    except InvalidInput as error:
        raise argparse.ArgumentTypeError(error.message) from error
    return text


def _fields(text: str) -> list[str]:
    try:
        return list(RowFormat(name.strip() for name in text.split(",") if name.strip()).fields)
    except InvalidInput as error:
        raise argparse.ArgumentTypeError(error.message) from error
