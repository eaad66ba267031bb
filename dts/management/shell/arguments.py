"""What a command is given: its words, fields and flags, and the flags that several commands take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dts.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Flag:
    """An option such as `--force`, or `--limit N` when it has a `metavar`; `short` is another name, such as `-c`."""

    name: str
    help: str
    metavar: str = ""
    short: str = ""


JSON = Flag("--json", "one JSON object a line, for scripts")
YES = Flag("--yes", "do not ask before something is destroyed", short="-y")
HELP = Flag("--help", "show this help", short="-h")
COMMON_FLAGS = (JSON, YES, HELP)
"""What every command takes."""

LIMIT = Flag("--limit", "rows at most; 0 is all (default: 100, with --json all)", "N")
FORCE = Flag("--force", "even if it is in use")
SECRET_FILE = Flag(
    "--secret-file", "read the secret from FILE; with secret=generate, write it there (mode 0600)", "FILE"
)


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a command was given: words, fields with their values, flags with their texts (empty for a mere switch).

    `rest` is what follows `--`, as it is, for a command that takes another one.
    """

    words: tuple[str, ...] = ()
    values: Mapping[str, object] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    rest: tuple[str, ...] = ()

    def word(self, index: int, default: str = "") -> str:
        """The word at a place, or a default when there are fewer."""
        return self.words[index] if index < len(self.words) else default

    def has(self, flag: Flag) -> bool:
        """Whether a flag was given."""
        return flag.name in self.flags

    def number(self, flag: Flag) -> int | None:
        """The number that a flag was given, None without the flag.

        Raises:
            InvalidInput: it is not a whole number from 0.
        """
        text = self.flags.get(flag.name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit()):
            raise InvalidInput(f"{flag.name} takes a whole number from 0, not {text[:40]}")
        return int(text)
