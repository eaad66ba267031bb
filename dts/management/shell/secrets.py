"""New secrets: typed, from a file, or made up; never on the screen, in a history or in an error.

The one exception is a secret that was made up and has no file to go to: it is shown once, on stderr.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dts.auth import new_secret
from dts.errors import InvalidInput, RequestRefused, ServerUnavailable
from dts.management.shell.arguments import SECRET_FILE, Arguments
from dts.management.shell.fields import Wish
from dts.management.shell.output import note
from dts.management.shell.prompts import MIN_SECRET
from dts.management.shell.session import Session
from dts.management.utils import read_secret_file, write_private


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret to be sent to the server, or none. `file` is where one that was made up has been written to."""

    text: str = field(default="", repr=False)
    generated: bool = False
    file: Path | None = None

    @property
    def fields(self) -> dict[str, object]:
        """What goes into the request."""
        return {"secret": self.text} if self.text else {}

    @contextmanager
    def handed_over(self, owner: str) -> Iterator[None]:
        """Around the request: tells where a secret that was made up is, unless the server has refused it."""
        try:
            yield
        except RequestRefused:
            if self.file is not None:
                self.file.unlink(missing_ok=True)
            raise
        except ServerUnavailable:
            self._reveal(owner, ", if the server has accepted it")
            raise
        self._reveal(owner)

    def _reveal(self, owner: str, condition: str = "") -> None:
        if self.generated and self.file is not None:
            note(f"the secret of {owner}{condition} is in {self.file}")
        elif self.generated:
            note(f"the secret of {owner}{condition}, shown only now: {self.text}")


async def choose_secret(
    session: Session, arguments: Arguments, owner: str, *, ask: bool, check: Callable[[], Awaitable[object]]
) -> Secret:
    """The new secret of `owner` as the command says. When it says nothing: typed if `ask` is set, else none.

    `check` is called before somebody is troubled to type one: it raises what stands in the way.

    Raises:
        InvalidInput: two are given, one is too short, or the person gave up.
        ConfigError: a file cannot be read or written, or nobody is there to type one.
    """
    given = arguments.values.get("secret")
    path = arguments.flags.get(SECRET_FILE.name)
    if given is Wish.GENERATE:
        if path is None:
            return Secret(new_secret(), generated=True)
        return _generate_into(path)
    if path is not None and given is not None:
        raise InvalidInput("secret=… and --secret-file are two secrets: give one")
    if path is not None:
        return Secret(_long_enough(read_secret_file(path), path))
    if isinstance(given, str):
        return Secret(_long_enough(given, "the file"))
    if ask or given is Wish.ASK:
        if session.prompts.present:
            await check()
        return Secret(await session.prompts.new_secret(owner))
    return Secret()


def _long_enough(secret: str, where: str) -> str:
    if len(secret) < MIN_SECRET:
        raise InvalidInput(f"the secret in {where} is too short: it needs {MIN_SECRET} characters at least")
    return secret


def _generate_into(path: str) -> Secret:
    """Make a secret up and write it first: one that is in use and that nobody knows would be worse than a spare one."""
    target, text = Path(path).expanduser(), new_secret()
    write_private(target, text + "\n")
    return Secret(text, generated=True, file=target)
