"""What `python -m dts` does for a newcomer once it serves: keeps the credentials, says which command to type next."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from pathlib import Path

from dts.client.credentials import CREDENTIALS_FILE

logger = logging.getLogger(__name__)

_MARK = "# written by python -m dts, which writes it anew at each start; without this line it is left alone\n"

_EXAMPLE = "text/upper"


def keep_credentials(username: str, secret_file: Path, url: str, file: Path = CREDENTIALS_FILE) -> bool:
    """Write where the administrator's secret is to where the commands look for it; whether they find it there now.

    A file that the user has written is left alone.
    """
    table = {"username": username, "secret_file": str(secret_file.absolute()), "url": url}
    text = _MARK + "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in table.items())
    try:
        path = file.expanduser()
        before = path.read_text(encoding="utf-8") if path.exists() else _MARK
        if not before.startswith(_MARK):
            return False
        if before != text:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(path, text)
    except (OSError, RuntimeError, UnicodeDecodeError) as error:  # RuntimeError: there is no home
        logger.warning("the credentials are not kept in %s: %s", file, error)
        return False
    return True


def next_steps(url: str, functions: Path | None, credentials: str) -> str:
    """What to type next; `credentials` are the flags that it takes, empty when the commands find them themselves."""
    name = next(iter(_names(functions)), _EXAMPLE) if functions else _EXAMPLE
    flags = f" {credentials}" if credentials else ""
    return (
        f"DTS serves on {url}. In another terminal, run a function on each line of a file:\n"
        f"  printf 'one\\ntwo\\n' | dts-client {name} - -{flags} {url}\n"
        f"and look round:\n"
        f"  dts-admin{flags} help"
    )


def _names(folder: Path) -> list[str]:
    return sorted(
        f"{path.parent.name}/{path.stem}"
        for path in folder.glob("*/*.py")
        if path.stem.isidentifier() and not path.stem.startswith("_")
    )


def _write(path: Path, text: str) -> None:
    """Replace a file, whole or not at all; mode 0600."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
