"""Small things that the parts of the shell share: lines into words, suggestions, text that is safe to show."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import time
from collections.abc import Iterable
from pathlib import Path

from dts.errors import ConfigError, InvalidInput

_SECRET_WORD = re.compile(r"(secret|pem|password|passphrase|ssh_key)\w*=(?!generate(\s|$)|@|$|\s)", re.IGNORECASE)
_LOGIN_WITH_MORE = re.compile(r"login\s+\S+\s+[^-\s]", re.IGNORECASE)


def split_line(line: str) -> list[str]:
    """The words of a line, quoted as in a shell; everything after ` #` is a comment.

    Raises:
        InvalidInput: a quotation mark is not closed.
    """
    try:
        return shlex.split(line, comments=True)
    except ValueError as error:
        raise InvalidInput(f"the line cannot be read: {str(error).lower()}; quotation marks come in pairs") from error


def check_text(words: Iterable[str]) -> None:
    """Make sure that words are text: bytes that were not UTF-8 come from a terminal or a pipe as lone surrogates.

    Raises:
        InvalidInput: one is not.
    """
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"{printable(word)[:80]} is not text in UTF-8") from error


def nearest(word: str, choices: Iterable[str], *, cutoff: float = 0.6) -> str:
    """`; did you mean X?` for the choice that is most like `word`, or nothing. `cutoff` is how much: 1 is the same."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=cutoff)
    return f"; did you mean {found[0]}?" if found else ""


def may_hold_secret(line: str) -> bool:
    """Whether a line that was typed may hold a secret, however it is quoted, so that no history should keep it."""
    plain = re.sub(r"[\"'\\]", "", line).strip()
    return bool(_SECRET_WORD.search(plain) or _LOGIN_WITH_MORE.match(plain))


def counted(number: int, one: str) -> str:
    """A number of things in words: 1 message, 2 messages, 0 entries."""
    many = f"{one[:-1]}ies" if one.endswith("y") else f"{one}s"
    return f"{number} {one if number == 1 else many}"


def printable(text: str) -> str:
    """`text` without characters that would steer a terminal: they are shown as escapes. Line ends stay."""
    return "".join(char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text)


def format_time(seconds: object) -> str:
    """A time in seconds since the epoch as local date and time; nothing for none."""
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or seconds <= 0:
        return ""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def state_folder() -> Path:
    """Where the shell keeps its history: `$XDG_STATE_HOME/dts`, which is `~/.local/state/dts` unless it is set."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "dts"


def read_secret_file(path: str) -> str:
    """The secret in a file, without white space around it.

    Raises:
        ConfigError: the file cannot be read, or it is empty; never shows what is in it.
    """
    try:
        secret = Path(path).expanduser().read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read the secret from {path}: it is not text in UTF-8") from error
    except OSError as error:
        raise ConfigError(f"cannot read the secret from {path}: {error.strerror or error}") from error
    if not secret:
        raise ConfigError(f"the secret in {path} is empty")
    return secret


def write_private(path: Path, text: str) -> None:
    """Make a file for its owner alone, mode 0600, in a folder that is there; a file that is there is left as it is.

    Raises:
        ConfigError: it exists, or cannot be written.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists already: name another file, so that nothing is lost") from error
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
