"""The command `dts-admin`: a shell for administrators; with a command, one shot."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from dts.client.credentials import HELP as CREDENTIALS_HELP
from dts.client.credentials import load_server_url
from dts.client.server_url import check_server_url
from dts.client.stdio import tidy_streams
from dts.management.commands import ALL_COMMANDS
from dts.management.shell.grammar import Grammar
from dts.management.shell.help import render_help
from dts.management.shell.prompts import Interrupted, Prompts
from dts.management.shell.session import DEFAULT_URL, Options, Session
from dts.management.shell.shell import EXIT_INTERRUPTED, interact, run_script, run_words, until_told_to_stop
from dts.runtime import process
from dts.version import __version__

DESCRIPTION = """\
Manage users, namespaces, functions and hosts of a DTS server, and see what it works on.

Without a COMMAND this is a shell; with one, that is run. When standard input is not a terminal, commands are read from
it, one a line, up to the first that fails.
"""

EPILOG = """\
{commands}

{credentials}
the server, from the first of these: --url, DTS_SERVER_URL, url in the credentials file, {url}

exit status:
  0    it was done
  1    it could not be done; stderr says why
  2    the command or the configuration is wrong
  130  interrupted

examples:
  dts-admin
  dts-admin users get
  dts-admin --username admin --secret-file var/admin.secret users add alice roles=user namespaces=text
  dts-admin --json runs list user=alice
  dts-admin < commands.txt
"""


def build_parser(grammar: Grammar) -> argparse.ArgumentParser:
    """The command line of `dts-admin`."""
    epilog = EPILOG.format(commands=render_help(grammar, ()), credentials=CREDENTIALS_HELP, url=DEFAULT_URL)
    parser = argparse.ArgumentParser(
        prog="dts-admin",
        description=DESCRIPTION,
        epilog=epilog.replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--username", metavar="U", help="who you are")
    add("--secret-file", metavar="F", help="the file with your secret")
    add("--url", metavar="URL", help="the server, http://host:port")
    add("--json", action="store_true", help="one JSON object a line, for scripts")
    add("--yes", "-y", action="store_true", help="do not ask before something is destroyed")
    add("--insecure", action="store_true", help="send secrets over http to another machine")
    add("--version", action="version", version=f"dts {__version__}")
    add("command", metavar="COMMAND ...", nargs=argparse.REMAINDER, help="such as users get alice; see below")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    grammar = Grammar(ALL_COMMANDS)
    with tidy_streams():
        options = build_parser(grammar).parse_args(argv)
        return process.run(partial(run, options, grammar))


async def run(options: argparse.Namespace, grammar: Grammar, shutdown: process.Shutdown) -> int:
    """Do what the command line says; returns the exit status.

    Raises:
        ConfigError: the credentials file cannot be read, or the URL is not one of a server.
    """
    chosen = Options(
        url=check_server_url(options.url or load_server_url() or DEFAULT_URL),
        username=options.username,
        secret_file=options.secret_file,
        as_json=options.json,
        yes=options.yes,
        insecure=options.insecure,
    )
    session = Session(chosen, Prompts(present=sys.stdin.isatty()), partial(render_help, grammar))
    try:
        if options.command:
            return await _one_shot(session, grammar, options.command, shutdown)
        return await (interact if sys.stdin.isatty() else run_script)(session, grammar, shutdown)
    finally:
        session.close()


async def _one_shot(session: Session, grammar: Grammar, words: Sequence[str], shutdown: process.Shutdown) -> int:
    try:
        status = await until_told_to_stop(run_words(session, grammar, words), shutdown)
    except Interrupted:
        status = None
    return EXIT_INTERRUPTED if status is None else status


if __name__ == "__main__":
    sys.exit(main())
