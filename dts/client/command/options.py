"""The command lines of `dts-client` and of its subcommands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from dts.client.client import NUM_MAX_COROUTINES, SNOOZE_INTERVAL
from dts.client.command import exits, values
from dts.client.command.files import COMPONENTS
from dts.client.command.screen import KINDS
from dts.client.credentials import HELP as CREDENTIALS_HELP
from dts.client.rows import FIELDS
from dts.client.stdio import show
from dts.errors import ClientError
from dts.version import __version__

USAGE = "dts-client FUNCTION INFILE OUTFILE [SERVER_URL] [options]"

DESCRIPTION = """\
Run FUNCTION (namespace/name) on every line of INFILE and write a row for each to OUTFILE; - is standard input, output.
A run that was interrupted or killed goes on with --resume. Ctrl-C leaves it open, and twice leaves at once.
Also: dts-client attach|runs|status|why|cancel|pause|resume, each with its --help; dts-client --help-all.\
"""

ROWS = """\
  {"line": 17, "success": true, "result": "ABC", "duration": 0.000400}
  {"line": 18, "success": false, "error": {"type": "...", "message": "...", "traceback": "..."}, "duration": 0.000400}\
"""

EXAMPLES = """\
examples:
  dts-client text/upper in.txt out.json http://127.0.0.1:8000
  dts-client text/upper in.txt out.json http://127.0.0.1:8000 --resume
  dts-client math/add pairs.json out.json http://127.0.0.1:8000 --input-format json --errfile failed.json
  dts-client -k text/upper in.txt.gz - http://127.0.0.1:8000 --format '{line} {result}'\
"""

SHORT_EPILOG = f"""\
exit status: 0, 1-100 failed lines, 101 more, 129 130 141 143 by a signal, 255 could not run

{EXAMPLES}
"""

EPILOG = f"""\
{CREDENTIALS_HELP}
the server, from the first of these: SERVER_URL, DTS_SERVER_URL, url in the credentials file

{exits.HELP}

{EXAMPLES}
"""


class _OneLineEach(argparse.RawDescriptionHelpFormatter):
    """Leaves room for an option and what it does on one line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=120)


class Parser(argparse.ArgumentParser):
    """Ends with the status of what could not be run. With `full` its help has every option."""

    def __init__(self, *, full: bool = True, **how: Any) -> None:
        super().__init__(formatter_class=_OneLineEach, **how)
        self._full = full

    def group(self, title: str) -> _Group:
        """Options that are listed together."""
        return _Group(self.add_argument_group(title), full=self._full)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As any parser does; `--progress` may have a value, and takes no other word for one."""
        return super().parse_known_args(None if args is None else _with_progress(args), namespace)

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


class _Group:
    """Adds options to a group: those that are `rare` are in the full help only."""

    def __init__(self, group: argparse._ArgumentGroup, *, full: bool) -> None:
        self._group = group
        self._full = full

    def add(self, *flags: str, rare: bool = False, help: str, **how: Any) -> None:
        """Add an option."""
        self._group.add_argument(*flags, help=argparse.SUPPRESS if rare and not self._full else help, **how)


class _HelpAll(argparse.Action):
    """Prints the full help."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        build_parser(full=True).print_help()
        parser.exit()


def build_parser(*, full: bool = False) -> Parser:
    """The command line of `dts-client`; with `full` its help has every option."""
    parser = Parser(
        prog="dts-client",
        usage=USAGE,
        description=f"{DESCRIPTION}\n{ROWS}" if full else DESCRIPTION,
        epilog=EPILOG if full else SHORT_EPILOG,
        add_help=False,
        full=full,
    )
    for name in ("function", "infile", "outfile"):
        parser.add_argument(name, metavar=name.upper(), help=argparse.SUPPRESS)
    parser.add_argument("server_url", metavar="SERVER_URL", nargs="?", help=argparse.SUPPRESS)
    _add_input_options(parser)
    _add_output_options(parser)
    add = _add_run_options(parser).add
    add("--changed", action="store_true", help="run lines that are new or differ, and keep the rows of the others")
    add("--retry-failed", action="store_true", help="run again what has failed, and keep the other rows")
    add("--detach", action="store_true", help="end when all lines are accepted, print the run's id")
    add("--notify", action="append", metavar="WHERE", help="me, a mail address or a URL that hears of the run's end")
    add("--dry-run", action="store_true", help="show the first jobs, and send nothing")
    add(
        "--local",
        rare=True,
        action="store_true",
        help="run the function here, from the folder functions, without a server",
    )
    add("--cancel-on-interrupt", rare=True, action="store_true", help="when interrupted, cancel the run")
    _add_progress_options(parser)
    _add_attempt_options(parser)
    add = _add_connection_options(parser, "connection, help").add
    add("-h", "--help", rare=True, action="help", help="show the most usual options")
    add("--help-all", action=_HelpAll, nargs=0, help="show every option, where credentials come from, exit statuses")
    add("--version", rare=True, action="version", version=f"dts {__version__}", help="show the version")
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
    _add_output_options(parser, in_order=False)
    _add_run_options(parser)
    _add_progress_options(parser)
    _add_connection_options(parser)
    add("--version", action="version", version=f"dts {__version__}")
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
    parser.add_argument("--version", action="version", version=f"dts {__version__}")
    parser.set_defaults(argv=None, function="", infile="")
    return parser


