"""The DTS that this server runs, as a wheel: from its own files, however it was installed."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import dts
from dts.errors import ConfigError
from dts.version import __version__

DISTRIBUTION = "dts-scheduler"
_NAME = DISTRIBUTION.replace("-", "_")
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file: the same files make the same wheel, so that a host has it already."""

_WHEEL = b"Wheel-Version: 1.0\nGenerator: dts\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel, and the exact versions of what it needs as the server has them: a constraints file for pip."""

    name: str
    body: bytes
    constraints: str

    @property
    def digest(self) -> str:
        """SHA-256 of the wheel and its constraints, in hexadecimal digits."""
        return hashlib.sha256(self.body + self.constraints.encode()).hexdigest()


@cache
def own_wheel() -> Wheel:
    """The wheel of this server's DTS. Reads some 500 files, and then remembers it: call it in a thread.

    Raises:
        ConfigError: DTS runs from files that were not installed.
    """
    try:
        distribution = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError as error:
        raise ConfigError(f"{DISTRIBUTION} is not installed here, so it cannot be installed on hosts") from error
    package = Path(dts.__file__).parent
    files = {f"dts/{name}": body for name, body in _files_below(package)}
    info = f"{_NAME}-{__version__}.dist-info"
    files[f"{info}/METADATA"] = _metadata(distribution)
    files[f"{info}/WHEEL"] = _WHEEL
    files[f"{info}/entry_points.txt"] = (distribution.read_text("entry_points.txt") or "").encode()
    return Wheel(f"{_NAME}-{__version__}-py3-none-any.whl", _zipped(files, f"{info}/RECORD"), _constraints())


def _metadata(distribution: metadata.Distribution) -> bytes:
    """What a distribution says of itself; in a checkout the file has its older name.

    Raises:
        ConfigError: it says nothing.
    """
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO")
    if not text:
        raise ConfigError(f"{DISTRIBUTION} is installed here without its metadata: install it anew")
    return text.encode()


def _files_below(folder: Path, prefix: str = "") -> list[tuple[str, bytes]]:
    """The files of a folder with their names below it; also of folders that are links, as `etc` is in a checkout."""
    found: list[tuple[str, bytes]] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name != "__pycache__":
            found += _files_below(path, f"{prefix}{path.name}/")
        elif path.is_file():
            found.append((prefix + path.name, path.read_bytes()))
    return found


def _zipped(files: dict[str, bytes], record: str) -> bytes:
    rows = [f"{name},sha256={_digest(body)},{len(body)}" for name, body in sorted(files.items())]
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in [*sorted(files.items()), (record, "\n".join([*rows, f"{record},,", ""]).encode())]:
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, body)
    return target.getvalue()


def _digest(body: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()


def _constraints() -> str:
    """The versions of what DTS needs, and of what that needs, as they are installed here."""
    found: dict[str, str] = {}
    waiting = [DISTRIBUTION]
    while waiting:
        for requirement in metadata.requires(waiting.pop()) or ():
            name, _, marker = requirement.partition(";")
            name = re.split(r"[^A-Za-z0-9._-]", name.strip())[0].lower()
            if "extra" in marker or name in found:
                continue
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue  # not for this machine, as its marker says
            waiting.append(name)
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()))
