"""Where a command's user name and secret come from.

In this order: the flags, the environment, the file `~/.config/dts/credentials.toml`. A secret is only used with the
user name that it was given with, so `--username bob` never takes alice's from the file.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dts.auth import Credentials
from dts.errors import ConfigError, CredentialsMissing, InvalidName
from dts.model import check_user_id

CREDENTIALS_FILE = Path("~/.config/dts/credentials.toml")

HELP = """\
credentials, from the first of these that has them:
  --username NAME --secret-file FILE
  the environment: DTS_USERNAME with DTS_SECRET_FILE or DTS_SECRET
  ~/.config/dts/credentials.toml: username = "NAME" with secret_file = "FILE" or secret = "…"\
"""
"""For the help text of a command that takes credentials."""


@dataclass(frozen=True, slots=True)
class _Source:
    """One place to look in; what it does not say is None."""

    username: str | None
    secret: str | None
    secret_file: str | None

    @property
    def has_secret(self) -> bool:
        return self.secret is not None or self.secret_file is not None


def load_credentials(
    username: str | None = None,
    secret_file: str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    file: Path = CREDENTIALS_FILE,
) -> Credentials:
    """The credentials of whoever runs the command; `username` and `secret_file` are its flags.

    Raises:
        CredentialsMissing: there are none, or they are incomplete; says what to do.
        ConfigError: a file cannot be read, or the name cannot be a user's.
    """
    variables = os.environ if environment is None else environment
    flags = _Source(username, None, secret_file)
    given = _Source(*(variables.get(f"DTS_{name}") or None for name in ("USERNAME", "SECRET", "SECRET_FILE")))
    sources = [flags, given]
    if not (any(each.username for each in sources) and _with_secret(sources)):
        sources.append(_source_in(file))
    name = next((each.username for each in sources if each.username), None)
    source = _with_secret(sources)
    if name is None or source is None:
        missing = "user name" if name is None else f"secret for {name}"
        raise CredentialsMissing(f"no {missing} is given. Give {HELP}")
    try:
        check_user_id(name)
    except InvalidName as error:
        raise ConfigError(error.message) from error
    return Credentials(name, _secret_of(source))


def _with_secret(sources: list[_Source]) -> _Source | None:
    """The first source that has a secret for the user that the first name names."""
    name = next((each.username for each in sources if each.username), None)
    return next((each for each in sources if each.has_secret and each.username in (None, name)), None)


def _secret_of(source: _Source) -> str:
    """A file goes before a secret that is spelled out, as it does in the documentation."""
    if source.secret_file is None:
        secret = source.secret or ""
        place = "DTS_SECRET or the credentials file"
    else:
        place = source.secret_file
        try:
            secret = Path(source.secret_file).expanduser().read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the secret from {place}: {error}") from error
    if not secret:
        raise ConfigError(f"the secret in {place} is empty")
    return secret


def load_server_url(*, environment: Mapping[str, str] | None = None, file: Path = CREDENTIALS_FILE) -> str | None:
    """The server to talk to when a command is not told: DTS_SERVER_URL, else `url` in the credentials file, else None.

    Raises:
        ConfigError: the file cannot be read.
    """
    variables = os.environ if environment is None else environment
    return variables.get("DTS_SERVER_URL") or _read_file(file.expanduser()).get("url")


def _source_in(file: Path) -> _Source:
    table = _read_file(file.expanduser())
    return _Source(table.get("username"), table.get("secret"), table.get("secret_file"))


def _read_file(path: Path) -> dict[str, str]:
    """The table in a credentials file; {} when there is none."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    unknown = sorted(table.keys() - {"username", "secret", "secret_file", "url"})
    if unknown or not all(isinstance(value, str) for value in table.values()):
        raise ConfigError(f"{path} may have username, secret, secret_file and url, each a string" + _listed(unknown))
    return table


def _listed(unknown: list[str]) -> str:
    return f"; it has {', '.join(unknown)}" if unknown else ""
