"""The grammar of the shell: what a command is, how a line becomes one, and its help text.

    NOUN VERB WORDS… FIELD=VALUE… --FLAGS

A command parses, calls and prints: a function over a session and its arguments, wrapped by `command`. Its docstring is
its help text.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from dts.errors import InvalidInput
from dts.management.shell.arguments import COMMON_FLAGS, HELP, SECRET_FILE, Arguments, Flag
from dts.management.shell.fields import Field, Kind, find_field, parse_value
from dts.management.shell.session import Session
from dts.management.utils import nearest

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_.]*)=(.*)", re.DOTALL)


_LIKE_A_FLAG = 0.7  # all flags begin with the same two dashes

_IMPLIED_VERBS = ("list", "get")
"""What a noun without a verb means, or with `list` or `ls`."""

_LISTS = frozenset({"list", "ls"})

Action = Callable[[Session, Arguments], Awaitable[int | None]]
"""What a command does. It returns an exit status, None for success."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `usage` shows its words and fields; `least` and `most` say how many words it takes.

    `ids` names the kind of thing that its first word is the id of, and `readable` the names of fields that further
    words may be; both are for completion.
    """

    name: str
    action: Action
    help: str
    usage: str = ""
    least: int = 0
    most: int = 0
    fields: tuple[Field, ...] = ()
    flags: tuple[Flag, ...] = ()
    examples: tuple[str, ...] = ()
    ids: str = ""
    readable: tuple[str, ...] = ()
    rest: bool = False
    """Whether it takes another command after `--`."""

    @property
    def noun(self) -> str:
        """The first word of its name."""
        return self.name.partition(" ")[0]

    @property
    def summary(self) -> str:
        """The first sentence of its help."""
        first = self.help.partition("\n")[0]
        return first.partition(". ")[0].rstrip(".")

    @property
    def all_flags(self) -> tuple[Flag, ...]:
        """Its own flags and those of every command."""
        return (*self.flags, *COMMON_FLAGS)

    @property
    def takes_secret(self) -> bool:
        """Whether a secret is among what it may be told."""
        return any(flag.name == SECRET_FILE.name for flag in self.flags) or any(
            each.kind in (Kind.SECRET, Kind.FILE) for each in self.fields
        )


def command(
    name: str,
    usage: str = "",
    *,
    words: tuple[int, int] = (0, 0),
    fields: tuple[Field, ...] = (),
    flags: tuple[Flag, ...] = (),
    examples: Sequence[str] = (),
    ids: str = "",
    readable: tuple[str, ...] = (),
    rest: bool = False,
    **names: str,
) -> Callable[[Action], Command]:
    """Make a command of a function. `names` fill the places such as {one} in its docstring."""

    def wrap(action: Action) -> Command:
        text = inspect.getdoc(action) or ""
        text = text.format(**names) if names else text
        return Command(name, action, text, usage, *words, fields, flags, tuple(examples), ids, readable, rest)

    return wrap


class Grammar:
    """All commands, found by their first words."""

    def __init__(self, commands: Iterable[Command]) -> None:
        self.commands = {each.name: each for each in commands}

    @property
    def nouns(self) -> list[str]:
        """First words, in the order in which the help lists them."""
        return list(dict.fromkeys(each.noun for each in self.commands.values()))

    def verbs(self, noun: str) -> list[str]:
        """The second words that may follow a first one."""
        return [name.removeprefix(f"{noun} ") for name in self.commands if name.startswith(f"{noun} ")]

    def find(self, words: Sequence[str]) -> tuple[Command, Sequence[str]]:
        """The command that words begin with, and the words after its name.

        Raises:
            InvalidInput: there is none; suggests the nearest.
        """
        if any(name.startswith(f"{' '.join(words[:2])} ") for name in self.commands):
            words = [" ".join(words[:2]), *words[2:]]  # a noun of two words, such as alerts rules
        first, second = words[0], words[1] if len(words) > 1 else ""
        if f"{first} {second}" in self.commands:
            return self.commands[f"{first} {second}"], words[2:]
        if first in self.commands:
            lists = second in _LISTS and not self.commands[first].most
            return self.commands[first], words[2 if lists else 1 :]
        verbs = self.verbs(first)
        if not verbs:
            guess = nearest(first, self.nouns)
            raise InvalidInput(f"there is no command {first[:40]}{guess or ': help shows them all'}")
        implied = next(
            (verb for verb in _IMPLIED_VERBS if verb in verbs and self.commands[f"{first} {verb}"].least == 0), ""
        )
        if implied and second in _LISTS:
            return self.commands[f"{first} {implied}"], words[2:]
        if implied and (not second or second.startswith("-") or "=" in second):
            return self.commands[f"{first} {implied}"], words[1:]
        if not second:
            raise InvalidInput(f"{first} needs one of {', '.join(verbs)}")
        guess = nearest(f"{first} {second}", (f"{first} {verb}" for verb in verbs)) if nearest(second, verbs) else ""
        raise InvalidInput(f"there is no command {first} {second[:40]}{guess or ': there are ' + ', '.join(verbs)}")


def parse_arguments(wanted: Command, words: Sequence[str]) -> Arguments:
    """Sort the words after a command's name into words, fields and flags, and check them against it.

    Raises:
        InvalidInput: there are too few or too many, or a field, its value or a flag is wrong. Words that were one too
            many are not shown: somebody may have typed a secret.
        ConfigError: a file that a field names cannot be read.
    """
    plain: list[str] = []
    values: dict[str, object] = {}
    flags: dict[str, str] = {}
    words, rest = _split_rest(wanted, words)
    waiting = list(reversed(words))
    while waiting:
        word = waiting.pop()
        assignment = _ASSIGNMENT.fullmatch(word)
        if word.startswith("-") and word.strip("-"):
            _take_flag(wanted, word, waiting, flags)
        elif assignment and not (len(plain) < wanted.least and not wanted.fields):
            found = find_field(assignment[1], wanted.fields)
            if found.name in values:
                raise InvalidInput(f"{found.name} is given twice")
            values[found.name] = parse_value(found, assignment[2])
        else:
            plain.append(word)
    if HELP.name not in flags:
        _check_count(wanted, len(plain))
    return Arguments(tuple(plain), values, flags, rest)


def _split_rest(wanted: Command, words: Sequence[str]) -> tuple[Sequence[str], tuple[str, ...]]:
    """The words before `--`, and those after it, which are another command's."""
    if not (wanted.rest and "--" in words):
        return words, ()
    at = words.index("--")
    return words[:at], tuple(words[at + 1 :])


def _take_flag(wanted: Command, word: str, waiting: list[str], flags: dict[str, str]) -> None:
    name, equals, text = word.partition("=")
    known = {flag.name: flag for flag in wanted.all_flags}
    name = next((flag.name for flag in wanted.all_flags if flag.short == name), name)
    if name not in known:
        guess = nearest(name, known, cutoff=_LIKE_A_FLAG) or f": write {wanted.name} {wanted.usage}".rstrip()
        raise InvalidInput(f"{wanted.name} has no flag {name}{guess}")
    if known[name].metavar and not equals:
        if not waiting:
            raise InvalidInput(f"{name} needs a {known[name].metavar}")
        text = waiting.pop()
    elif equals and not known[name].metavar:
        raise InvalidInput(f"{name} takes no value")
    if name in flags and known[name].metavar:
        raise InvalidInput(f"{name} is given twice")
    flags[name] = text


def _check_count(wanted: Command, count: int) -> None:
    if not wanted.least <= count <= wanted.most:
        what = "is missing a word" if count < wanted.least else "has too many words"
        raise InvalidInput(f"{wanted.name} {what}: write {wanted.name} {wanted.usage}".rstrip())
