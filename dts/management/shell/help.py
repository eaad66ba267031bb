"""The help texts: of the shell, of a noun, of a command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dts.errors import InvalidInput
from dts.management.shell.arguments import Flag
from dts.management.shell.fields import Field
from dts.management.shell.grammar import Command, Grammar

_WIDTH = 24

GENERAL = """\
A command is a noun, mostly a verb, then words, FIELD=VALUE and flags:

  users add alice roles=user,developer email=alice@example.org

Quote what has spaces, as in a shell: description='runs at night'. A list is written with commas, an object as JSON.
Every command takes --json (one object a line), --yes (do not ask) and --help.
"""

EXIT_STATUS = "exit status: 0 it was done, 1 it could not be done, 2 the command is wrong, 130 interrupted"

SHELL = """\
In the shell, Tab completes, the up arrow goes back, Ctrl-C drops the line, Ctrl-D leaves.\
"""


def render_help(grammar: Grammar, words: Sequence[str]) -> str:
    """The help for words of a command, which may be only its first, or none for the whole shell.

    Raises:
        InvalidInput: there is no such command.
    """
    if not words:
        return render_overview(grammar)
    if len(words) == 1 and (verbs := grammar.verbs(words[0])):
        own = [words[0]] if words[0] in grammar.commands else []
        names = [*own, *(f"{words[0]} {verb}" for verb in verbs)]
        rows = [(_line(grammar.commands[name]), grammar.commands[name].summary) for name in names]
        return f"{_table(rows)}\n\nhelp {words[0]} {verbs[0]} tells more, with an example."
    found, rest = grammar.find(words)
    if rest:
        raise InvalidInput(f"there is no command {' '.join(words)}: try help {found.name}")
    return render_command(found)


def render_overview(grammar: Grammar) -> str:
    """All commands, with what they do."""
    rows = [(each.name, each.summary) for each in grammar.commands.values()]
    return f"{GENERAL}\ncommands:\n{_table(rows)}\n\nhelp users add, or users add --help, tells more. {SHELL}"


def render_command(command: Command) -> str:
    """One command: how it is written, what it does, its fields and flags, an example."""
    sections = [f"usage: {_line(command)}", command.help]
    if command.fields:
        sections.append("fields:\n" + _table((field.name, _about(field)) for field in command.fields))
    flags = ((_flag(flag), flag.help) for flag in command.all_flags)
    sections.append("flags:\n" + _table(flags))
    if command.examples:
        label = "example:" if len(command.examples) == 1 else "examples:"
        sections.append("\n".join([label, *(f"  {example}" for example in command.examples)]))
    sections.append(EXIT_STATUS)
    return "\n\n".join(sections)


def _line(command: Command) -> str:
    return f"{command.name} {command.usage}".rstrip()


def _flag(flag: Flag) -> str:
    return ", ".join(filter(None, (flag.short, f"{flag.name} {flag.metavar}".strip())))


def _about(field: Field) -> str:
    return f"{field.help} ({field.hint})"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    lines = []
    for left, right in rows:
        gap = "  " if len(left) < _WIDTH else "\n" + " " * (_WIDTH + 4)
        lines.append(f"  {left:<{_WIDTH}}{gap}{right}")
    return "\n".join(lines)
