"""The ways in which commands come: one on the command line, a person's lines, or the lines of a script."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, InMemoryHistory

from dts.client.threads import in_thread
from dts.errors import ConfigError, DtsError, InvalidInput, RequestRefused
from dts.management.shell.arguments import HELP
from dts.management.shell.completion import CommandCompleter, Ids
from dts.management.shell.grammar import Grammar, parse_arguments
from dts.management.shell.help import render_command
from dts.management.shell.output import Output, complain, describe_login, note
from dts.management.shell.prompts import Interrupted
from dts.management.shell.session import Session
from dts.management.utils import check_text, may_hold_secret, split_line, state_folder
from dts.runtime.process import EXIT_FAILED, EXIT_OK, EXIT_USAGE, Shutdown
from dts.runtime.tasks import end_tasks, wait_first

T = TypeVar("T")

EXIT_INTERRUPTED = 130

_NOT_KNOWN = 401

GREETING = "help shows what there is, Tab completes, Ctrl-D leaves."


async def run_words(session: Session, grammar: Grammar, words: Sequence[str]) -> int:
    """Run one command; what is wrong with it is said on stderr. Returns its exit status."""
    try:
        check_text(words)
        found, rest = grammar.find(words)
        arguments = parse_arguments(found, rest)
        if arguments.has(HELP):
            Output().text(render_command(found))
            return EXIT_OK
        return await found.action(session, arguments) or EXIT_OK
    except (InvalidInput, ConfigError) as error:
        complain(error.message)
        return EXIT_USAGE
    except DtsError as error:
        complain(error.message)
        return EXIT_FAILED


async def run_line(session: Session, grammar: Grammar, line: str) -> int:
    """Run the command in a line, if there is one. Returns its exit status."""
    try:
        words = split_line(line)
    except InvalidInput as error:
        complain(error.message)
        return EXIT_USAGE
    return await run_words(session, grammar, words) if words else EXIT_OK


async def run_script(session: Session, grammar: Grammar, shutdown: Shutdown) -> int:
    """Run the lines of stdin, up to the first that fails; returns the exit status of the last that ran."""
    number = 0
    while not session.leaving:
        line = await until_told_to_stop(_next_line(), shutdown)
        if line == "":
            break
        number += 1
        status = None if line is None else await until_told_to_stop(run_line(session, grammar, line), shutdown)
        if status is None:
            return EXIT_INTERRUPTED
        if status != EXIT_OK:
            complain(f"stopped at line {number}")
            return status
    return EXIT_OK


async def _next_line() -> str:
    try:
        return await in_thread(sys.stdin.readline)
    except UnicodeDecodeError as error:
        raise ConfigError("standard input is not text in UTF-8") from error


async def interact(session: Session, grammar: Grammar, shutdown: Shutdown) -> int:
    """Read lines from a person and run them until there are no more. A command that fails does not end the shell."""
    foreground = _Foreground(shutdown)
    await foreground.run(greet(session))
    history = open_history(state_folder() / "history")
    prompt: PromptSession[str] = PromptSession(
        history=history,
        completer=CommandCompleter(grammar, Ids(session)),
        complete_while_typing=False,
        interrupt_exception=Interrupted,
    )
    while not (session.leaving or shutdown.requested.is_set()):
        try:
            line = await until_told_to_stop(prompt.prompt_async(session.prompt, handle_sigint=False), shutdown)
        except Interrupted:
            continue
        except EOFError:
            break
        if line is not None:
            status = await foreground.run(run_line(session, grammar, line))
            if may_be_kept(grammar, line, status):
                history.keep(line)
    return EXIT_OK


async def greet(session: Session) -> None:
    """Sign in at once, so that it is not the first command that fails for a wrong secret."""
    note(GREETING)
    try:
        client = await session.client()
        note(describe_login(await client.login(), client.server_url))
    except DtsError as error:
        complain(error.message)
        if isinstance(error, RequestRefused) and error.status == _NOT_KNOWN:
            session.forget()
        if not session.signed_in:
            note("not signed in: login NAME")


class _Foreground:
    """What the shell does now; Ctrl-C ends that, and the shell goes on. TERM ends both.

    Ctrl-C is a key while a line is read, and a signal while a command runs.
    """

    def __init__(self, shutdown: Shutdown) -> None:
        self._shutdown = shutdown
        self._task: asyncio.Task[Any] | None = None
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupt)

    def _interrupt(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def run(self, work: Coroutine[object, object, T]) -> T | None:
        """Run something to its end, to Ctrl-C or to TERM; returns its result, if it has come to one."""
        self._task = task = asyncio.create_task(work)
        await wait_first(task, self._shutdown.requested)
        await end_tasks([task])
        self._task = None
        if task.cancelled():
            complain("interrupted; what was sent to the server may have been done")
            return None
        with suppress(Interrupted):
            return task.result()
        return None


async def until_told_to_stop(work: Coroutine[object, object, T], shutdown: Shutdown) -> T | None:
    """The result of `work`; None, and `work` cancelled, when the process is asked to end first."""
    task = asyncio.create_task(work)
    done = asyncio.Event()
    task.add_done_callback(lambda _: done.set())
    await shutdown.wait(done)
    if not task.done():
        await end_tasks([task])
    return None if task.cancelled() else task.result()


def may_be_kept(grammar: Grammar, line: str, status: int | None) -> bool:
    """Whether a line that was run may go into a file; `status` is what it came to, None when it was interrupted.

    A word that is out of place may be a secret, whatever it looks like. So a line that is not a command as it should
    be is not kept, and one of a command that takes a secret only when it was done.
    """
    if status == EXIT_USAGE or may_hold_secret(line):
        return False
    try:
        words = split_line(line)
        return bool(words) and (status == EXIT_OK or not grammar.find(words)[0].takes_secret)
    except InvalidInput:
        return False


class PrudentHistory(FileHistory):
    """A history that never takes in a line that may hold a secret; its file has only lines that were kept after all."""

    def __init__(self, filename: str) -> None:
        super().__init__(filename)
        self._typed = ""

    def append_string(self, string: str) -> None:
        """Offer a line again in this shell."""
        if not may_hold_secret(string):
            super().append_string(string)

    def store_string(self, string: str) -> None:
        """Remember which line was typed last, until it is known what it was."""
        self._typed = string

    def keep(self, line: str) -> None:
        """Write the line that was typed last to the file, unless it is there already."""
        if line == self._typed:
            super().store_string(line)
        self._typed = ""


class ForgetfulHistory(InMemoryHistory):
    """The same without a file."""

    def append_string(self, string: str) -> None:
        """Offer a line again in this shell."""
        if not may_hold_secret(string):
            super().append_string(string)

    def keep(self, line: str) -> None:
        """There is no file."""


def open_history(path: Path) -> PrudentHistory | ForgetfulHistory:
    """The history in a file for its owner alone; one in memory when the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError as error:
        note(f"no history is kept: {path}: {error.strerror or error}")
        return ForgetfulHistory()
    return PrudentHistory(str(path))