def given_flags(parser: Parser, options: argparse.Namespace) -> list[str]:
    """The flags of `parser` that `options` say something else than the default of, as they are written."""
    words: list[str] = []
    for action in parser._actions:
        value = getattr(options, action.dest, None)
        if not action.option_strings or action.const == "none" or value in (None, False, [], action.default):
            continue
        words.append(action.option_strings[-1])
        if action.nargs != 0:
            words.append(",".join(value) if isinstance(value, list) else str(value))
    return words


def _with_progress(words: Sequence[str]) -> list[str]:
    """The same words, where a `--progress` that no kind follows says which it means."""
    following = [*words[1:], ""]
    return [
        "--progress=bar" if word == "--progress" and after not in KINDS else word
        for word, after in zip(words, following, strict=True)
    ]


def _add_input_options(parser: Parser) -> None:
    add = parser.group("input").add
    add(
        "--input-format",
        choices=sorted(COMPONENTS),
        default="text",
        metavar="FORMAT",
        help="text: a line is one argument; word, json, csv, tsv, parquet: see docs/client.md",
    )
    add("-0", "--null", action="store_true", help="lines end with a null byte")
    add("--args", type=values.json_object, default={}, metavar="JSON", help="keyword arguments of every line")
    add("--head", type=values.positive_int, metavar="N", help="only the first N lines")
    add(
        "--infile",
        rare=True,
        metavar="FILE",
        dest="more_infiles",
        action="append",
        default=[],
        help="a file to be read after INFILE; several times",
    )
    add(
        "--id-field",
        rare=True,
        default="",
        metavar="NAME",
        help="a column that rows have as custom_id; it is not passed on",
    )
    add(
        "--infile-start-position",
        rare=True,
        type=values.position,
        default=0,
        metavar="BYTE",
        help="begin at this byte of INFILE",
    )


def _add_output_options(parser: Parser, *, in_order: bool = True) -> None:
    add = parser.group("output").add
    if in_order:
        add("-k", "--keep-order", action="store_true", help="write rows in the order of the input")
    add("--fields", type=values.field_list, default=[], metavar="NAME,...", help=f"add {', '.join(FIELDS)}")
    add("--format", type=values.template, metavar="TEXT", help="a line of text for each row: '{line}: {result}'")
    add("--output-format", choices=["json", "csv", "tsv"], default="json", metavar="FORMAT", help="json, csv or tsv")
    add("--errfile", metavar="FILE", help="write rows of lines that failed here, not to OUTFILE")
    add(
        "--rotate-daily",
        rare=True,
        action="store_true",
        help="put the day into the names of OUTFILE and errfile, append to today's",
    )


def _add_progress_options(parser: Parser) -> None:
    add = parser.group("progress").add
    add("--quiet", action="store_true", help="print nothing but errors")
    add(
        "--progress",
        choices=KINDS,
        metavar="KIND",
        help="bar (on a terminal), line (every 10 s, elsewhere), json (every second), none",
    )
    add("--no-progress", rare=True, dest="progress", action="store_const", const="none", help="the same as none")
    add("--plot", type=values.picture, metavar="FILE.png|svg", help="draw throughput and durations (needs matplotlib)")


def _add_attempt_options(parser: Parser) -> None:
    add = parser.group("attempts, within what the function's record allows").add
    add("--timeout", type=values.seconds, metavar="SECONDS", help="how long an attempt at a line may take")
    add("--max-attempts", type=values.positive_int, metavar="N", help="how often a line is tried")
    add("--priority", type=values.priority, metavar="0-9", help="9 goes first")
    add("--code", rare=True, dest="version", metavar="VERSION", help="run this deployed version of the function")
    add("--weight", rare=True, type=values.weight, metavar="NUMBER", help="share beside your other runs (1)")
    add("--soft-timeout", rare=True, type=values.seconds, metavar="SECONDS", help="when SoftTimeout is raised in it")
    add("--retry-on", rare=True, type=values.name_list, metavar="NAME,...", help="exceptions worth another try")
    add("--memory-limit", rare=True, type=values.byte_count, metavar="BYTES", help="memory of the process")
    add("--not-before", rare=True, type=values.moment, metavar="TIME", help="2026-12-24T18:00, or +SECONDS")
    add("--deadline", rare=True, type=values.moment, metavar="TIME", help="lines that have not ended by then fail")


def _add_run_options(parser: Parser) -> _Group:
    group = parser.group("run")
    group.add("--resume", action="store_true", help="go on with the run in OUTFILE")
    group.add("--overwrite", action="store_true", help="begin anew, also if OUTFILE holds an unfinished run")
    return group


def _add_connection_options(parser: Parser, title: str = "connection") -> _Group:
    group = parser.group(title)
    add = group.add
    add("--username", metavar="NAME", help="who you are")
    add("--secret-file", metavar="FILE", help="the file with your secret")
    add("--cacert", rare=True, metavar="FILE", help="the authorities that the server's certificate may be of")
    add(
        "--coroutines",
        rare=True,
        type=values.positive_int,
        default=NUM_MAX_COROUTINES,
        metavar="N",
        help="blocks that are sent at once (default: %(default)s)",
    )
    add(
        "--snooze",
        rare=True,
        type=values.seconds,
        default=SNOOZE_INTERVAL,
        metavar="SECONDS",
        help="pause between two requests for results (default: %(default)s)",
    )
    add(
        "--give-up-after",
        rare=True,
        type=values.seconds,
        metavar="SECONDS",
        help="how long a server that is away, or a limit, is waited for (for ever)",
    )
    return group
